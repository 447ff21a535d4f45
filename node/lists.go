package node

import (
	"slices"

	"github.com/peervip/peervip/hashring"
)

// lists is how flows without connections stay on their node when their bucket moves
// (Service.LingerAll). Such a flow belongs to whoever lists it: the node that
// lingers on the bucket, its *keeper*, goes on with what it has listed and nothing
// else, and whoever has the bucket leaves alone what any living keeper has listed.
// What is on no list moves with the bucket.
//
//   - A holder that is asked for a bucket yields it: it takes nothing new, and goes on
//     with all that its kernel knows. It grants the bucket, shows in its statement that
//     there will be a list, and makes it. Then it lingers with the list, and shows
//     which slots have listed flows.
//   - Who has a bucket, and has not got all lists of its living keepers, is wary: it
//     takes TCP as ever, and leaves all flows without connections alone, but for those
//     that it has listed itself in an earlier time. It asks the keepers. A grant
//     says which ones the holder knows of, whose statements may be late. So the bucket
//     may go from hand to hand, and to an orphan's taker, while old keepers linger.
//   - What is listed under an ID never changes. A list ends with the linger, when the
//     statement says so, or when its keeper dies or has left: then its flows are
//     everybody's.
//   - A list is only made in a handoff. A node that lingers for another reason (it
//     comes back from the dead, it was started again, it lost a bucket that two had
//     claimed) keeps no flows of this kind.
type lists struct {
	whole hashring.Set // the slots whose service wants all flows to stay

	yielding    hashring.Set // to be listed before they linger
	kernelYield hashring.Set // in that state
	open        bool         // ListFlows was asked for, and not answered
	asked       hashring.Set // of its slots those of which the answer is still wanted
	mine        []*ownList

	theirs     map[listKey]map[Slot]FlowList // of slots that this node has a part in
	asks       map[listKey]listAsk
	missing    hashring.Set // slots that this node has a part in, and of which lists are missing
	since      Time         // when lists that there are began to be missing; 0: none is
	kernelWary hashring.Set // also in kernelAdopt

	kernel  map[Slot]listed // what the kernel has listed
	pending map[Slot]listed // what it has when the open commit is done
	// void: this node may have lost its right to flows that its kernel still keeps by
	// a list, or goes on to list. Meanwhile it must not have the lease.
	void bool
}

// listKey names one keeper's list.
type listKey struct {
	keeper Incarnation
	id     uint64
}

// ownList is what this node has listed in one go.
type ownList struct {
	id    uint64
	flows map[Slot]FlowList
}

// listed is what is listed of a slot.
type listed struct {
	by    []listKey
	flows FlowList
}

func newLists(cfg Config) lists {
	l := lists{
		whole: cfg.newSet(), yielding: cfg.newSet(), kernelYield: cfg.newSet(), asked: cfg.newSet(),
		missing: cfg.newSet(), kernelWary: cfg.newSet(),
		theirs: map[listKey]map[Slot]FlowList{}, asks: map[listKey]listAsk{}, kernel: map[Slot]listed{},
	}
	for slot := range cfg.slots() {
		if s := cfg.Services[slot/cfg.Buckets]; s.Linger && s.LingerAll {
			l.whole.Add(slot)
		}
	}
	return l
}

// yield has slots that linger listed first.
func (c *Core) yield(slots hashring.Set) {
	first := slots.Clone()
	first.RetainAll(c.lists.whole)
	first.RetainAll(c.kernel)
	c.lists.yielding.AddAll(first)
}

// listFlows asks for the flows of the slots that the kernel yields.
func (c *Core) listFlows() {
	l := &c.lists
	if l.open {
		return
	}
	slots := l.yielding.Clone()
	slots.RetainAll(l.kernelYield)
	if slots.Empty() {
		return
	}
	room := MaxListed
	for _, own := range l.mine {
		for _, flows := range own.flows {
			room -= len(flows)
		}
	}
	l.open, l.asked = true, slots
	c.out = append(c.out, ListFlows{Slots: slots.Clone(), Most: max(room, 0)})
}

// flowsListed makes a list of what was found, but for what others keep.
func (c *Core) flowsListed(ev FlowsListed) {
	l := &c.lists
	if !l.open {
		return
	}
	own, beyond := &ownList{id: c.nextID(), flows: map[Slot]FlowList{}}, ev.Beyond
	for _, s := range ev.Slots {
		if !l.asked.Has(s.Slot) {
			continue
		}
		others := map[Flow]bool{}
		for _, f := range l.kernel[s.Slot].flows {
			others[f] = true
		}
		for _, f := range s.Flows {
			switch {
			case others[f]:
			case len(own.flows[s.Slot]) == listsPart:
				beyond++
			default:
				own.flows[s.Slot] = append(own.flows[s.Slot], f)
			}
		}
	}
	switch {
	case ev.Err != nil:
		c.notice(true, "the flows that linger whole cannot be listed, and move at once: %v", ev.Err)
	case beyond > 0:
		c.notice(true, "a node keeps at most %d flows by lists, %d in a bucket: %d more move at once", MaxListed, listsPart, beyond)
	}
	if len(own.flows) > 0 {
		l.mine = append(l.mine, own)
	}
	l.yielding.RemoveAll(l.asked)
	l.open, l.asked = false, c.cfg.newSet()
}

// dropLists gives up what this node keeps by lists: others may have its flows.
func (c *Core) dropLists() {
	l := &c.lists
	l.void = l.void || len(l.mine) > 0 || !l.kernelYield.Empty() || c.open != nil && !l.whole.Empty()
	l.mine, l.yielding = nil, c.cfg.newSet()
}

// ownListings are this node's lists, as far as its kernel goes by them, and the one that
// is being made.
func (c *Core) ownListings() []Listing {
	var all []Listing
	if !c.lists.kernelYield.Empty() {
		all = append(all, Listing{listToCome, c.lists.kernelYield.Clone()})
	}
	for _, own := range c.lists.mine {
		slots := c.cfg.newSet()
		for slot := range own.flows {
			slots.Add(slot)
		}
		if slots.RetainAll(c.lists.keeping(c.kernelLinger)); !slots.Empty() {
			all = append(all, Listing{own.id, slots})
		}
	}
	return all
}

// listedHere are the slots of which the kernel has flows by this node's own lists.
func (c *Core) listedHere() hashring.Set {
	slots := c.cfg.newSet()
	for slot, of := range c.lists.kernel {
		if of.isOf(c.cfg.Incarnation) {
			slots.Add(slot)
		}
	}
	return slots
}

// keeping are the slots of which the kernel goes by this node's own lists.
func (l *lists) keeping(linger hashring.Set) hashring.Set {
	slots := linger.Clone()
	slots.AddAll(l.kernelWary)
	return slots
}

func (c *Core) receiveListAsk(p *peer, a *ListAsk) {
	answer := Lists{ID: a.ID}
	for _, own := range c.lists.mine {
		if own.id != a.ID {
			continue
		}
		for slot := range a.Slots.All() {
			if flows, ok := own.flows[slot]; ok {
				answer.Slots = append(answer.Slots, SlotFlows{slot, slices.Clone(flows)})
			}
		}
	}
	for _, m := range answer.parts() {
		c.send(p, m)
	}
}

// listings are the lists that the kernel should have when it has the slots in these
// states.
func (c *Core) listings(adopt, wary, yield, linger hashring.Set) map[Slot]listed {
	l, all := &c.lists, map[Slot]listed{}
	add := func(slot Slot, by listKey, flows FlowList) {
		if of := all[slot]; !slices.Contains(of.by, by) {
			all[slot] = listed{append(of.by, by), append(slices.Clip(of.flows), flows...)}
		}
	}
	for _, own := range l.mine {
		for slot, flows := range own.flows {
			if linger.Has(slot) || wary.Has(slot) {
				add(slot, listKey{c.cfg.Incarnation, own.id}, flows)
			}
		}
	}
	if len(l.theirs) == 0 {
		return all
	}
	for k := range c.keepings() {
		for slot, flows := range l.theirs[k.key()] {
			if k.Slots.Has(slot) && (adopt.Has(slot) && !wary.Has(slot) || yield.Has(slot)) {
				add(slot, k.key(), flows)
			}
		}
	}
	return all
}

// relisted adds the slots whose lists differ from those in the kernel.
func (l *lists) relisted(wanted map[Slot]listed, slots hashring.Set) {
	for slot, of := range wanted {
		if !slices.Equal(of.by, l.kernel[slot].by) {
			slots.Add(slot)
		}
	}
	for slot := range l.kernel {
		if _, ok := wanted[slot]; !ok {
			slots.Add(slot)
		}
	}
}

// fill adds to a commit what it does to the lists of its slots.
func (l *lists) fill(commit *Commit, slots hashring.Set, wanted map[Slot]listed) {
	l.pending = map[Slot]listed{}
	for slot := range slots.All() {
		commit.Unlist = append(commit.Unlist, l.kernel[slot].flows...)
		if of, ok := wanted[slot]; ok {
			commit.List = append(commit.List, of.flows...)
			l.pending[slot] = of
		}
	}
}

// committed takes note of what the kernel has done to the slots. A slot may have been
// listed while its state Yield was being committed anew.
func (l *lists) committed(self Incarnation, slots, linger hashring.Set) {
	keeping := l.keeping(linger)
	for slot := range slots.All() {
		delete(l.kernel, slot)
		if of, ok := l.pending[slot]; ok {
			l.kernel[slot] = of
		}
		if !keeping.Has(slot) && !l.kernelYield.Has(slot) {
			l.disown(slot)
		}
	}
	l.settled(self)
}

// settled: the outcome of a commit is known, and with it whether the kernel still keeps
// flows by lists that this node has given up.
func (l *lists) settled(self Incarnation) {
	l.pending = nil
	for _, of := range l.kernel {
		if of.isOf(self) {
			return
		}
	}
	l.void = l.void && !l.kernelYield.Empty()
}

// refused: the kernel may have no room for what was to be listed.
func (l *lists) refused(self Incarnation) {
	for slot, of := range l.pending {
		if of.isOf(self) && !l.kernel[slot].isOf(self) {
			l.disown(slot)
		}
	}
	l.settled(self)
}

func (l *lists) disown(slot Slot) {
	for _, own := range l.mine {
		delete(own.flows, slot)
	}
	l.mine = slices.DeleteFunc(l.mine, func(own *ownList) bool { return len(own.flows) == 0 })
}

func (of listed) isOf(keeper Incarnation) bool {
	return slices.ContainsFunc(of.by, func(k listKey) bool { return k.keeper == keeper })
}
