package node

import (
	"iter"
	"slices"

	"github.com/peervip/peervip/hashring"
)

// This node's part with lists that others keep; see lists.

// keepings yields the lists that living peers keep, as far as is known: one may be
// there twice. The sets are not the caller's.
func (c *Core) keepings() iter.Seq[Keeping] {
	return func(yield func(Keeping) bool) {
		for p := range c.likePeers() {
			version := uint64(0)
			if p.said != nil {
				version = p.said.Version
				for _, l := range p.said.Lists {
					if !yield(Keeping{p.Incarnation, version, l}) {
						return
					}
				}
			}
			for _, k := range p.announced {
				if k.Version > version && !yield(k) {
					return
				}
			}
		}
	}
}

// announce takes a grant's word on who keeps flows of its slots, until statements
// tell.
func (c *Core) announce(keepings []Keeping) {
	for _, k := range keepings {
		if p := c.alivePeer(k.Keeper); p != nil && (p.said == nil || p.said.Version < k.Version) {
			p.announced = slices.DeleteFunc(p.announced, func(o Keeping) bool {
				return p.said != nil && o.Version <= p.said.Version
			})
			p.announced = append(p.announced, k)
		}
	}
}

// tendLists asks for the lists that are missing, waits for them, and forgets those
// that are over.
func (c *Core) tendLists() {
	l := &c.lists
	l.yielding.RetainAll(c.lingering)
	l.asked.RetainAll(l.yielding)
	if l.whole.Empty() {
		return
	}
	c.forgetLists()
	missing := c.cfg.newSet()
	for k := range c.keepings() {
		need := k.Slots.Clone()
		need.RetainAll(c.want)
		for slot := range l.theirs[listKey{k.Keeper, k.ID}] {
			need.Remove(slot)
		}
		if !need.Empty() {
			c.askLists(listKey{k.Keeper, k.ID}, need)
			missing.AddAll(need)
		}
	}
	missing.RemoveAll(c.kernel)
	missing.RemoveAll(c.openSlots)
	l.waived.RetainAll(missing)
	missing.RemoveAll(l.waived)
	l.waiting = missing
	l.late.update(missing.Clone(), c.now)
	if late := l.late.overdue(c.now, c.cfg.Timing.Agreement).Clone(); !late.Empty() {
		c.stopWaiting(late)
	}
}

// forgetLists forgets what no living keeper is known to keep, and of slots that this
// node has no part in.
func (c *Core) forgetLists() {
	l := &c.lists
	if len(l.theirs) == 0 && len(l.asks) == 0 {
		return
	}
	kept := map[listKey]hashring.Set{}
	for k := range c.keepings() {
		key := listKey{k.Keeper, k.ID}
		slots := k.Slots.Clone()
		slots.RetainAll(c.partIn())
		if more, ok := kept[key]; ok {
			slots.AddAll(more)
		}
		kept[key] = slots
	}
	for key, flows := range l.theirs {
		for slot := range flows {
			if !kept[key].Has(slot) {
				delete(flows, slot)
			}
		}
		if len(flows) == 0 {
			delete(l.theirs, key)
		}
	}
	for key, ask := range l.asks {
		if !kept[key].Intersects(ask.slots) {
			delete(l.asks, key)
		}
	}
}

// partIn are the slots for which this node needs the lists of others.
func (c *Core) partIn() hashring.Set {
	slots := c.want.Clone()
	slots.AddAll(c.kernel)
	slots.AddAll(c.lists.kernelYield)
	return slots
}

func (c *Core) askLists(key listKey, slots hashring.Set) {
	p, before := c.alivePeer(key.keeper), c.lists.asks[key]
	fresh := slots.Clone()
	fresh.RemoveAll(before.slots)
	if fresh.Empty() && c.now < before.at+p.patience(c.cfg.Timing.Retry) {
		return
	}
	c.lists.asks[key] = listAsk{c.now, slots}
	c.send(p, &Message{ListAsk: &ListAsk{ID: key.id, Slots: slots.Clone()}})
}

// stopWaiting for lists that do not come: what was granted is declined, what is an
// orphan is taken without, for somebody must.
func (c *Core) stopWaiting(late hashring.Set) {
	c.notice(true, "the lists of flows that linger elsewhere do not come, for %d buckets: look whether TCP to cluster.port is blocked", late.Count())
	granted := c.cfg.newSet()
	for _, r := range c.sortedRequests() {
		pending := r.taken.Clone()
		pending.RemoveAll(r.closed)
		granted.AddAll(pending)
	}
	granted.RetainAll(late)
	c.abandon(granted)
	late.RemoveAll(granted)
	c.lists.waived.AddAll(late)
	c.lists.late = question{}
	c.replan = true
}

// receiveLists keeps what comes; forgetLists goes through it before it counts.
func (c *Core) receiveLists(p *peer, m *Lists) {
	if c.lists.whole.Empty() {
		return
	}
	key := listKey{p.Incarnation, m.ID}
	if c.lists.theirs[key] == nil {
		c.lists.theirs[key] = map[Slot]FlowList{}
	}
	for _, s := range m.Slots {
		c.lists.theirs[key][s.Slot] = slices.Clone(s.Flows)
	}
}

// wakeForLists calls soon with the times at which lists are to be tended.
func (c *Core) wakeForLists(soon func(Time)) {
	for key, ask := range c.lists.asks {
		if p := c.alivePeer(key.keeper); p != nil {
			soon(ask.at + p.patience(c.cfg.Timing.Retry))
		}
	}
	if c.lists.late.open() {
		soon(c.lists.late.since + c.cfg.Timing.Agreement)
	}
}
