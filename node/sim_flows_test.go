package node

import (
	"slices"
	"time"

	"github.com/peervip/peervip/hashring"
)

// simDrainTimeout is longer than any simulated flow, so that only a test that
// wants it sees flows cut.
const simDrainTimeout = 7 * time.Second

// simFlow is a client's connection to the node that accepted it.
type simFlow struct {
	slot Slot
	home *simNode
	ends Time
}

// clients opens a flow every so often, for a while: at the node that takes new
// flows of a random slot, if there is exactly one.
func (w *world) clients(every, during Time) {
	end := w.now + during
	var open func()
	open = func() {
		slot := w.rng.IntN(len(w.owners))
		if w.owners[slot] == 1 {
			for _, n := range w.nodes {
				if n.kernel.Has(slot) {
					f := &simFlow{slot: slot, home: n, ends: w.now + w.randomly(5*time.Second)}
					w.flows[slot] = append(w.flows[slot], f)
					w.at(f.ends-w.now, func() { w.endFlows(slot, func(o *simFlow) bool { return o == f }) })
				}
			}
		}
		if w.now < end {
			w.at(w.randomly(2*every), open)
		}
	}
	open()
}

// judgeLoss is what a change of a node's kernel does to the flows that live there:
// it accepts them in every state but none.
func (w *world) judgeLoss(n *simNode, slot Slot, next State) {
	if next != None || n.core == nil || n.core.phase.Going() && n.forlorn {
		return
	}
	lost := w.endFlows(slot, func(f *simFlow) bool { return f.home == n })
	if lost > 0 && w.strictFlows {
		w.fault("invariant 4: %s (%s) no longer accepts %d flows of its own in slot %d", n.name, n.core.phase, lost, slot)
	}
}

// endFlows ends flows of the slot.
func (w *world) endFlows(slot Slot, which func(*simFlow) bool) (ended int) {
	before := len(w.flows[slot])
	w.flows[slot] = slices.DeleteFunc(w.flows[slot], which)
	return before - len(w.flows[slot])
}

// judgeResets is what the packets of the slot's flows meet elsewhere: a node that
// owns the slot resets what it does not know; in the other states it is silent.
func (w *world) judgeResets(slot Slot) {
	w.resets += w.endFlows(slot, func(f *simFlow) bool {
		i := slices.IndexFunc(w.nodes, func(n *simNode) bool { return n != f.home && n.states[slot] == Own && n.leased })
		if i >= 0 && w.strictFlows && f.home.core != nil {
			w.fault("invariant 4: %s resets a flow of %s in slot %d (there %s)", w.nodes[i].name, f.home.name, slot, f.home.states[slot])
		}
		if i >= 0 {
			f.home.reset++
		}
		return i >= 0
	})
}

// flowsOf are the slots in which the node's kernel knows flows that live: of those
// without connections, the listed ones.
func (w *world) flowsOf(n *simNode, listed hashring.Set) hashring.Set {
	set := hashring.NewSet(len(w.owners))
	for slot, flows := range w.flows {
		if slices.ContainsFunc(flows, func(f *simFlow) bool { return f.home == n }) {
			set.Add(slot)
		}
	}
	talks := hashring.NewSet(len(w.owners))
	w.talksOf(n, talks)
	talks.RetainAll(listed)
	set.AddAll(talks)
	return set
}

// cutFlows ends the flows of the slots that live on the node; all, if there are no
// slots.
func (w *world) cutFlows(n *simNode, slots hashring.Set) {
	for slot := range w.flows {
		if slots.Empty() || slots.Has(slot) {
			w.endFlows(slot, func(f *simFlow) bool { return f.home == n })
		}
	}
	w.cutTalks(n, slots)
}
