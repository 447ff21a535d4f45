package node

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	"github.com/peervip/peervip/hashring"
)

// peer is what this node knows of another.
type peer struct {
	PeerAlive
	listed     bool       // gossip holds it alive
	heard      *heard     // by beacons; nil: never
	recall     uint64     // its last life was not drained: the stamp of the wish that says so; 0: not known
	parted     bool       // gossip says that it left, and its beacons go on; what they end is its membership
	next       *PeerAlive // by gossip it has restarted, and the beacons of this life go on
	alive      bool       // it may serve, see holdsAlive
	aliveSince Time
	diedAt     Time
	foreign    bool       // runs another spec: nothing it says of slots can be used, or is kept
	said       *Statement // the last statement that has come; nil: none of this incarnation
	latest     uint64     // version of the last statement that it is known to have made
	waiting    *Waiting   // nil: for nothing, or it has not said
	waitsUntil Time
	flows      []int
	phase      Phase // as the log has it, if it was told
	phaseTold  bool

	acked, sent uint64     // versions of this node's statement
	told        *Statement // what was sent last; nil: nothing
	sentAt      Time
	whole       bool // that was not a change of an older one
	lost        bool // it has asked for the whole statement
	owed        bool // what came from it is to be acknowledged
	spokeAt     Time // when its last message came
	unanswered  int  // how often it was told something again since it last said anything
	askedAt     Time // for its statement, while it has told nothing
	wishSentAt  Time
	wishedAt    Time // when it was told the wish for it first
	behind      Time // since when it has not acknowledged what it was told; 0: it has
	way         way
	unreadSince Time // since when its beacons have named a newer statement than has come; 0: they do not
	idle        bool // it joins, see joins

	// A grant may overtake the statement that shows it. Until a statement of at
	// least that version has come, the slots granted to us are not the peer's claim.
	releasedAt uint64
	released   hashring.Set
	// The slots on which it lingers by a grant of another, until a statement of at least
	// that version has come.
	lingersAt uint64
	lingers   hashring.Set
	announced []Keeping  // by grants: lists that its statement does not show yet
	deferred  []*Request // see judgeDeferred
	granted   uint64     // the highest of its requests that this node has granted

	refusedAt   Time   // it refused something; ask again when it may have changed:
	refusedSaid uint64 // its statement then
	refusedView uint64 // our view then
}

// version is that of its statement, as far as it has come; 0 for none.
func (p *peer) version() uint64 {
	if p.said == nil {
		return 0
	}
	return p.said.Version
}

// rank is the peer's rank for a service, as it last said of itself.
func (p *peer) rank(service int) rank {
	if p.said == nil {
		return rankNever
	}
	return p.member().rank(service)
}

// takes is the lowest ID of the peer's requests of which it may still take a grant.
func (p *peer) takes() uint64 {
	if p.said == nil {
		return 0
	}
	return p.said.Takes
}

// claims are the slots that the peer claims as far as is known, in a set of the
// caller's own: what it has granted to this node, or was the first of a chain to grant, is
// not its claim, though its statement may still say so. It must have said something.
func (p *peer) claims() hashring.Set {
	claims := p.said.Claims.Clone()
	if p.gaveUp() {
		claims.RemoveAll(p.said.Claims)
	}
	claims.RemoveAll(p.released)
	claims.RemoveAll(p.lingers)
	return claims
}

// patience is how long to wait for the peer's answer before it is told again:
// the more it has left unanswered the longer.
func (p *peer) patience(retry Time) Time {
	return retry << min(max(p.unanswered-4, 0), 4)
}

// alivePeers yields the peers that are held alive, by name.
func (c *Core) alivePeers() iter.Seq[*peer] {
	return func(yield func(*peer) bool) {
		for _, p := range c.order {
			if p.alive && !yield(p) {
				return
			}
		}
	}
}

// likePeers yields the alive peers that run the same spec.
func (c *Core) likePeers() iter.Seq[*peer] {
	return func(yield func(*peer) bool) {
		for _, p := range c.order {
			if p.alive && !p.foreign && !yield(p) {
				return
			}
		}
	}
}

// alivePeer returns the alive peer that is this incarnation, or nil.
func (c *Core) alivePeer(inc Incarnation) *peer {
	if p := c.peers[inc.Name]; p != nil && p.alive && p.Incarnation == inc {
		return p
	}
	return nil
}

// sortPeers restores the order after a change of the peers.
func (c *Core) sortPeers() {
	c.order = slices.SortedFunc(maps.Values(c.peers), func(a, b *peer) int { return cmp.Compare(a.Name, b.Name) })
}

func (c *Core) peerAlive(ev PeerAlive) {
	if ev.Name == "" || ev.Name == c.cfg.Name {
		return
	}
	old := c.peers[ev.Name]
	if old != nil {
		known := old.Incarnation == ev.Incarnation
		switch {
		case !known && old.speaks() && !old.hasNothing():
			old.next = &ev // its beacons have not ended, and a recording of gossip ends nothing
			return
		case known && old.SpecDigest == ev.SpecDigest && (old.alive || old.heldDead()):
			listed := old.listed
			old.PeerAlive, old.listed, old.parted, old.next = ev, true, false, nil
			if old.alive && !listed {
				c.notice(false, "%s is a member again", ev.Name)
				c.greet(old)
				c.askStatement(old)
			}
			return
		case known && old.alive:
			c.notice(false, "%s has changed its spec", ev.Name)
		case old.alive, old.next != nil:
			c.notice(false, "%s has restarted", ev.Name)
		default:
			c.notice(false, "%s is a member again", ev.Name)
		}
		c.forgetPeer(old, !known)
		if !known {
			if old.alive && c.cfg.Silence > 0 { // else it is mourned already, or was for long enough
				c.mourn(old, c.cfg.Timing.Mourn)
			}
			c.dropHeard(old.Incarnation, false)
		}
	} else {
		c.notice(false, "%s is a member", ev.Name)
	}
	c.greet(c.newPeer(ev, true))
}

// recallFor is what recall says of that life of the peer. Only who is active is known
// not to be drained. A later wish of an operator has a higher stamp.
func (p *peer) recallFor(inc Incarnation) uint64 {
	switch {
	case p.Incarnation == inc || p.said == nil || p.said.Doubt:
		return p.recall
	case p.said.Phase == Active:
		return p.obeyed(TopicDuty) + 1
	}
	return 0
}

// newPeer begins to know an incarnation, of which nothing is known but this.
func (c *Core) newPeer(ev PeerAlive, listed bool) *peer {
	p := &peer{
		PeerAlive: ev, listed: listed, heard: c.heard[ev.Incarnation], aliveSince: c.now, released: c.cfg.newSet(), lingers: c.cfg.newSet(),
		foreign: ev.SpecDigest != c.cfg.SpecDigest,
	}
	if old := c.peers[ev.Name]; old != nil {
		p.recall = old.recallFor(ev.Incarnation)
	}
	p.alive = p.holdsAlive()
	maps.DeleteFunc(c.heard, func(inc Incarnation, h *heard) bool {
		return inc.Name == ev.Name && inc != ev.Incarnation && h.standing == Dead
	})
	c.peers[ev.Name] = p
	c.sortPeers()
	c.out = append(c.out, Know{p.Incarnation, p.Address, p.Reads.Beacon})
	return p
}

// greet tells a peer what it must know. The peer greets this node too, when it first
// knows of it.
func (c *Core) greet(p *peer) {
	p.askedAt = c.now
	// The wish first: a node that comes back must know of it before it serves.
	for _, w := range c.keptWishes(p.Name) {
		p.wishSentAt, p.wishedAt = c.now, c.now
		c.send(p, &Message{Wish: &w})
	}
	for _, w := range c.keptWishes("") {
		if w.Node != p.Name {
			c.send(p, &Message{Wish: &w})
		}
	}
	p.lost = true
}

// dropHeard forgets an incarnation that is no more. One that is held dead is so for a
// while longer, should gossip name it again.
func (c *Core) dropHeard(inc Incarnation, gone bool) {
	if h := c.heard[inc]; h != nil && h.standing != Dead {
		delete(c.heard, inc)
	}
	c.out = append(c.out, Forget{inc, gone})
}

func (c *Core) peerDead(ev PeerDead) {
	p := c.peers[ev.Name]
	if p == nil {
		return
	}
	p.listed, p.next = false, nil
	switch {
	case !ev.Left:
	case p.speaks() && !p.hasNothing():
		p.parted = true
	default:
		c.part(p)
		return
	}
	if c.reconsider(p); p.alive {
		c.notice(true, "gossip has lost %s, whose beacons still come", p.Name)
	}
}

// speaks reports whether beacons show that the peer is alive. Then what gossip says of
// its end proves nothing: gossip that was recorded can be sent again by anybody, and
// beacons cannot.
func (p *peer) speaks() bool { return p.heard != nil && p.heard.standing == Alive }

// hasNothing reports whether the peer itself has said that it goes, and that there is
// nothing more that others could take from it.
func (p *peer) hasNothing() bool {
	if p.said == nil || p.said.Version < p.latest || !p.member().Phase.Going() {
		return false
	}
	return p.said.Claims.Empty() && (p.said.Phase == Restarting || p.said.Linger.Empty())
}

// part ends the membership of a peer that has left.
func (c *Core) part(p *peer) {
	if p.alive && p.said != nil && p.member().Phase == Restarting {
		c.mourn(p, 0)
	}
	c.forgetPeer(p, true) // it may come after the news of a death
	delete(c.peers, p.Name)
	for _, w := range c.keptWishes(p.Name) {
		delete(c.wishes, w.key())
	}
	c.sortPeers()
	c.dropHeard(p.Incarnation, p.hasNothing())
	c.notice(false, "%s has left", p.Name)
	c.answerAll(p.Name, p.Name+" has left the cluster before it answered", "")
}

// forgetPeer drops everything that was under way with an incarnation. What it
// has granted stays known until it is gone for good: if it was not dead at all it
// asks about that again.
func (c *Core) forgetPeer(p *peer, gone bool) {
	c.replan = true
	for id, r := range c.requests {
		if r.to != p.Incarnation {
			continue
		}
		c.requested.RemoveAll(r.slots)
		r.slots = c.cfg.newSet()
		if gone || r.taken.Empty() {
			delete(c.requests, id)
		}
	}
	c.grants = slices.DeleteFunc(c.grants, func(g *grant) bool {
		if g.to != p.Incarnation {
			return false
		}
		c.promised.RemoveAll(g.slots)
		// What the kernel still accepts was never given: it stays here.
		kept := g.slots.Clone()
		kept.RetainAll(c.kernel)
		c.claim(kept)
		return true
	})
}
