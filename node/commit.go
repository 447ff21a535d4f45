package node

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/peervip/peervip/hashring"
)

// commit brings the kernel to what is wanted, one transaction at a time.
func (c *Core) commit() {
	c.tendLists()
	if c.open != nil || c.commitAfter > 0 && !c.holdsLost() {
		return
	}
	adopt := c.want.Clone()
	adopt.RetainAll(c.lingeredByOthers())
	wary := c.want.Clone()
	wary.RetainAll(c.lists.missing)
	yield := c.lists.yielding
	linger := c.lingering.Clone()
	linger.RemoveAll(yield)
	differ := symmetricDifference(c.want, c.kernel)
	differ.AddAll(symmetricDifference(adopt, c.kernelAdopt))
	differ.AddAll(symmetricDifference(linger, c.kernelLinger))
	differ.AddAll(symmetricDifference(yield, c.lists.kernelYield))
	differ.AddAll(symmetricDifference(wary, c.lists.kernelWary))
	listings := c.listings(adopt, wary, yield, linger)
	c.lists.relisted(listings, differ)
	probe := differ.Empty() && c.commitFailed != nil
	if differ.Empty() && !probe {
		return
	}
	commit := Commit{ID: c.nextID(), Cut: c.cutting, Probe: probe}
	c.cutting = c.cfg.newSet()
	c.openSlots, c.openTakes = differ, false
	for slot := range c.openSlots.All() {
		state := None
		switch {
		case wary.Has(slot):
			state = Wary
		case adopt.Has(slot):
			state = Adopt
		case c.want.Has(slot):
			state = Own
		case yield.Has(slot):
			state = Yield
		case linger.Has(slot):
			state = Linger
		}
		c.openTakes = c.openTakes || state.AcceptsNew()
		commit.Changes = append(commit.Changes, c.cfg.change(slot, state))
	}
	c.lists.fill(&commit, c.openSlots, listings)
	c.open = &commit
	c.out = append(c.out, commit)
}

// holdsLost reports whether the kernel accepts what this node has lost to another that serves
// it. A kernel that has just refused a commit is asked to let go of that at once, for as
// long as it does not two nodes answer: if it refuses again, this node gives up its lease.
func (c *Core) holdsLost() bool {
	if c.commitFailed == nil || !c.phase.Serving() {
		return false
	}
	lost := c.kernel.Clone()
	lost.RemoveAll(c.want)
	lost.RetainAll(c.claimed())
	return !lost.Empty()
}

// committed takes the kernel's word on the open commit. A refused one has
// changed nothing.
func (c *Core) committed(ev Committed) {
	if c.open == nil || ev.ID != c.open.ID {
		return
	}
	changes, probe, slots, taking := c.open.Changes, c.open.Probe, c.openSlots, c.cfg.newSet()
	for _, ch := range changes {
		if slot := c.cfg.slot(ch); ch.State.AcceptsNew() && !c.kernel.Has(slot) {
			taking.Add(slot)
		}
	}
	c.open, c.openSlots, c.openTakes = nil, c.cfg.newSet(), false
	c.replan = true
	if ev.Err != nil {
		c.commitRefused(ev.Err, probe, slots)
		return
	}
	c.failing.commitTaken(probe)
	if !probe {
		c.declined, c.askAfter = 0, 0
	}
	if c.commitFailed != nil {
		c.commitFailed, c.failures = nil, 0
		c.notice(false, "the kernel takes commits again")
	}
	for _, set := range []hashring.Set{c.kernel, c.kernelAdopt, c.kernelLinger, c.lists.kernelYield, c.lists.kernelWary} {
		set.RemoveAll(slots)
	}
	for _, ch := range changes {
		slot := c.cfg.slot(ch)
		switch ch.State {
		case Linger:
			c.kernelLinger.Add(slot)
		case Adopt:
			c.kernelAdopt.Add(slot)
		case Wary:
			c.kernelAdopt.Add(slot)
			c.lists.kernelWary.Add(slot)
		case Yield:
			c.lists.kernelYield.Add(slot)
		}
		if ch.State.AcceptsNew() {
			c.kernel.Add(slot)
		}
	}
	c.lists.committed(c.cfg.Incarnation, slots, c.kernelLinger)
	for _, r := range c.sortedRequests() {
		got := r.taken.Clone()
		got.RetainAll(taking)
		if got.Empty() {
			continue
		}
		r.closed.AddAll(got)
		if p := c.alivePeer(r.to); p != nil {
			c.send(p, &Message{Confirm: &Confirm{ID: r.id, Slots: got}})
			c.dropIfOver(r) // the holder may have forgotten the promise already
		}
	}
}

// commitRefused undoes what this node intended when its kernel refuses a commit. All that
// it was granted and has not committed is declined, also what was not in this commit; what
// nobody had is nobody's again; what was to be given is kept. Soon the kernel is tried
// again, if need be with a commit that changes nothing (see Commit.Probe). Until it takes
// one this node asks for nothing, declines what is still granted, and takes no orphans.
// If it takes the probe and then refuses again what was granted, clients have waited for a
// moment: so this node does not ask again for a while, a longer one each time.
//
// But what another claims too, and this node has lost to it, must not be served here until
// the kernel lets go of it: this node gives up its lease, and so everything.
func (c *Core) commitRefused(err error, probe bool, slots hashring.Set) {
	c.failing.commitRefused(probe, c.now)
	if c.commitFailed == nil {
		c.notice(true, "the kernel refused a change of %s: %v", Count(slots.Count(), "buckets"), err)
	}
	c.lists.refused(c.cfg.Incarnation)
	t := c.cfg.Timing
	c.commitFailed, c.commitAfter = err, c.now+min(t.Retry<<max(min(c.failures, 16)-4, 0), max(t.Retry, t.Mourn))
	c.failures++
	unheld := c.want.Clone()
	unheld.RemoveAll(c.kernel)
	if slices.ContainsFunc(c.sortedRequests(), func(r *request) bool { return !r.closed.Equal(r.taken) }) {
		c.askAfter = c.now + min(t.Retry<<min(c.declined, 16), t.Alone)
		c.declined++
	}
	c.abandon(unheld)
	for _, g := range slices.Clone(c.grants) {
		kept := g.slots.Clone()
		kept.RetainAll(slots)
		kept.RetainAll(c.kernel)
		if kept.Empty() {
			continue
		}
		if p := c.alivePeer(g.to); p != nil {
			c.send(p, &Message{Refusal: &Refusal{ID: g.id, Reason: CommitFailed, Slots: kept.Clone()}})
		}
		c.promised.RemoveAll(kept)
		c.claim(kept)
		c.shrink(g, kept)
	}
	lost := slots.Clone()
	lost.RetainAll(c.kernel)
	lost.RemoveAll(c.want)
	lost.RetainAll(c.claimed())
	if !lost.Empty() && c.phase.Serving() {
		c.withdrawFromService(fmt.Sprintf("the kernel does not let go of %s that others serve", Count(lost.Count(), "buckets")))
	}
}

// sortedRequests are the open requests in the order in which they were made.
func (c *Core) sortedRequests() []*request {
	if len(c.requests) == 0 {
		return nil // nearly always
	}
	return slices.SortedFunc(maps.Values(c.requests), func(a, b *request) int { return cmp.Compare(a.id, b.id) })
}
