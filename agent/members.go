package agent

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/node"
)

// What gossip tells the loop, and what comes by letter in its place.

// Event takes what gossip hears; see gossip.Handler.
func (l *loop) Event(ev gossip.Event) {
	switch ev.(type) {
	case gossip.Message, gossip.State, gossip.Conflict: // are repeated
		l.queue.offer(func() { l.heard(ev) })
	default:
		l.queue.put(func() { l.heard(ev) })
	}
}

func (l *loop) heard(ev gossip.Event) {
	switch ev := ev.(type) {
	case gossip.Alive:
		l.alive(ev.Member)
	case gossip.Dead:
		l.news.forget(ev.Name)
		l.strays.member(ev.Name, 0)
		l.ways.forget(ev.Name)
		l.gather(node.PeerDead{Name: ev.Name, Left: ev.Left})
		if ev.Left {
			l.rememberPeers()
		}
	case gossip.Message:
		l.read(ev.Payload, false)
	case gossip.State:
		told, err := decodeExchange(ev.Payload)
		if err != nil {
			l.log.Debug("a state exchange was dropped", "error", err)
			return
		}
		if told.unread != nil {
			l.log.Debug("a part of a state exchange was dropped", "from", told.name, "error", told.unread)
		}
		if told.spec != nil {
			l.news.toldSpec(told.name, *told.spec)
		}
		for _, m := range told.messages {
			l.gather(node.Received{Message: m})
		}
	case gossip.Conflict:
		if l.isConflict(ev.Name) && l.news.conflict(ev, l.now()) {
			l.log.Error("two nodes have one name; give one of the two another", "name", ev.Name, "known", ev.Known, "other", ev.Other)
		}
	case gossip.Attempt:
		l.attempted(ev)
	}
}

// isConflict says whether two living nodes have that name. A member that beacons do not
// show alive is none: it may be the same node, back at another address before gossip has
// found its former life dead. A node that was refused for its name says so itself.
func (l *loop) isConflict(name string) bool {
	if name == l.cfg.Name {
		return l.served
	}
	return l.strays.alive[node.Incarnation{Name: name, Nonce: l.strays.members[name]}]
}

// read takes a message of a peer.
func (l *loop) read(payload []byte, letter bool) {
	m, err := node.Decode(payload)
	if err != nil {
		l.log.Debug("a message was dropped", "error", err)
		return
	}
	l.ways.got(cmp.Or(m.Via, m.From.Name), l.now(), letter)
	l.gather(node.Received{Message: m})
}

// deliver takes a message that came by a letter, from any goroutine.
func (l *loop) deliver(payload []byte) { l.queue.offer(func() { l.read(payload, true) }) }

// alive takes a member. Of one that cannot be understood the core learns no more than that
// it is there.
func (l *loop) alive(m gossip.Member) {
	event, err := peerAlive(m)
	if err != nil {
		if l.news.strange[m.Name] == "" {
			l.log.Warn("a member cannot be understood", "node", m.Name, "error", err)
		}
		l.news.strange[m.Name] = err.Error()
		l.gather(node.PeerUnreadable{Name: m.Name, Address: m.Addr.Addr().Unmap(), Why: err.Error()})
		return
	}
	l.news.announced(m.Name, event.SpecDigest)
	l.strays.member(m.Name, event.Nonce)
	l.gather(event)
	l.rememberPeers()
}

// attempted learns the outcome of a round of joining. Before the node has served, a
// seed that refuses it keeps it joining: it must not start alone beside a
// cluster that it cannot join. One that has served, or has met members (who are not
// asked again), is not stopped by a stranger among its seeds.
func (l *loop) attempted(ev gossip.Attempt) {
	l.settle() // its phase counts
	l.news.joinErr = l.unreached(ev.Err)
	joining := l.core.Bulletin().Phase == node.Joining && !l.served
	alone := ev.Reached == 0 && len(l.strays.members) == 0
	why := fmt.Sprintf("joining the cluster %q is refused, and tried again: %v", l.cfg.Cluster, ev.Err)
	l.refused = ""
	otherKey := node.OtherKey{}
	switch {
	case joining && errors.Is(ev.Err, gossip.ErrNameTaken):
		l.refused = why
	case joining && alone && errors.Is(ev.Err, gossip.ErrWrongKey):
		// The core knows whether these nodes are on the wire.
		otherKey = node.OtherKey{Why: why, Seeds: withOtherKey(ev.Err)}
	}
	if l.refused+otherKey.Why != "" {
		l.news.joinErr = nil // it is the same
	}
	l.wireChanged()
	if otherKey.Why != l.otherKey.Why || !slices.Equal(otherKey.Seeds, l.otherKey.Seeds) {
		l.otherKey = otherKey
		l.step(otherKey)
	}
	if l.refused == "" {
		l.step(node.SeedsTried{})
	}
}

// withOtherKey are the addresses of the seeds that have another key.
func withOtherKey(err error) (addrs []netip.Addr) {
	var errs gossip.SeedErrors
	errors.As(err, &errs)
	for _, e := range errs {
		if errors.Is(e, gossip.ErrWrongKey) {
			addrs = append(addrs, e.Addr.Addr())
		}
	}
	return addrs
}

// unreached leaves out the members of the past that are not there, if there are others:
// they are dead, which is told of those who died in this node's life.
func (l *loop) unreached(err error) error {
	var errs gossip.SeedErrors
	if len(l.strays.members) == 0 || !errors.As(err, &errs) {
		return err
	}
	errs = slices.DeleteFunc(slices.Clone(errs), func(e *gossip.SeedError) bool {
		return e.Lost && !errors.Is(e, gossip.ErrWrongKey) && !errors.Is(e, gossip.ErrNameTaken)
	})
	if len(errs) == 0 {
		return nil
	}
	return errs
}

// rememberPeers keeps the members' addresses for the next start.
func (l *loop) rememberPeers() {
	peers := l.known()
	if !slices.Equal(peers, l.memory.Peers) {
		l.memory.Peers = peers
		l.saver.save(l.memory)
	}
}
