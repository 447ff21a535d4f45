package node

import (
	"maps"
	"slices"

	"github.com/peervip/peervip/hashring"
)

// publish tells the peers what this node says of itself, if it has changed, or if
// their word on it is wanted.
func (c *Core) publish() {
	next := c.statement()
	if c.said != nil && c.askedWith > 0 && next.sameBut(c.said) && !c.tellGivenUp(next) {
		return
	}
	old := c.said
	next.Version = 1
	if old != nil {
		next.Version = old.Version + 1
	}
	c.said = next
	if c.phase == Joining && c.joinedWith == 0 {
		c.joinedWith = next.Version
	}
	c.replan = c.replan || len(c.view.soles) > 0 && (old == nil || !old.Claims.Equal(next.Claims)) // see soles
	if c.askedWith == 0 {
		c.askedWith = next.Version
		c.replan = c.replan || c.inQuestion()
	}
}

// statement is what this node has to say of itself now.
func (c *Core) statement() *Statement {
	linger := c.lingering.Clone()
	linger.RemoveAll(c.claims()) // claimed until a commit has released it, so nobody can have it before
	linger.AddAll(c.kernelLinger)
	s := &Statement{
		Incarnation: c.cfg.Incarnation,
		Phase:       c.phase, Weight: c.weight, Unfit: c.unfitList(),
		CutOff: c.cutOff(), Lame: c.lame, View: c.view.Digest(), Obeyed: c.stamps.last(), Doubt: c.doubt, Claims: c.claims(), Linger: linger,
		Stamps: maps.Clone(c.stamps), Takes: c.takes(), Relayed: c.relayed(), Lists: c.ownListings(),
	}
	for _, g := range c.grants {
		if c.released(g) {
			s.Granted = append(s.Granted, Promise{To: KeyOf(g.to), ID: g.id, Slots: g.slots.Clone()})
		}
	}
	slices.SortFunc(s.Granted, Promise.order)
	return s
}

// claims are the slots for which this node takes new flows, or is about to. What its kernel
// does not let go of it claims until its lease is gone, whatever has become of the request
// to drop it. After that others may have it: there is no other lease before the kernel
// has let go.
func (c *Core) claims() hashring.Set {
	claims := c.want.Clone()
	if c.disownedAt == 0 || c.now < c.disownedAt+c.cfg.Silence {
		claims.AddAll(c.kernel)
	}
	return claims
}

// noteDisowned keeps disowned, and since when that is.
func (c *Core) noteDisowned() {
	switch c.disowned = c.disowned && !c.letGo(); {
	case !c.disowned:
		c.disownedAt = 0
	case c.disownedAt == 0:
		c.disownedAt = c.now
	}
}

// tellStatement sends the statement to the peers that do not have it. A peer that has
// not acknowledged the last one gets the next when it does, or when that is late: so
// however often a statement changes, each peer is told as often as it can follow.
func (c *Core) tellStatement() {
	if c.said == nil {
		return
	}
	for p := range c.alivePeers() {
		switch {
		case p.lost:
			c.sendStatement(p, nil)
		case p.acked >= p.sent:
			c.catchUp(p)
		}
	}
}

// catchUp sends the peer what it has not been sent of the statement. A request and a
// grant come after the statement that belongs to them, whatever is acknowledged: a
// handoff waits for nobody.
func (c *Core) catchUp(p *peer) {
	switch {
	case c.said == nil || p.sent >= c.said.Version:
	case p.foreign:
		c.sendStatement(p, nil)
	default:
		c.sendStatement(p, p.told)
	}
}

// sendStatement sends the current statement, as a change of an older one or, without
// that, whole.
func (c *Core) sendStatement(p *peer, from *Statement) {
	d := c.said.delta(from)
	if from == nil && !p.foreign {
		d.Mourned = c.mournedFor(p)
	}
	p.sent, p.told, p.sentAt, p.whole, p.lost = c.said.Version, c.said, c.now, from == nil, false
	if p.behind == 0 && p.acked < p.sent {
		p.behind = c.now
	}
	c.sendSince(p, &Message{Delta: &d}, p.behind)
}

// acknowledge sends what no message of this step has acknowledged on its way.
func (c *Core) acknowledge() {
	for p := range c.alivePeers() {
		if p.owed {
			c.send(p, &Message{Ack: &Ack{Nonce: p.Nonce, Version: p.version()}})
		}
	}
}

// askStatement asks a peer for the whole of its statement: it may never have
// noticed that this node held it dead for a while, and forgot what it knew.
func (c *Core) askStatement(p *peer) {
	p.askedAt = c.now
	c.sendSince(p, &Message{Ack: &Ack{Nonce: p.Nonce, Lost: true}}, p.aliveSince)
}

// transmitDue sends the requests that are new, and again what was not answered in time.
func (c *Core) transmitDue() {
	for p := range c.alivePeers() {
		again := false
		due := c.now - p.patience(c.cfg.Timing.Retry)
		if c.said != nil && p.acked < c.said.Version && due >= p.sentAt {
			c.sendStatement(p, nil)
			again = true
		}
		if p.said == nil && due >= p.askedAt {
			c.askStatement(p)
			again = true
		}
		if kept := c.keptWishes(p.Name); len(kept) > 0 && due >= p.wishSentAt {
			p.wishSentAt = c.now
			for _, w := range kept {
				c.sendSince(p, &Message{Wish: &w}, p.wishedAt)
			}
			again = true
		}
		if again {
			p.unanswered++
		}
	}
	for _, r := range c.sortedRequests() {
		if !r.slots.Empty() && (r.sentAt == 0 || c.now >= r.sentAt+c.cfg.Timing.Retry) {
			c.sendRequest(r)
		}
	}
}

// Exchange is what this node tells in a state exchange: its whole statement, and
// the wishes that it keeps for others.
func (c *Core) Exchange() []*Message {
	var list []*Message
	if c.said == nil {
		return nil
	}
	d := c.said.delta(nil)
	d.Mourned = c.mournedFor(nil)
	list = append(list, &Message{From: c.cfg.Incarnation, Said: c.said.Version, Delta: &d})
	for _, w := range c.keptWishes("") {
		list = append(list, &Message{From: c.cfg.Incarnation, Said: c.said.Version, Wish: &w})
	}
	return list
}
