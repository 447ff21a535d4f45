package gossip

import "sync/atomic"

// Stats are counts since the start.
type Stats struct {
	// Reached counts the successful contacts with a seed or known peer.
	Reached uint64 `json:"reached"`
	// OtherKey counts what could not be decrypted, or was not encrypted.
	OtherKey uint64 `json:"other_key"`
	// OtherCluster counts what came from another cluster.
	OtherCluster uint64 `json:"other_cluster"`
	// Conflicts counts the contradictions about who has a name.
	Conflicts uint64 `json:"conflicts"`
	// Sent counts payloads handed to the network, Failed those that it refused.
	Sent   uint64 `json:"sent"`
	Failed uint64 `json:"failed"`
	// Unknown counts payloads for a node that is no member.
	Unknown uint64 `json:"unknown"`
	// Oversize counts payloads above MaxPayload.
	Oversize uint64 `json:"oversize"`
	// QueueDrops counts the oldest payloads dropped from a peer's full queue.
	QueueDrops uint64 `json:"queue_drops"`
	// Overflow counts received messages that memberlist dropped unread.
	Overflow uint64 `json:"overflow"`
	// Malformed counts received messages that were not understood.
	Malformed uint64 `json:"malformed"`
	// Surplus counts the connections that were closed, because too many were open.
	Surplus uint64 `json:"surplus"`
	// Health is memberlist's view of this node's own timeliness: 0 is good, 1
	// means that its probes fail and are given twice the time.
	Health int `json:"health"`
}

type counts struct {
	reached, otherKey, otherCluster, conflicts, sent, failed, unknown, oversize, queueDrops, overflow, malformed atomic.Uint64
}

// Stats returns the counts.
func (g *Gossip) Stats() Stats {
	c := &g.counts
	return Stats{
		Reached:      c.reached.Load(),
		OtherKey:     c.otherKey.Load(),
		OtherCluster: c.otherCluster.Load(),
		Conflicts:    c.conflicts.Load(),
		Sent:         c.sent.Load(),
		Failed:       c.failed.Load(),
		Unknown:      c.unknown.Load(),
		Oversize:     c.oversize.Load(),
		QueueDrops:   c.queueDrops.Load(),
		Overflow:     c.overflow.Load(),
		Malformed:    c.malformed.Load(),
		Surplus:      g.transport.surplus.Load(),
		Health:       g.list.GetHealthScore(),
	}
}
