package node

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// The simulator's flows without connections, under `linger: all`: clients that send
// datagrams from one port, kernels that know flows for a while and have lists.

// simForgets is how long a kernel knows a flow after its last packet. No client is
// silent for so long, but those that have ended.
const simForgets = 3 * time.Second

// talks is the part of the world that has to do with them.
type talks struct {
	wholes   bool // all services linger whole
	talkers  [][]*simTalk
	tables   []simTable // by node
	lastTalk uint32
	// strictHome makes it a fault that a flow moves away from a living node.
	strictHome bool
	// silenceLimit makes it a fault, if it is not 0, that nobody answers a flow for
	// longer though its bucket has an owner.
	silenceLimit Time
	badLists     float64 // how often flows cannot be listed
	homesLost    int
	listed       int // flows that commits have listed
}

// simTable is what one node's kernel knows of flows: until when, and the lists by
// slot.
type simTable struct {
	known map[Flow]Time
	lists map[Slot]map[Flow]bool
}

// simTalk is one client's flow, at the node that answered it last.
type simTalk struct {
	flow Flow
	slot Slot
	home *simNode
	life uint64 // of the home
	// answered last, or when there was nobody who could
	answered Time
	ends     Time
}

// lingerWhole makes every service linger whole. It comes before the first start.
func (w *world) lingerWhole() *world {
	w.wholes = true
	w.talkers = make([][]*simTalk, w.buckets*w.services)
	w.tables = make([]simTable, len(w.nodes))
	for i := range w.tables {
		w.tables[i] = simTable{map[Flow]Time{}, map[Slot]map[Flow]bool{}}
	}
	return w
}

// talk begins a flow every so often, for a while. Each sends a datagram every 50 to
// 450 ms, whether it is answered or not, and most end after some seconds.
func (w *world) talk(every, during Time) {
	end := w.now + during
	var open func()
	open = func() {
		w.lastTalk++
		id := w.lastTalk
		t := &simTalk{slot: w.rng.IntN(len(w.talkers)), ends: w.now + w.randomly(6*time.Second)}
		t.flow = Flow{
			Protocol: 17, Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(id >> 16), byte(id >> 8), byte(id)}), 1000),
			VIP: netip.MustParseAddrPort("192.0.2.100:443"),
		}
		w.talkers[t.slot] = append(w.talkers[t.slot], t)
		w.datagram(t)
		if w.now < end {
			w.at(w.randomly(2*every), open)
		}
	}
	open()
}

// datagram is one packet of the flow, and the next.
func (w *world) datagram(t *simTalk) {
	if w.now >= t.ends {
		w.endTalk(t)
		return
	}
	takers := w.takers(t)
	if len(takers) > 0 || t.answered == 0 || w.owners[t.slot] != 1 {
		t.answered = w.now
	}
	if w.silenceLimit > 0 && w.now > t.answered+w.silenceLimit {
		w.fault("nobody answers a flow of slot %d for %v", t.slot, w.now-t.answered)
		t.answered = w.now
	}
	for _, n := range takers {
		w.tables[n.index].known[t.flow] = w.now + simForgets
		if t.home != n && t.home != nil {
			w.moved(t, n)
		}
		t.home, t.life = n, n.boot
	}
	// A server that has the flow may go on to send, whoever serves it now.
	if w.rng.IntN(4) == 0 {
		for i, n := range w.nodes {
			if w.tables[i].known[t.flow] > w.now && n.core != nil {
				w.tables[i].known[t.flow] = w.now + simForgets
			}
		}
	}
	w.at(50*ms+w.randomly(400*ms), func() { w.datagram(t) })
}

func (w *world) endTalk(t *simTalk) {
	for i, o := range w.talkers[t.slot] {
		if o == t {
			w.talkers[t.slot] = append(w.talkers[t.slot][:i], w.talkers[t.slot][i+1:]...)
			return
		}
	}
}

// moved: the flow is answered by another node than before.
func (w *world) moved(t *simTalk, to *simNode) {
	if t.home.core == nil || t.home.boot != t.life || t.home.core.phase == Leaving && t.home.lastOne {
		return
	}
	w.homesLost++
	w.log("a flow of slot %d moves from %s (there %s) to %s", t.slot, t.home.name, t.home.states[t.slot], to.name)
	if w.strictHome && !t.home.core.forced { // a node drained by force gives to nobody
		w.fault("a flow of slot %d moves from %s, which lives (there %s), to %s", t.slot, t.home.name, t.home.states[t.slot], to.name)
	}
}

// takers are the nodes whose kernels accept a datagram of the flow now: the rules of
// package nft for the four states, and for the one in between.
func (w *world) takers(t *simTalk) (takers []*simNode) {
	for i, n := range w.nodes {
		if n.core == nil || !n.leased {
			continue
		}
		listed := w.tables[i].lists[t.slot][t.flow]
		known := w.tables[i].known[t.flow] > w.now
		var takes bool
		switch n.states[t.slot] {
		case Own:
			takes = true
		case Adopt:
			takes = !listed
		case Yield:
			takes = known && !listed
		case Linger, Wary:
			takes = listed
		}
		if takes {
			takers = append(takers, n)
		}
	}
	if a, b := w.unexcused(takers); a != nil && w.strict {
		w.fault("invariant 1: a flow of slot %d is answered by %s (there %s) and %s (there %s)",
			t.slot, a.name, a.states[t.slot], b.name, b.states[t.slot])
	}
	return takers
}

// judgeTalks looks who accepts what, whether somebody sends at the moment or not.
func (w *world) judgeTalks() {
	for _, talkers := range w.talkers {
		for _, t := range talkers {
			w.takers(t)
		}
	}
}

// unlistAll: a bucket that changes its state has an empty list.
func (w *world) unlistAll(n *simNode, slot Slot) {
	if w.wholes {
		delete(w.tables[n.index].lists, slot)
	}
}

// relist is what a transaction does to the lists when the states have changed.
func (w *world) relist(n *simNode, c Commit) {
	if !w.wholes {
		if len(c.List) > 0 || len(c.Unlist) > 0 {
			w.fault("%s lists flows, and nothing lingers whole", n.name)
		}
		return
	}
	lists := w.tables[n.index].lists
	for _, f := range c.Unlist {
		for slot := range lists {
			delete(lists[slot], f)
		}
	}
	for _, f := range c.List {
		slot, known := w.slotOf(f)
		if !known {
			continue // the flow has ended
		}
		if s := n.states[slot]; s == Own || s == None {
			w.fault("%s lists a flow of slot %d, which is %s", n.name, slot, s)
		}
		if lists[slot] == nil {
			lists[slot] = map[Flow]bool{}
		}
		lists[slot][f] = true
		w.listed++
	}
	w.judgeTalks()
}

func (w *world) slotOf(f Flow) (Slot, bool) {
	for slot, talkers := range w.talkers {
		for _, t := range talkers {
			if t.flow == f {
				return slot, true
			}
		}
	}
	return 0, false
}

// listFlows answers a node that lists what its kernel knows.
func (w *world) listFlows(n *simNode, e ListFlows) {
	core := n.core
	w.at(ms/10+w.randomly(w.net.list), func() {
		if n.core != core {
			return
		}
		if w.rng.Float64() < w.badLists {
			w.step(n, FlowsListed{Err: errors.New("simulated failure")})
			return
		}
		var answer FlowsListed
		found := 0
		for slot := range e.Slots.All() {
			var flows FlowList
			for _, t := range w.talkers[slot] {
				if w.tables[n.index].known[t.flow] <= w.now {
					continue
				}
				if found == e.Most {
					answer.Beyond++
					continue
				}
				flows, found = append(flows, t.flow), found+1
			}
			if len(flows) > 0 {
				answer.Slots = append(answer.Slots, SlotFlows{slot, flows})
			}
		}
		w.step(n, answer)
	})
}

// talksOf adds the slots in which the node's kernel knows such flows.
func (w *world) talksOf(n *simNode, set hashring.Set) {
	if !w.wholes {
		return
	}
	for slot, talkers := range w.talkers {
		for _, t := range talkers {
			if w.tables[n.index].known[t.flow] > w.now {
				set.Add(slot)
			}
		}
	}
}

// cutTalks: a node has given up its flows of the slots, or all.
func (w *world) cutTalks(n *simNode, slots hashring.Set) {
	for slot, talkers := range w.talkers {
		for _, t := range talkers {
			if t.home == n && (slots.Empty() || slots.Has(slot)) {
				t.home = nil
			}
		}
	}
}

// settleLists checks after quiet that nothing is left of any list.
func (w *world) settleLists(n *simNode) {
	l := &n.core.lists
	if !l.yielding.Empty() || !l.kernelYield.Empty() || l.open || len(l.mine) > 0 || len(l.theirs) > 0 ||
		len(l.asks) > 0 || len(l.kernel) > 0 || l.void || !l.missing.Empty() || !l.kernelWary.Empty() || l.since != 0 {
		w.fault("invariant 5: %s still has lists: %+v", n.name, *l)
	}
	for _, p := range n.core.peers {
		for _, k := range p.announced {
			if p.said == nil || k.Version > p.said.Version {
				w.fault("invariant 5: %s still waits for a statement of %s that shows a list", n.name, p.Name)
			}
		}
	}
}

// whole is a world at rest whose services linger whole.
func whole(seed uint64, tracing bool, nodes int) *world {
	w := someWorld(seed, tracing, nodes).lingerWhole()
	for _, n := range w.nodes {
		w.start(n)
	}
	w.run(8 * time.Second)
	w.settle()
	w.forgetPast()
	return w
}

// TestPlannedChangesOfTalkativeFlows: under planned changes no datagram is answered
// twice, and no flow leaves a living node.
func TestPlannedChangesOfTalkativeFlows(t *testing.T) {
	forSeeds(t, 2, func(seed uint64, tracing bool) *world {
		w := whole(seed, tracing, 2+int(seed%4))
		w.strictHome, w.silenceLimit = !w.dropUnhealthy, time.Second
		w.talk(25*ms, 15*time.Second)
		return plannedChanges(w, calmNet(), oneHandoff)
	})
}

// TestMishapsAmongTalkativeFlows: no stall or death of a keeper, an adopter, or of
// both, and nothing that is lost, has a datagram answered twice.
func TestMishapsAmongTalkativeFlows(t *testing.T) {
	forSeeds(t, 2, func(seed uint64, tracing bool) *world {
		w := whole(seed, tracing, 2+int(seed%4))
		if seed%3 == 0 {
			w.net = roughNet()
		}
		w.judgeAll()
		w.talk(30*ms, 15*time.Second)
		for range 12 {
			w.mishap()
			w.someTime(1500 * ms)
		}
		w.beaconLoss = 0
		w.quiet()
		return w
	})
}

// TestPartitionsAmongTalkativeFlows: nothing is left of any list after splits.
func TestPartitionsAmongTalkativeFlows(t *testing.T) {
	forSeeds(t, 4, func(seed uint64, tracing bool) *world {
		w := whole(seed, tracing, 3+int(seed%4))
		w.talk(30*ms, 20*time.Second)
		return w.partitions()
	})
}

// TestPlannedChangesOfTalkativeFlowsOverABadNetwork: nor twice when lists and grants
// are lost, late, repeated and overtaken, or cannot be made.
func TestPlannedChangesOfTalkativeFlowsOverABadNetwork(t *testing.T) {
	forSeeds(t, 2, func(seed uint64, tracing bool) *world {
		w := whole(seed, tracing, 2+int(seed%4))
		if seed%2 == 0 {
			w.badLists = 0.1
		}
		w.talk(25*ms, 15*time.Second)
		return plannedChanges(w, roughNet(), 10*time.Second)
	})
}
