package node

import (
	"cmp"
	"maps"
	"slices"

	"github.com/peervip/peervip/hashring"
)

// rank is the peer's rank for a service, as it last said of itself.
func (p *peer) rank(service int) rank {
	if p.said == nil {
		return rankNever
	}
	return p.said.member().rank(service)
}

// claims yields the peer's claim on a slot as far as it is known: what it has
// granted to this node is not its claim, though its statement may still say so.
func (p *peer) claims(slot Slot) bool {
	return p.said != nil && p.said.Claims.Has(slot) && !p.released.Has(slot)
}

// plan compares what this node has with what it should have, and starts what is
// missing: requests to holders, orphans, the end of double claims.
func (c *Core) plan() {
	for _, since := range []Time{c.orphansSince, c.doublesSince} {
		if since > 0 && c.now >= since+c.cfg.Timing.Agreement {
			c.replan = true
		}
	}
	for p := range c.alivePeers() {
		if p.refusedAt > 0 && c.now >= p.refusedAt+c.cfg.Timing.Retry {
			p.refusedAt, c.replan = 0, true
		}
	}
	if !c.replan {
		return
	}
	c.replan = false
	if v := c.currentView(); v.Digest() != c.view.Digest() || c.places == nil {
		c.view, c.viewSaid = v, 0
		c.places = make([]placement, len(c.cfg.Services))
		for i := range c.places {
			c.places[i] = v.place(c.cfg.Buckets, i)
		}
	}
	holders := c.holders()
	mine := func(slot Slot) bool { return c.target(slot, holders[slot]) == c.cfg.Name }
	c.withdraw(mine)

	waiting := false
	lost := c.cfg.newSet()
	asks := map[string]hashring.Set{}
	orphans := c.cfg.newSet()
	promised := c.promisedByPeers()
	for slot, holder := range holders {
		switch {
		case c.openSlots.Has(slot): // the commit's outcome comes first
		case c.want.Has(slot):
			switch c.verdictOn(slot, holder) {
			case lose:
				lost.Add(slot)
			case wait:
				waiting = true
			}
		case c.kernel.Has(slot), c.promised.Has(slot), c.requested.Has(slot), !mine(slot):
		case holder != nil:
			set, ok := asks[holder.Name]
			if !ok {
				set = c.cfg.newSet()
				asks[holder.Name] = set
			}
			set.Add(slot)
		case promised.Has(slot): // between two others, or on its way to us
		default:
			orphans.Add(slot)
		}
	}
	c.abandon(lost)
	if !waiting {
		c.doublesSince = 0
	} else if c.doublesSince == 0 {
		c.doublesSince = max(c.now, 1)
	}
	for p := range c.likePeers() {
		if slots, ok := asks[p.Name]; ok && c.mayAsk(p) {
			c.ask(p, slots)
		}
	}
	c.takeOrphans(orphans)
}

// holders finds, for each slot, an alive peer that claims it: the first by name.
func (c *Core) holders() []*peer {
	holders := make([]*peer, c.cfg.slots())
	for p := range c.likePeers() {
		if p.said == nil {
			continue
		}
		for slot := range p.said.Claims.All() {
			if holders[slot] == nil && p.claims(slot) {
				holders[slot] = p
			}
		}
	}
	return holders
}

// promisedByPeers are the slots that alive peers have granted to nodes that are
// alive too, and that are not confirmed. Such a slot is nobody's orphan: either
// the heir takes it, or the holder takes it back.
func (c *Core) promisedByPeers() hashring.Set {
	set := c.cfg.newSet()
	for p := range c.likePeers() {
		if p.said == nil {
			continue
		}
		for _, g := range p.said.Granted {
			if g.To == c.cfg.Incarnation || c.alivePeer(g.To) != nil {
				set.AddAll(g.Slots)
			}
		}
	}
	return set
}

// target names the node that should have the slot: the placement's owner while
// somebody is fit; otherwise whoever has it now, and the placement only for
// orphans. "" means that nobody should have it.
func (c *Core) target(slot Slot, holder *peer) string {
	pl := c.places[slot/c.cfg.Buckets]
	switch {
	case pl.rank == rankNever, pl.rank == rankUnfit && c.cfg.DropUnhealthy:
		return ""
	case pl.rank == rankFit:
	case c.want.Has(slot):
		return c.cfg.Name
	case holder != nil:
		return holder.Name
	}
	return pl.table.Owner(slot % c.cfg.Buckets)
}

// hold is what becomes of a slot that this node has.
type hold int

const (
	keep hold = iota
	lose
	wait
)

// verdictOn says whether this node keeps a slot that it has. It loses what nobody
// should serve (see Config.DropUnhealthy), and of what a peer claims too, as when
// two halves of a split meet, what the placement does not give to it; names
// decide if the placement gives it to neither. Until the two have one view they
// may judge differently, so they wait for that, for a while; a slot that both
// have given up is an orphan like any other.
func (c *Core) verdictOn(slot Slot, holder *peer) hold {
	pl := c.places[slot/c.cfg.Buckets]
	if pl.rank == rankUnfit && c.cfg.DropUnhealthy {
		return lose
	}
	if holder == nil {
		return keep
	}
	if holder.said.View != c.view.Digest() &&
		(c.doublesSince == 0 || c.now < c.doublesSince+c.cfg.Timing.Agreement) {
		return wait
	}
	owner := ""
	if pl.rank > rankNever {
		owner = pl.table.Owner(slot % c.cfg.Buckets)
	}
	if owner != c.cfg.Name && owner != holder.Name {
		owner = min(c.cfg.Name, holder.Name)
	}
	if owner == c.cfg.Name {
		return keep
	}
	return lose
}

// abandon lets go of slots that this node wants. Those that it has been granted
// and that are not in its kernel yet are declined: they are the holder's again.
func (c *Core) abandon(slots hashring.Set) {
	c.want.RemoveAll(slots)
	for _, r := range c.sortedRequests() {
		lost := r.taken.Clone()
		lost.RetainAll(slots)
		lost.RemoveAll(r.closed)
		if lost.Empty() {
			continue
		}
		r.taken.RemoveAll(lost)
		if p := c.alivePeer(r.to); p != nil {
			c.send(p, &Message{Cancel: &Cancel{ID: r.id, Slots: lost}})
			p.released.RemoveAll(lost) // the holder's again, whatever its statement shows
			c.holdBack(p)
		}
		c.dropIfOver(r)
	}
}

// mayAsk holds back after a refusal until something has changed at the holder or
// here.
func (c *Core) mayAsk(p *peer) bool {
	return p.refusedAt == 0 || p.said.Version != p.refusedSaid || c.view.Digest() != p.refusedView
}

// agreed reports whether every peer that is held alive acts on this node's view
// or does not serve, what it claims is known, and it knows that this node acts on
// this view. The last matters for peers that are about to serve: two nodes that
// start at once must not both find all buckets free.
func (c *Core) agreed() bool {
	for p := range c.likePeers() {
		if p.said == nil || p.said.Phase.Serving() && p.said.View != c.view.Digest() || p.acked < c.viewSaid {
			return false
		}
	}
	return c.viewSaid > 0
}

// takeOrphans takes slots that nobody alive claims: in agreement, or when the
// wait for it is over.
func (c *Core) takeOrphans(orphans hashring.Set) {
	if orphans.Empty() {
		c.orphansSince = 0
		return
	}
	if c.orphansSince == 0 {
		c.orphansSince = max(c.now, 1)
	}
	if !c.agreed() {
		if c.now < c.orphansSince+c.cfg.Timing.Agreement {
			return
		}
		c.notice(true, "the peers do not share this node's view; taking %d buckets that nobody is seen to claim", orphans.Count())
	}
	c.orphansSince = 0
	c.want.AddAll(orphans)
	c.notice(false, "taking %d buckets that nobody has", orphans.Count())
}

// commit brings the kernel to what is wanted, one transaction at a time.
func (c *Core) commit() {
	if c.open != nil || c.commitFailed != nil && c.now < c.commitAfter {
		return
	}
	differ := symmetricDifference(c.want, c.kernel)
	if differ.Empty() {
		return
	}
	commit := Commit{ID: c.nextID()}
	for slot := range differ.All() {
		state := None
		if c.want.Has(slot) {
			state = Own
		}
		commit.Changes = append(commit.Changes, c.cfg.change(slot, state))
	}
	c.open, c.openSlots = &commit, differ
	c.out = append(c.out, commit)
}

// committed takes the kernel's word on the open commit. A refused one has
// changed nothing.
func (c *Core) committed(ev Committed) {
	if c.open == nil || ev.ID != c.open.ID {
		return
	}
	slots := c.openSlots
	taking := c.cfg.newSet()
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
		c.commitFailed = nil
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
		}
	}
}

// commitRefused undoes the intentions of a commit that the kernel refused: what
// was to be taken is declined, what was to be given is kept, and both are tried
// anew after a while.
func (c *Core) commitRefused(err error, slots, taking hashring.Set) {
	if c.commitFailed == nil {
		c.notice(true, "the kernel refused a change of %d buckets: %v", slots.Count(), err)
	}
	c.commitFailed, c.commitAfter = err, c.now+c.cfg.Timing.Retry
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
	return slices.SortedFunc(maps.Values(c.requests), func(a, b *request) int { return cmp.Compare(a.id, b.id) })
}
