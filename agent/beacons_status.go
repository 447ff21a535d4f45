package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// What `peervip status` says of the lease.
const (
	LeaseHeld    = "held"    // this node may serve
	LeaseWaiting = "waiting" // it wants to and must be silent, until its peers have heard it
	LeaseNone    = "none"    // it does not want to
)

// NodeBeacons is what is heard of one node.
type NodeBeacons struct {
	Standing string        `json:"standing"`       // unheard, alive, dead or refused
	Wire     *MediumStatus `json:"wire,omitempty"` // nil: nothing was heard there
	Unicast  *MediumStatus `json:"unicast,omitempty"`
	// Acked is how old the last beacon of the answering node is that this one says to
	// have heard; nil: none.
	Acked *float64 `json:"acked_ms,omitempty"`
	// Waits: the answering node's lease waits for this one.
	Waits bool `json:"waits"`
	// HoldsDead: it says that the answering node is dead.
	HoldsDead bool `json:"holds_dead,omitempty"`
}

// MediumStatus is what comes on one of the two media.
type MediumStatus struct {
	Heard float64 `json:"heard_ms"` // how long ago the last beacon came
}

// PausesStatus counts how often this node's lease ran out though it served.
type PausesStatus struct {
	Count   uint64  `json:"count"`
	Longest float64 `json:"longest_ms"`
	Last    float64 `json:"last_ms"`               // how long the last one was
	LastAgo float64 `json:"last_ago_ms,omitempty"` // when it ended
}

// BeaconsStatus is what became of beacons since the start.
type BeaconsStatus struct {
	// Class is how the thread that sends is scheduled; Untuned why it is not better, or
	// what else was refused that keeps beacons on time.
	Class   string `json:"class"`
	Untuned string `json:"untuned,omitempty"`
	// LateMax is by how much the worst beacon was late, Late how many by how much, and
	// Skipped how many by more than the interval.
	LateMax float64     `json:"late_max_ms"`
	Late    []LateCount `json:"late"`
	Skipped uint64      `json:"skipped"`

	// Format is the one that this node's beacons are written in. FormatFor is a node that
	// keeps it from a later one which this program reads, if there is one.
	Format    int    `json:"format"`
	FormatFor string `json:"format_for,omitempty"`
	// Packet is the length of the last beacon as an IP packet.
	Packet int `json:"packet_bytes"`

	Sent     BeaconsSent     `json:"sent"`
	Received BeaconsReceived `json:"received"`
	// Heard are those with a good signature, by what they meant; Faults the others,
	// which were dropped, by what was wrong.
	Heard  map[string]uint64 `json:"heard"`
	Faults map[string]uint64 `json:"faults"`
	// Kernel is what the packet filter let through, or not, by the source's address.
	Kernel BeaconsKernel `json:"kernel"`
}

// LateCount is how many beacons were late by up to so much, and by more than the one
// before. The last has no bound.
type LateCount struct {
	UpTo  float64 `json:"up_to_ms,omitempty"`
	Count uint64  `json:"count"`
}

// BeaconsSent counts beacons that left.
type BeaconsSent struct {
	Wire     uint64 `json:"wire"`
	Unicast  uint64 `json:"unicast"`
	Marked   uint64 `json:"marked"`   // to prolong the lease
	Extra    uint64 `json:"extra"`    // out of turn, for a change
	Withheld uint64 `json:"withheld"` // none was sent: the agent made no progress, or was mute
	Stale    uint64 `json:"stale"`    // were to be marked and were too late for it
	Failed   uint64 `json:"failed"`
	Error    string `json:"error,omitempty"` // why the last one failed
}

// BeaconsReceived counts what came to the sockets.
type BeaconsReceived struct {
	Wire      uint64 `json:"wire"`
	Unicast   uint64 `json:"unicast"`
	Own       uint64 `json:"own"`      // came from this node's address
	Far       uint64 `json:"far"`      // came over a router
	Overflows uint64 `json:"overflow"` // found no room
}

// BeaconsKernel counts what came to the interface.
type BeaconsKernel struct {
	Members map[string]uint64 `json:"members"`
	Unknown uint64            `json:"unknown"` // of other addresses
	Excess  uint64            `json:"excess"`  // too many of them, and dropped
	Foreign uint64            `json:"foreign"` // over a router, in fragments, or not to the cluster MAC: dropped
}

func ms(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// outlook is all that beacons know, at one moment.
type outlook struct {
	now      node.Time
	herald   node.HeraldStatus
	line     link.BeaconStatus
	heard    map[string]uint64
	faults   map[string]uint64
	filtered string // what of the host keeps the wire's beacons from the agent; "": nothing
}

func (b *beacons) outlook() outlook {
	o := outlook{line: b.line.Status(), heard: map[string]uint64{}, faults: map[string]uint64{}}
	b.mu.Lock()
	o.now = b.now()
	o.herald = b.herald.Status(o.now)
	o.filtered = b.filtering.why(b.port, b.vip)
	b.mu.Unlock()
	for kind := range b.kinds {
		if n := b.kinds[kind].Load(); n > 0 {
			o.heard[node.HearingKind(kind).String()] = n
		}
	}
	for fault := range b.faults {
		if n := b.faults[fault].Load(); n > 0 {
			o.faults[node.BeaconFault(fault).String()] = n
		}
	}
	return o
}

// own is how many of this node's own beacons the sockets got.
func (o *outlook) own() uint64 {
	return o.heard[node.HeardOwn.String()] + o.line.Wire.Own + o.line.Unicast.Own
}

// tell adds to the status what beacons know.
func (o *outlook) tell(s *Status, untuned error) {
	switch {
	case o.herald.Held:
		s.Lease = LeaseHeld
	case o.herald.Wanted:
		s.Lease = LeaseWaiting
	}
	p := o.herald.Lapses
	s.Pauses = PausesStatus{Count: p.Count, Longest: ms(p.Longest), Last: ms(p.LastFor)}
	if p.Count > 0 {
		s.Pauses.LastAgo = ms(o.now - p.Last)
	}
	for i := range s.Nodes {
		s.Nodes[i].Beacons = o.of(s.Nodes[i].Name)
	}
	line := &o.line
	b := BeaconsStatus{
		Format: int(o.herald.Format), FormatFor: o.herald.FormatFor, Packet: line.Packet,
		Class: line.Class.String(), LateMax: ms(line.Lateness.Max), Skipped: line.Lateness.Skipped,
		Sent: BeaconsSent{
			Wire: line.Wire.Sent, Unicast: line.Unicast.Sent, Marked: line.Marked, Extra: line.Extra, Withheld: line.Withheld, Stale: line.Stale,
			Failed: line.Wire.Dropped + line.Wire.Failed + line.Unicast.Dropped + line.Unicast.Failed,
		},
		Received: BeaconsReceived{
			Wire: line.Wire.Received, Unicast: line.Unicast.Received, Own: line.Wire.Own + line.Unicast.Own,
			Far: line.Wire.WrongTTL, Overflows: line.Wire.Overflows + line.Unicast.Overflows,
		},
		Heard: o.heard, Faults: o.faults, Kernel: BeaconsKernel{Members: map[string]uint64{}},
	}
	for i, n := range line.Lateness.Counts {
		late := LateCount{Count: n}
		if i < len(link.LatenessBounds) {
			late.UpTo = ms(link.LatenessBounds[i])
		}
		b.Late = append(b.Late, late)
	}
	for _, err := range []error{line.Wire.LastError, line.Unicast.LastError} {
		if err != nil {
			b.Sent.Error = err.Error()
		}
	}
	why := []string{line.ClassReason, line.Cramped}
	if untuned != nil {
		why = append(why, strings.ReplaceAll(untuned.Error(), "\n", "; "))
	}
	b.Untuned = strings.Join(slices.DeleteFunc(why, func(s string) bool { return s == "" }), "; ")
	s.Beacons = b
}

// of is what is heard of a node: of the incarnation that has the name.
func (o *outlook) of(name string) *NodeBeacons {
	var found *node.NeighbourStatus
	for i := range o.herald.Neighbours {
		if n := &o.herald.Neighbours[i]; n.Name == name && (found == nil || n.Standing < found.Standing || n.Standing == node.Alive) {
			found = n
		}
	}
	if found == nil {
		return nil
	}
	b := &NodeBeacons{Standing: found.Standing.String(), Waits: found.Waits, HoldsDead: found.HoldsDead}
	medium := func(m node.Medium) *MediumStatus {
		if found.Heard[m] == node.Never {
			return nil
		}
		return &MediumStatus{ms(max(found.Heard[m], 0))} // the clock of silences stands while something waits to be read
	}
	b.Wire, b.Unicast = medium(node.Wire), medium(node.Unicast)
	if found.Acked != node.Never {
		acked := ms(found.Acked)
		b.Acked = &acked
	}
	return b
}

// countBeacons adds the kernel's counters.
func (s *Status) countBeacons(c nft.BeaconCounters) {
	for addr, n := range c.BySource {
		s.Beacons.Kernel.Members[addr.String()] = n.Packets
	}
	s.Beacons.Kernel.Unknown, s.Beacons.Kernel.Excess, s.Beacons.Kernel.Foreign = c.Unknown.Packets, c.Excess.Packets, c.Foreign.Packets
}

// beaconTrends is what was counted of beacons lately. It belongs to the loop.
type beaconTrends struct {
	pauses, noise, late, failed, overflow, crowded trend
}

// beaconProblems says what is wrong with beacons and the lease, in words.
func (l *loop) beaconProblems(attached bool, o outlook, list *problemList) {
	add := list.add
	h, t, port := &o.herald, &l.news.beacons, l.cfg.BeaconPort
	var waits, unicast []string
	hears := false // somebody on the wire
	for _, n := range h.Neighbours {
		if n.Waits {
			waits = append(waits, n.Name)
		}
		// Where the wire fails every beacon goes by unicast too, and after a death none.
		if n.Heard[node.Unicast] != node.Never && n.Heard[node.Unicast] < l.cfg.Spec.Detect.Time() {
			unicast = append(unicast, n.Name)
		}
		hears = hears || n.Heard[node.Wire] != node.Never && n.Heard[node.Wire] < l.cfg.Spec.Detect.Time()
		if n.Clone {
			add("two machines run as %s at the same time: give one of the two another name", n.Name)
		}
	}
	switch {
	case !h.Wanted || h.Held || h.Muted:
	case len(waits) > 0:
		add("this node is silent: its lease waits until %s has heard it", strings.Join(waits, " and "))
	case h.Barred != "":
		add("this node is silent: %s", h.Barred)
	default:
		add("this node is silent: its lease is not armed yet; if this lasts, its log says why")
	}
	if n := h.Lapses.Count; t.pauses.grew(n, o.now) {
		add("this node had to be silent, the last time for %v (pauses since its start: %d): beacons get lost on the way, or come late", h.Lapses.LastFor.Round(time.Millisecond), n)
	}
	switch {
	case !attached, h.Muted: // nothing comes to an address that is not there
	case o.filtered != "":
		if h.CutOff {
			o.filtered += "; this node is cut off by it, and its buckets go to the others"
		}
		list.addAlert("its own host keeps the wire's beacons from this node", "%s", o.filtered)
	case h.CutOff:
		list.addLogged("this node is cut off: no peer hears it on the wire, or it hears none there, though others do; its buckets go to them: look at its switch port, and at firewalls on its way")
	case !h.WireProof && !h.OthersProof && !hears && len(unicast) > 0:
		list.addAlert("no beacon comes on the wire", "no beacon comes on the wire, of nobody to anybody, though they come by unicast: clients' packets come the same way. Look for IGMP snooping or another reason why the switch does not pass frames to the cluster MAC (docs/operating.md, \"Switches and routers\"), and for firewalls that drop UDP to port %d of %s", port, l.cfg.Spec.VIPs[0])
	}
	if n := l.beacons.outside.heard(); t.noise.grew(n.count, o.now) {
		add("datagrams come to the beacon port that no node of this cluster has made (they differ by %s), the last from %s, %d a second, %d since the start: look at what runs there, or keep it out; somebody may forge them",
			strings.Join(n.differs.Names(), " and "), n.from, l.news.noiseRate.of(n.count, o.now), n.count)
	}
	if n := o.heard[node.HeardCrowded.String()]; t.crowded.grew(n, o.now) {
		add("beacons of more than %d nodes come, and some found no place here (%s): a cluster has at most %d, or somebody sends recorded beacons again", node.MaxBeaconPeers, node.Count(n, "beacons"), node.MaxBeaconPeers)
	}
	if late := o.line.Lateness; t.late.grew(late.Skipped, o.now) {
		add("beacons leave late, the last time by %v: this machine is too busy (the thread that sends them is scheduled as %s)", late.LastSkip.Round(time.Millisecond), o.line.Class)
	}
	switch line := o.line; {
	case line.MTU == 0:
	case line.Packet > line.MTU:
		list.addAlert("beacons are too long for the interface", "a beacon is an IP packet of %d bytes, and the MTU of %s is %d, so that none leaves: raise it%s", line.Packet, l.cfg.Interface, line.MTU, inLessBytes(h))
	case line.Packet > line.MTU*9/10:
		add("a beacon is an IP packet of %d bytes, and the MTU of %s is %d: a few nodes more, and none leaves: raise it%s", line.Packet, l.cfg.Interface, line.MTU, inLessBytes(h))
	}
	failed := o.line.Wire.Dropped + o.line.Wire.Failed
	if t.failed.grew(failed, o.now) && l.link.OK {
		add("%s could not be sent on the wire, the last one: %v", node.Count(failed, "beacons"), o.line.Wire.LastError)
	}
	if n := o.line.Wire.Overflows + o.line.Unicast.Overflows; t.overflow.grew(n, o.now) {
		add("%s found no room in their socket: this node is flooded, or could not keep up", node.Count(n, "beacons"))
	}
}

// inLessBytes names the node for whose sake beacons are longer than they have to be.
func inLessBytes(h *node.HeraldStatus) string {
	if h.FormatFor == "" {
		return ""
	}
	return fmt.Sprintf(", or run a newer version on %s, which reads format %d at the most", h.FormatFor, h.Format)
}
