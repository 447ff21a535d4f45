package node

import "github.com/peervip/peervip/hashring"

// plan compares what this node has with what it should have, and starts what is
// missing: requests to holders, the taking of orphans, the end of double claims.
func (c *Core) plan() {
	c.wakePlan()
	if !c.replan {
		return
	}
	c.replan = false
	c.look()
	holders := c.holders()
	mine := func(slot Slot) bool { return c.target(slot, holders[slot]) == c.cfg.Name }
	c.withdraw(mine)

	var (
		promised = c.promisedByPeers()
		asks     = map[*peer]hashring.Set{}
		orphans  = c.cfg.newSet()
		doubled  = c.cfg.newSet()
		lost     = c.cfg.newSet()
	)
	for slot, holder := range holders {
		switch {
		case c.openSlots.Has(slot): // the commit's outcome comes first
		case c.want.Has(slot):
			switch {
			case c.unserved(slot / c.cfg.Buckets):
				lost.Add(slot)
			case holder != nil:
				doubled.Add(slot)
			}
		case c.kernel.Has(slot), c.promised.Has(slot), c.requested.Has(slot), !mine(slot):
		case holder != nil:
			set, ok := asks[holder]
			if !ok {
				set = c.cfg.newSet()
				asks[holder] = set
			}
			set.Add(slot)
		case promised.Has(slot): // between two others, or on its way to us
		default:
			orphans.Add(slot)
		}
	}
	c.settleDoubles(doubled, holders, lost)
	c.abandon(lost)
	for p := range c.likePeers() {
		if slots, ok := asks[p]; ok && c.mayAsk(p) {
			c.ask(p, slots)
		}
	}
	c.takeOrphans(orphans)
}

// wakePlan notices the waits that time has ended.
func (c *Core) wakePlan() {
	over := func(since, wait Time) bool { return since > 0 && c.now >= since+wait }
	for _, q := range []*question{&c.orphans, &c.doubles} {
		c.replan = c.replan || over(q.since, c.cfg.Timing.Agreement)
	}
	for p := range c.alivePeers() {
		if over(p.refusedAt, c.cfg.Timing.Agreement) {
			p.refusedAt, c.replan = 0, true
		}
	}
	if over(c.commitAfter, 0) {
		c.commitAfter, c.replan = 0, true
	}
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

// unserved reports whether nobody should serve the service: no node is fit, and
// the operator has chosen silence over an unfit node.
func (c *Core) unserved(service int) bool {
	return c.cfg.DropUnhealthy && c.places[service].rank == rankUnfit
}

// target names the node that should have the slot: the placement's owner while
// somebody is fit; otherwise whoever has it now, unless that one is on its way
// out, and the placement's owner only for what nobody has. "" means that nobody
// should have it.
func (c *Core) target(slot Slot, holder *peer) string {
	service := slot / c.cfg.Buckets
	pl := c.places[service]
	switch {
	case c.unserved(service):
		return ""
	case pl.rank == rankFit:
	case c.want.Has(slot) && c.rank(service) > rankNever:
		return c.cfg.Name
	case holder != nil && holder.rank(service) > rankNever:
		return holder.Name
	}
	return pl.table.Owner(slot % c.cfg.Buckets)
}

// mayAsk holds back while this node's kernel refuses what it would be granted,
// and after a refusal until something has changed at the holder or here.
func (c *Core) mayAsk(p *peer) bool {
	return c.commitAfter == 0 &&
		(p.refusedAt == 0 || p.said.Version != p.refusedSaid || c.view.Digest() != p.refusedView)
}

// abandon lets go of slots that this node wants. Those that it has been granted
// and that are not in its kernel yet are declined: they are the holder's again.
func (c *Core) abandon(slots hashring.Set) {
	if slots.Empty() {
		return
	}
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
