package node

import (
	"fmt"
	"iter"
	"slices"

	"github.com/peervip/peervip/hashring"
)

// This node's part with lists that others keep; see lists.

// listAsk is a question that was put to a keeper.
type listAsk struct {
	at    Time
	slots hashring.Set
	since Time // when it was put first
}

func (k Keeping) key() listKey { return listKey{k.Keeper, k.ID} }

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

// keepingsOf are the lists of a grant's slots, as this node's statement shows them.
func (c *Core) keepingsOf(slots hashring.Set) []Keeping {
	var all []Keeping
	add := func(k Keeping) {
		k.Slots = k.Slots.Clone()
		if k.Slots.RetainAll(slots); !k.Slots.Empty() {
			all = append(all, k)
		}
	}
	for _, l := range c.said.Lists {
		add(Keeping{c.cfg.Incarnation, c.said.Version, l})
	}
	for k := range c.keepings() {
		add(k)
	}
	return all
}

// tendLists asks for the lists that are missing, and forgets those that are over.
func (c *Core) tendLists() {
	l := &c.lists
	if l.whole.Empty() {
		return
	}
	c.forgetLists()
	l.missing = c.cfg.newSet()
	there := false
	for k := range c.keepings() {
		need := k.Slots.Clone()
		need.RetainAll(c.partIn())
		for slot := range l.theirs[k.key()] {
			need.Remove(slot)
		}
		l.missing.AddAll(need)
		if k.ID != listToCome && !need.Empty() {
			c.askLists(k.key(), need)
			there = true
		}
	}
	switch {
	case !there:
		l.since = 0
	case l.since == 0:
		l.since = c.now
	}
	l.yielding.RetainAll(c.lingering)
	// Of these this node has taken no flows that could be listed, or has listed them.
	l.yielding.RemoveAll(l.missing)
	l.asked.RetainAll(l.yielding)
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
		slots := k.Slots.Clone()
		slots.RetainAll(c.partIn())
		if more, ok := kept[k.key()]; ok {
			slots.AddAll(more)
		}
		kept[k.key()] = slots
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
	slots.AddAll(c.lists.yielding)
	slots.RetainAll(c.lists.whole)
	return slots
}

func (c *Core) askLists(key listKey, slots hashring.Set) {
	p, before := c.alivePeer(key.keeper), c.lists.asks[key]
	fresh := slots.Clone()
	fresh.RemoveAll(before.slots)
	if fresh.Empty() && c.now < before.at+p.patience(c.cfg.Timing.Retry) {
		return
	}
	ask := listAsk{c.now, slots, before.since}
	if !fresh.Empty() {
		ask.since = c.now
	}
	c.lists.asks[key] = ask
	c.sendSince(p, &Message{ListAsk: &ListAsk{ID: key.id, Slots: slots.Clone()}}, ask.since)
}

// receiveLists keeps what comes; forgetLists goes through it before it counts.
func (c *Core) receiveLists(p *peer, m *Lists) {
	if c.lists.whole.Empty() || m.ID == listToCome {
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

// wakeForLists calls soon with the times at which lists are to be asked for again.
func (c *Core) wakeForLists(soon func(Time)) {
	for key, ask := range c.lists.asks {
		if p := c.alivePeer(key.keeper); p != nil {
			soon(ask.at + p.patience(c.cfg.Timing.Retry))
		}
	}
}

// listProblem says which lists do not come; "" if all is well.
func (c *Core) listProblem() string {
	if since := c.lists.since; since == 0 || c.now < since+c.cfg.Timing.Alone {
		return ""
	}
	return fmt.Sprintf("of %s datagrams are not answered here, since lists of flows that other nodes keep do not come: look at the gossip port between them, TCP and UDP", Count(c.lists.missing.Count(), "buckets"))
}
