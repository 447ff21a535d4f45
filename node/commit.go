package node

import (
	"cmp"
	"maps"
	"slices"

	"github.com/peervip/peervip/hashring"
)

// commit brings the kernel to what is wanted, one transaction at a time.
func (c *Core) commit() {
	if c.open != nil || c.commitAfter > 0 || c.want.Equal(c.kernel) {
		return
	}
	commit := Commit{ID: c.nextID()}
	c.openSlots = symmetricDifference(c.want, c.kernel)
	for slot := range c.openSlots.All() {
		state := None
		if c.want.Has(slot) {
			state = Own
		}
		commit.Changes = append(commit.Changes, c.cfg.change(slot, state))
	}
	c.open = &commit
	c.out = append(c.out, commit)
}

// committed takes the kernel's word on the open commit. A refused one has
// changed nothing.
func (c *Core) committed(ev Committed) {
	if c.open == nil || ev.ID != c.open.ID {
		return
	}
	slots, taking := c.openSlots, c.cfg.newSet()
	for _, ch := range c.open.Changes {
		if ch.State.AcceptsNew() {
			taking.Add(ch.Service*c.cfg.Buckets + ch.Bucket)
		}
	}
	c.open, c.openSlots = nil, c.cfg.newSet()
	c.replan = true
	if ev.Err != nil {
		c.commitRefused(ev.Err, slots, taking)
		return
	}
	if c.commitFailed != nil {
		c.commitFailed, c.failures = nil, 0
		c.notice(false, "the kernel takes commits again")
	}
	c.kernel.RemoveAll(slots)
	c.kernel.AddAll(taking)
	for _, r := range c.sortedRequests() {
		got := r.taken.Clone()
		got.RetainAll(taking)
		if got.Empty() {
			continue
		}
		r.closed.AddAll(got)
		if p := c.alivePeer(r.to); p != nil {
			c.send(p, &Message{Confirm: &Confirm{ID: r.id, Slots: got}})
			c.forgetConfirmed(p) // it may have forgotten the promise already
		}
	}
}

// commitRefused undoes the intentions of a commit that the kernel refused: what
// was to be taken is declined, what was to be given is kept, and both are tried
// anew after a while. Each try costs the clients of what a peer grants for it a
// moment, so the while becomes longer.
func (c *Core) commitRefused(err error, slots, taking hashring.Set) {
	if c.commitFailed == nil {
		c.notice(true, "the kernel refused a change of %d buckets: %v", slots.Count(), err)
	}
	t := c.cfg.Timing
	c.commitFailed, c.commitAfter = err, c.now+min(t.Retry<<min(c.failures, 16), t.Alone)
	c.failures++
	granted := c.cfg.newSet()
	for _, r := range c.requests {
		pending := r.taken.Clone()
		pending.RemoveAll(r.closed)
		pending.RetainAll(taking)
		granted.AddAll(pending)
	}
	c.abandon(granted)
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
		c.want.AddAll(kept)
		c.shrink(g, kept)
	}
}

// sortedRequests are the open requests in the order in which they were made.
func (c *Core) sortedRequests() []*request {
	if len(c.requests) == 0 {
		return nil // nearly always
	}
	return slices.SortedFunc(maps.Values(c.requests), func(a, b *request) int { return cmp.Compare(a.id, b.id) })
}
