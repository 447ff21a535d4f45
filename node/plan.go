package node

import (
	"iter"
	"slices"

	"github.com/peervip/peervip/hashring"
)

// plan compares what this node has with what it should have, and starts what is
// missing: requests to holders, the taking of orphans, the end of double claims.
func (c *Core) plan() {
	c.wakePlan()
	if !c.replan {
		return
	}
	c.replan = false
	c.look()
	if c.lame != Sound {
		unheld := c.want.Clone()
		unheld.RemoveAll(c.kernel)
		unheld.RemoveAll(c.openSlots)
		c.abandon(unheld)
	}
	mine := c.due()
	c.withdraw(mine)

	lost := c.want.Clone()
	lost.RetainAll(c.mute)
	lost.RemoveAll(c.openSlots) // the commit's outcome comes first
	doubled := c.want.Clone()
	doubled.RemoveAll(c.mute)
	doubled.RemoveAll(c.openSlots)
	doubled.RetainAll(c.claimed())
	c.settleDoubles(doubled, lost)
	c.abandon(lost)

	missing := mine
	for _, busy := range []hashring.Set{c.want, c.kernel, c.openSlots, c.promised, c.requested} {
		missing.RemoveAll(busy)
	}
	contested := c.contested()
	for p := range c.claimers() {
		asked := p.claims()
		asked.RetainAll(missing)
		missing.RemoveAll(asked)
		asked.RemoveAll(contested)
		if !asked.Empty() && c.mayAsk(p) {
			c.ask(p, asked)
		}
	}
	missing.RemoveAll(c.promisedByPeers()) // between two others, or on its way to us
	c.takeOrphans(missing)
}

// wakePlan notices the waits that time has ended.
func (c *Core) wakePlan() {
	c.giveUpUnanswered()
	c.bury(func(m mourning) bool { return c.now >= m.until })
	c.noteUnread()
	over := func(since, wait Time) bool { return since > 0 && c.now >= since+wait }
	for _, q := range []*question{&c.orphans, &c.doubles} {
		c.replan = c.replan || over(q.since, c.cfg.Timing.Agreement) || q.open() && over(c.servingSince, c.cfg.Silence)
	}
	for p := range c.alivePeers() {
		if over(p.refusedAt, c.cfg.Timing.Agreement) {
			p.refusedAt, c.replan = 0, true
		}
	}
	c.replan = c.replan || over(c.gatherUntil, 0)
	if over(c.askAfter, 0) {
		c.askAfter, c.replan = 0, true
	}
	if over(c.commitAfter, 0) {
		c.commitAfter, c.replan = 0, true
	}
}

// look makes the view, and what should be where by it, of what is known now.
func (c *Core) look() {
	var members []Member
	if c.phase.Serving() {
		members = append(members, c.gather(c.self()))
	}
	for p := range c.claimers() {
		if m := p.member(); m.Phase.Serving() {
			members = append(members, c.gather(m))
		}
	}
	if c.now >= c.gatherUntil {
		c.gatherUntil = 0
	}
	v := NewView(members, c.soles()...)
	if c.places != nil && v.Digest() == c.view.Digest() {
		return
	}
	c.viewChange = c.view.difference(v, c.cfg.Name)
	c.view, c.askedWith = v, 0
	c.places = v.place(c.placer, len(c.cfg.Services))
	c.own, c.mute, c.stuck = c.cfg.newSet(), c.cfg.newSet(), c.cfg.newSet()
	for service, pl := range c.places {
		for bucket := range c.cfg.Buckets {
			slot := service*c.cfg.Buckets + bucket
			if pl.table.Owner(bucket) == c.cfg.Name {
				c.own.Add(slot)
			}
			if pl.rank < rankFit {
				c.stuck.Add(slot)
			}
			if pl.rank == rankUnfit && c.cfg.DropUnhealthy {
				c.mute.Add(slot)
			}
		}
	}
}

// soles are the services that one node serves as a whole, each with the node that has
// most of its buckets, as far as their claims are known, of equals the first by name.
func (c *Core) soles() []Sole {
	var soles []Sole
	for service, s := range c.cfg.Services {
		if !s.Single {
			continue
		}
		sole, most := Sole{Service: service, Preempt: s.Preempt}, 0
		count := func(name string, claims hashring.Set) {
			n := claims.CountRange(service*c.cfg.Buckets, (service+1)*c.cfg.Buckets)
			if n > most || n == most && n > 0 && name < sole.Holder {
				sole.Holder, most = name, n
			}
		}
		if c.phase.Serving() {
			count(c.cfg.Name, c.claims())
		}
		for p := range c.claimers() {
			if p.member().Phase.Serving() {
				count(p.Name, p.claims())
			}
		}
		soles = append(soles, sole)
	}
	return soles
}

// due are the slots that should come to this node, or be here: what the placement
// gives it, but of a service for which nobody is fit only what nobody has, or has
// on its way out, or somebody who cannot serve it well or for long; and nothing that
// nobody should serve.
func (c *Core) due() hashring.Set {
	due := c.own.Clone()
	due.RemoveAll(c.mute)
	for p := range c.claimers() {
		m := p.member()
		if m.eligible() == rankNever {
			continue
		}
		stays := p.claims()
		stays.RetainAll(c.stuck)
		for service := range c.cfg.Services {
			if c.relieves(m, service) {
				for slot := service * c.cfg.Buckets; slot < (service+1)*c.cfg.Buckets; slot++ {
					stays.Remove(slot)
				}
			}
		}
		due.RemoveAll(stays)
	}
	return due
}

// relieves reports whether this node, fit or not, should take a service over from a
// member that is cut off, or that drains and is not fit either. One that drains and is
// fit goes on as long as nobody else is.
func (c *Core) relieves(m Member, service int) bool {
	return c.rank(service) > m.rank(service) && (m.CutOff || slices.Contains(m.Unfit, service))
}

// claimers yields the peers whose claims are known.
func (c *Core) claimers() iter.Seq[*peer] {
	return func(yield func(*peer) bool) {
		for p := range c.likePeers() {
			if p.said != nil && !yield(p) {
				return
			}
		}
	}
}

// claimed are the slots that some peer claims.
func (c *Core) claimed() hashring.Set {
	set := c.cfg.newSet()
	for p := range c.claimers() {
		set.AddAll(p.claims())
	}
	return set
}

// promisedByPeers are the slots that alive peers have granted, and that are not
// confirmed. Such a slot is nobody's orphan: the heir takes it, or the holder takes it
// back, or forgets the promise when it holds the heir dead too. Until it does, it may
// take the slot back at any time.
func (c *Core) promisedByPeers() hashring.Set {
	set := c.cfg.newSet()
	for p := range c.claimers() {
		if p.gaveUp() {
			continue
		}
		for _, g := range p.said.Granted {
			set.AddAll(g.Slots)
		}
	}
	return set
}

// mayAsk holds back while this node is lame; while its kernel refuses what it would be granted, or has no
// lease to serve it with; while the holder's newest statement has not come, since without
// it the holder would not give; and after a refusal until something has changed there or
// here.
func (c *Core) mayAsk(p *peer) bool {
	return c.lame == Sound && c.commitFailed == nil && c.askAfter == 0 && c.heralded.Lease && p.version() >= p.latest &&
		(p.refusedAt == 0 || p.said.Version > p.refusedSaid || c.view.Digest() != p.refusedView)
}

// abandon lets go of slots that this node wants. Those that it has been granted
// and that are not in its kernel yet are declined: they are the holder's again.
func (c *Core) abandon(slots hashring.Set) {
	if slots.Empty() {
		return
	}
	c.want.RemoveAll(slots)
	kept := slots.Clone()
	kept.RemoveAll(c.mute) // nobody shall serve these
	c.linger(kept)
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
			c.holdBack(p, p.version())
		}
		c.dropIfOver(r)
	}
}
