package node

import (
	"cmp"
	"maps"
	"slices"
)

// heard is what beacons say of an incarnation, whether it is a member or not.
type heard struct {
	standing     Standing
	Bulletin          // of Claims 0 while no beacon of its own was believed
	hearsay      bool // alive by the word of others: the bulletin may be old
	joiningSince Time // since then its beacons say that it joins; 0: they do not
	since        Time // of the standing
}

func (c *Core) hear(inc Incarnation) *heard {
	h := c.heard[inc]
	if h == nil {
		h = &heard{}
		c.heard[inc] = h
		if p := c.peers[inc.Name]; p != nil && p.Incarnation == inc {
			p.heard = h
		}
	}
	return h
}

func (c *Core) peerStanding(ev PeerStanding) {
	h := c.hear(ev.Incarnation)
	if h.joiningSince > 0 && (h.standing != ev.Standing || h.hearsay != ev.Hearsay) {
		h.joiningSince = c.now // it may have been otherwise while it was not heard
	}
	c.replan = c.replan || h.hearsay != ev.Hearsay
	if h.standing != ev.Standing {
		h.since = c.now
	}
	h.standing, h.hearsay = ev.Standing, ev.Hearsay
	if p := c.peers[ev.Name]; p != nil && p.Incarnation == ev.Incarnation {
		c.reconsider(p)
	} else if ev.Standing == Unheard { // who only passed by, or was a member long ago
		delete(c.heard, ev.Incarnation)
	} else if ev.Standing == Alive { // by an event that may have waited while that life ended
		c.out = append(c.out, Verify{ev.Incarnation})
	}
}

func (c *Core) peerSpoke(ev PeerSpoke) {
	p := c.peers[ev.Name]
	if p == nil || p.Incarnation == ev.Incarnation && !p.alive {
		// It was only asleep, and will be alive when it has spoken for long enough.
		for i := range c.mourned {
			if m := &c.mourned[i]; m.Name == ev.Name {
				m.until = max(m.until, c.now+2*c.cfg.Timing.Mourn)
			}
		}
	}
	h := c.heard[ev.Incarnation]
	if h == nil {
		return // it was forgotten meanwhile
	}
	h.Bulletin = ev.Bulletin
	if h.Phase != Joining {
		h.joiningSince = 0
	} else if h.joiningSince == 0 {
		h.joiningSince = c.now
	}
	if p != nil && p.Incarnation == ev.Incarnation && p.alive {
		p.latest = max(p.latest, h.Claims)
		c.replan = true
	}
}

// heldDead: somebody may have this node's buckets. It comes back as a joiner, and
// its flows go on.
func (c *Core) heldDead(ev HeldDead) {
	c.epoch = ev.Epoch
	c.heralded.Lease, c.disowned = false, true
	c.dropLists()
	switch {
	case c.phase.Serving():
		c.withdrawFromService(ev.By + " holds this node dead")
	case c.phase.Going():
		c.giveUp()
	}
}

func (c *Core) heraldedNow(ev Heralded) {
	old := c.heralded
	c.heralded = ev
	c.replan = true
	switch {
	case ev.CutOff && !old.CutOff:
		c.tellCutOff = c.now + c.cfg.Silence
	case old.CutOff && !ev.CutOff && c.tellCutOff > 0: // it was not worth a word
		c.tellCutOff = 0
	case old.CutOff && !ev.CutOff:
		c.notice(false, "this node is heard on the wire again")
	}
	if old.Lease && !ev.Lease && c.phase.Serving() {
		c.notice(true, "the lease has run out: this node is silent until its peers have heard it again")
	}
}

// warnCutOff tells that this node is cut off, when it has been so for a while: at a start,
// and after single losses, it is for a moment.
func (c *Core) warnCutOff() {
	if c.tellCutOff > 0 && c.now >= c.tellCutOff {
		c.tellCutOff = 0
		c.notice(true, "this node is cut off: no peer hears it on the wire, or it hears none there, though others do; its buckets go to them")
	}
}

// letGo reports whether the kernel takes no new flows of any bucket, and will not by
// a commit that is open.
func (c *Core) letGo() bool { return c.kernel.Empty() && !c.openTakes }

// holdsAlive says whether the peer may serve: beacons decide; until one was heard,
// gossip does.
func (p *peer) holdsAlive() bool {
	if p.heard != nil {
		switch p.heard.standing {
		case Alive:
			return true
		case Dead:
			return false
		}
	}
	return p.listed
}

// heldDead reports whether beacons have it that the peer is dead.
func (p *peer) heldDead() bool { return p.heard != nil && p.heard.standing == Dead }

// member is the peer as it last said of itself, by message or by beacon. It must
// have said something by message.
func (p *peer) member() Member {
	if p.heard == nil || p.heard.Claims <= p.said.Version {
		return p.said.member()
	}
	m := p.memberNow()
	m.Lame = p.said.Lame
	return m
}

// memberNow is the peer as member has it, or, if it has said nothing by message, as its
// beacons have it.
func (p *peer) memberNow() Member {
	switch {
	case p.said != nil && (p.heard == nil || p.heard.Claims <= p.said.Version):
		return p.said.member()
	case p.heard == nil:
		return Member{Incarnation: p.Incarnation}
	}
	m := Member{Incarnation: p.Incarnation, Weight: p.heard.Weight, Phase: p.heard.Phase, CutOff: p.heard.CutOff}
	for service := range 64 {
		if p.heard.Unfit>>service&1 != 0 {
			m.Unfit = append(m.Unfit, service)
		}
	}
	return m
}

// reconsider brings to its end what follows when a peer rises or falls.
func (c *Core) reconsider(p *peer) {
	switch alive := p.holdsAlive(); {
	case alive && !p.alive:
		c.notice(false, "%s is alive again", p.Name)
		c.forgetPeer(p, false)
		p = c.newPeer(p.PeerAlive, p.listed)
		c.greet(p)
		c.askStatement(p)
	case !alive && p.alive:
		switch {
		case p.next != nil: // it has restarted
		case c.wire.OK:
			c.notice(true, "%s is silent or dead", p.Name)
		default:
			c.notice(false, "%s is not heard any more: this node has no wire", p.Name)
		}
		p.alive, p.diedAt = false, c.now
		if c.cfg.Silence > 0 && p.heard != nil {
			c.mourn(p, c.cfg.Timing.Mourn-c.cfg.Silence)
		}
		c.forgetPeer(p, false)
		c.answerAll(p.Name, "", p.Name+" went down; it will be told when it comes back")
		switch next := p.next; {
		case next != nil:
			c.peerAlive(*next)
		case p.parted:
			c.part(p)
		}
	}
}

// unlisted are those, by name, whom beacons show alive, who may have buckets, and who
// are no members: gossip does not reach them, and what they claim is not known.
func (c *Core) unlisted() []Incarnation {
	var list []Incarnation
	for inc, h := range c.heard {
		if p := c.peers[inc.Name]; h.standing == Alive && (p == nil || p.Incarnation != inc) && (h.Claims == 0 || h.Phase != Joining) {
			list = append(list, inc)
		}
	}
	slices.SortFunc(list, func(a, b Incarnation) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// unlistedProblems says whose beacons come though gossip does not reach them, for a
// while. A node that joins has said it of those that keep it from serving.
func (c *Core) unlistedProblems(add func(string, ...any)) {
	keeping := c.unlisted()
	var list []Incarnation
	for inc, h := range c.heard {
		if h.standing == Alive && c.now >= h.since+c.cfg.Timing.Mourn && c.peers[inc.Name] == nil {
			list = append(list, inc)
		}
	}
	slices.SortFunc(list, func(a, b Incarnation) int { return cmp.Compare(a.Name, b.Name) })
	for _, inc := range list {
		waits := ""
		switch keeps := slices.Contains(keeping, inc); {
		case keeps && !c.phase.Serving():
			continue
		case keeps:
			waits = "; until then this node takes nothing that the dead had"
		}
		add("beacons of %s come, but it is no member here, since messages do not pass: look for a firewall at cluster.port, TCP and UDP, or add it to cluster.join%s", inc.Name, waits)
	}
}

// hearsAnybody reports whether any beacon was believed lately.
func (c *Core) hearsAnybody() bool {
	for h := range maps.Values(c.heard) {
		if h.standing == Alive {
			return true
		}
	}
	return false
}

// Bulletin is what beacons are to say of this node.
func (c *Core) Bulletin() Bulletin {
	b := Bulletin{
		Phase: c.phase, Weight: c.weight, CutOff: c.cutOff(), Empty: c.phase == Drained && c.idle() && len(c.requests) == 0, Lease: true, Epoch: c.epoch, Mute: !c.wire.OK,
	}
	for service, unfit := range c.unfit {
		if unfit && service < 64 {
			b.Unfit |= 1 << service
		}
	}
	if c.said != nil {
		b.View, b.Claims = c.said.View, c.said.Version
	}
	if c.phase == Joining || c.disowned {
		// Only for the flows of an earlier time, and not while the kernel would take new
		// ones of buckets that are not this node's any more.
		b.Lease = c.letGo() && !c.kernelLinger.Empty()
	}
	b.Lease = b.Lease && !c.lists.void
	return b
}
