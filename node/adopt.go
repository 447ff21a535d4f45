package node

import (
	"slices"

	"github.com/peervip/peervip/hashring"
)

// A node that has a bucket leaves alone (adopts) the flows of others in it:
//
//   - of a living node that lingers on it, as its statement says. A grant may come before
//     that statement, so it names all who linger on its slots, and by which version of
//     their statement: the heir leaves them alone until it has that one.
//   - of a node that may be dead: it may only have been asleep, or has said that it
//     restarts. This node *mourns* it, for a while. A grant names them too, and for how
//     long yet; and whoever does not serve yet is told of all of them with the statement,
//     since it has not seen them go.

// mourning are the slots of a life of a peer that may be dead: its flows may go on when
// it was only asleep, or is started again.
type mourning struct {
	Incarnation
	slots    hashring.Set
	until    Time
	restarts bool // it said that it comes back
}

// Adopted are slots in which whoever tells it leaves the flows of another node alone.
type Adopted struct {
	Of    Incarnation  `json:"of"`
	Slots hashring.Set `json:"slots"`
	// Version of the statement by which that node lingers on the slots; 0: it may be dead.
	Version uint64 `json:"version,omitempty"`
	// Left: for how long yet, if it may be dead. Restarts: it has said that it comes back.
	Left     Time `json:"left_ns,omitempty"`
	Restarts bool `json:"restarts,omitempty"`
}

// lingersBy are the slots on which the peer lingers as far as is known, and the version of
// its statement that says so, or will.
func (p *peer) lingersBy() (slots hashring.Set, version uint64) {
	slots = p.released.Clone()
	slots.AddAll(p.lingers)
	if slots.Empty() {
		version = p.version()
	} else {
		version = max(p.version(), p.releasedAt, p.lingersAt)
	}
	if p.said != nil {
		slots.AddAll(p.said.Linger)
	}
	return slots, version
}

// lingeredByOthers are the slots in which this node leaves flows of others alone.
func (c *Core) lingeredByOthers() hashring.Set {
	set := c.cfg.newSet()
	for p := range c.likePeers() {
		set.AddAll(p.released)
		set.AddAll(p.lingers)
		if p.said != nil {
			set.AddAll(p.said.Linger)
		}
	}
	c.lingersUnread(set)
	for k := range c.keepings() {
		set.AddAll(k.Slots)
	}
	for _, m := range c.mourned {
		set.AddAll(m.slots)
	}
	set.RetainAll(c.lingers)
	return set
}

// adopted is what a grant of the slots to the heir has to say of others' flows.
func (c *Core) adopted(slots hashring.Set, heir Incarnation) []Adopted {
	var all []Adopted
	add := func(a Adopted, of hashring.Set) {
		a.Slots = of.Clone()
		a.Slots.RetainAll(slots)
		a.Slots.RetainAll(c.lingers)
		if !a.Slots.Empty() && a.Of.Name != heir.Name {
			all = append(all, a)
		}
	}
	for p := range c.likePeers() {
		linger, version := p.lingersBy()
		add(Adopted{Of: p.Incarnation, Version: version}, linger)
	}
	for _, m := range c.mourned {
		add(Adopted{Of: m.Incarnation, Left: m.until - c.now, Restarts: m.restarts}, m.slots)
	}
	return all
}

// mournedFor is what a peer must hear of those who may be dead: nothing if it serves, since
// then it has seen them go.
func (c *Core) mournedFor(p *peer) []Adopted {
	if p != nil && p.said != nil && p.said.Phase.Serving() {
		return nil
	}
	var all []Adopted
	for _, m := range c.mourned {
		all = append(all, Adopted{Of: m.Incarnation, Slots: m.slots.Clone(), Left: m.until - c.now, Restarts: m.restarts})
	}
	return all
}

// adoptFrom leaves flows alone in slots of a grant, as the holder did.
func (c *Core) adoptFrom(list []Adopted, slots hashring.Set) {
	for _, a := range list {
		a.Slots = a.Slots.Clone()
		a.Slots.RetainAll(slots)
		p := c.alivePeer(a.Of)
		switch {
		case a.Slots.Empty() || a.Of.Name == c.cfg.Name: // this node knows its own
		case a.Version == 0:
			c.mournAsTold(a, c.now+min(max(a.Left, 0), c.cfg.Timing.Restart))
		case p == nil: // dead or unknown here: who gave the slots may learn that too
			c.mournAsTold(a, c.now+c.cfg.Timing.Mourn)
		case p.version() < a.Version:
			p.lingers.AddAll(a.Slots)
			p.lingersAt = max(p.lingersAt, a.Version)
		}
	}
}

// mournedBy takes what a peer tells of those who may be dead. Only who is new needs it:
// those that go later it sees itself. So what is told in circles comes to an end.
func (c *Core) mournedBy(list []Adopted) {
	end := c.startedAt + c.cfg.Timing.Restart
	if c.now >= end {
		return
	}
	for _, a := range list {
		if a.Of.Name != c.cfg.Name {
			a.Slots = a.Slots.Clone()
			c.mournAsTold(a, min(c.now+max(a.Left, 0), end))
		}
	}
}

func (c *Core) mournAsTold(a Adopted, until Time) {
	if p := c.peers[a.Of.Name]; p != nil && p.alive && p.Incarnation != a.Of && p.said != nil && p.said.Phase.Serving() {
		return // it is back, and lingers on what it has found
	}
	i := slices.IndexFunc(c.mourned, func(m mourning) bool { return m.Incarnation == a.Of })
	if i < 0 {
		c.mourned = append(c.mourned, mourning{a.Of, a.Slots, until, a.Restarts})
	} else {
		m := &c.mourned[i]
		m.slots.AddAll(a.Slots)
		m.until, m.restarts = max(m.until, until), m.restarts || a.Restarts
	}
	c.replan = true
}

// mourn leaves the flows of a peer alone for a while; for longer, if it has said that
// it restarts.
func (c *Core) mourn(p *peer, span Time) {
	if p.said == nil || p.foreign {
		return
	}
	restarts := p.member().Phase == Restarting
	if restarts {
		span = c.cfg.Timing.Restart
	}
	slots, _ := p.lingersBy()
	slots.AddAll(p.said.Claims)
	c.mourned = append(c.mourned, mourning{p.Incarnation, slots, c.now + span, restarts})
}

// bury ends the mourning that is over.
func (c *Core) bury(over func(mourning) bool) {
	before := len(c.mourned)
	c.mourned = slices.DeleteFunc(c.mourned, over)
	c.replan = c.replan || len(c.mourned) < before
}
