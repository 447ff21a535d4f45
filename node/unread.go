package node

import (
	"fmt"

	"github.com/peervip/peervip/hashring"
)

// A peer's beacons come, and its messages may not. What its beacons say goes then before
// what it said by message: a node that joins has nothing. So it is not waited for, and what
// it had can be taken, as soon as its beacons have said for D that it joins: by then it has
// no lease to serve with any more, and it must serve for D before it takes what nobody has
// (see mayTake). A node whose messages do not pass begins to join again by itself, if others'
// do.

// unread reports whether the peer's beacons name a newer statement than has come.
func (p *peer) unread() bool {
	return p.heard != nil && (p.said == nil && p.heard.Claims > 0 || p.said != nil && p.heard.Claims > p.said.Version)
}

// phaseNow is the peer's phase, by beacon or by message, whichever is newer.
func (p *peer) phaseNow() Phase { return p.memberNow().Phase }

// joins reports whether the peer's own beacons have said for D that it joins.
func (c *Core) joins(p *peer) bool {
	h := p.heard
	return h != nil && h.standing == Alive && !h.hearsay && h.Claims > 0 && p.phaseNow() == Joining &&
		h.joiningSince > 0 && c.now >= h.joiningSince+c.cfg.Silence
}

// empty reports whether the peer's own last beacon says that it has nothing, and takes
// nothing. Nobody needs its word then on what nobody has: it is drained, and must have said
// for D that it is not, before it takes that (see mayTake). By then the others have heard it, or
// hold it dead. A drained node that has become deaf holds all others dead, and answers
// none of their messages.
func (p *peer) empty() bool {
	h := p.heard
	return h != nil && h.standing == Alive && !h.hearsay && h.Empty
}

// noteUnread brings up to date whom nobody has to wait for, and since when somebody's
// messages have not come.
func (c *Core) noteUnread() {
	for p := range c.likePeers() {
		if idle := c.joins(p); idle != p.idle {
			if p.idle, c.replan = idle, true; idle {
				c.forgetPeer(p, false) // nothing comes of what was under way with it
			}
		}
		if !p.unread() {
			p.unreadSince = 0
		} else if p.unreadSince == 0 {
			p.unreadSince = c.now
		}
	}
}

// gaveUp reports whether the peer has nothing, whatever its last statement says.
func (p *peer) gaveUp() bool { return p.idle && p.unread() }

// lingersUnread adds the slots on which a peer may linger that gave up with a statement
// that has not come. What it had got since the last one is not known, so it may be any.
func (c *Core) lingersUnread(set hashring.Set) {
	for p := range c.claimers() {
		if p.gaveUp() {
			set.AddAll(c.cfg.all())
		}
	}
}

// unheeded says why nobody would know what this node does if it began to serve; "": the
// peers that serve have acknowledged that it joins. Who does not answer has its time, if
// another one does.
func (c *Core) unheeded() string {
	switch {
	case c.heralded.Unheeded:
		return "none of the peers gets this node's messages, though they get each other's: " + lookAtMessages
	case c.heralded.Uninformed:
		return "this node gets messages of none of its peers, though they get each other's: " + lookAtMessages
	}
	answered, over, waits := false, true, ""
	for p := range c.likePeers() {
		if !p.phaseNow().Serving() {
			continue
		}
		if c.joinedWith > 0 && p.acked >= c.joinedWith {
			answered = true
		} else if waits == "" || c.now < c.answersBy(p) {
			waits = p.Name
			over = over && c.now >= c.answersBy(p)
		}
	}
	if waits == "" || answered && over {
		return ""
	}
	return fmt.Sprintf("%s has not answered this node yet, though its beacons come: %s", waits, lookAtMessages)
}

// answersBy is until when a node that joins waits for the peer's answer, if others have
// answered.
func (c *Core) answersBy(p *peer) Time { return max(p.aliveSince, c.startedAt) + c.cfg.Timing.Alone }

// stuckSince is since when messages have not passed between this node and the peer, one
// way or the other; 0: they pass.
func (p *peer) stuckSince() Time {
	if p.unreadSince == 0 || p.behind == 0 {
		return max(p.unreadSince, p.behind)
	}
	return min(p.unreadSince, p.behind)
}

// stuckBeside returns the node for which this one gives up, if messages do not pass between
// the two for long, and buckets have no owner for that; nil: it does not. Whose fault it is
// nobody can know, and who can agree can serve everything: so all give up for the node
// that may be given most (see suits), of equals for that with the lowest name, if they cannot
// agree with it. Of more than two a node that is alone with its trouble finds that out by
// itself, and sooner (see Unheeded). Where no messages pass at all everybody goes on.
func (c *Core) stuckBeside() *peer {
	var first *peer
	others, agree, most := 0, 0, suits(c.self())
	for p := range c.likePeers() {
		if !p.phaseNow().Serving() {
			continue
		}
		if others++; p.stuckSince() == 0 {
			agree++
		}
		n := suits(p.memberNow())
		if n > most || n == most && p.Name < c.cfg.Name && first == nil && n > 0 {
			first, most = p, n
		}
	}
	switch wait := c.cfg.Timing.Words; {
	case others == 0:
		return c.inTheWayOf()
	case first == nil || others > 1 && agree == 0:
		return nil
	case c.stuckWith(first, wait*Time(min(others, 2))):
		return first
	}
	return nil
}

// inTheWayOf returns a node that joins and waits for an answer of this one, which has
// nothing, may be given nothing, and is the only one that serves; nil: there is none.
func (c *Core) inTheWayOf() *peer {
	if suits(c.self()) > 0 || !c.idle() {
		return nil
	}
	for p := range c.likePeers() {
		if p.phaseNow() == Joining && c.stuckWith(p, c.cfg.Timing.Words) {
			return p
		}
	}
	return nil
}

// stuckWith reports whether messages have not passed between this node and the peer for so
// long, though its beacons come, and buckets have no owner.
func (c *Core) stuckWith(p *peer, wait Time) bool {
	since := p.stuckSince()
	return p.heard != nil && !p.heard.hearsay && since > 0 && c.now >= since+wait && c.unclaimed() > 0
}

// suits is what may be given to a node that goes on alone, as a number to compare two by; 0:
// nothing. All that it counts beacons tell, so both nodes count alike.
func suits(m Member) int {
	if m.CutOff || m.eligible() == rankNever {
		return 0
	}
	fit := 64
	for _, service := range m.Unfit {
		if service < 64 {
			fit--
		}
	}
	return 1 + 65*int(m.eligible()) + fit
}

// lookAtMessages is what to do where beacons pass and messages do not.
const lookAtMessages = "look for firewalls at cluster.port, TCP and UDP, and for other versions"

// unreadProblems says whose messages do not pass, though beacons do, and what waits for them.
func (c *Core) unreadProblems(add func(string, ...any)) {
	for p := range c.likePeers() {
		waits := ""
		if n := c.unclaimed(); n > 0 && !p.idle {
			waits = fmt.Sprintf("; as far as this node knows %s have no owner, and wait for it", Count(n, "buckets"))
		}
		switch {
		case p.said != nil && p.unread() && c.now >= p.unreadSince+c.cfg.Timing.Mourn:
			add("messages of %s do not arrive here, though its beacons do%s: %s", p.Name, waits, lookAtMessages)
		case p.said != nil && (p.phaseNow() != Joining || c.keptFromServing(p)) && p.behind > 0 && c.now >= p.behind+2*c.cfg.Timing.Mourn:
			add("%s does not answer this node's messages, though it is alive%s: %s", p.Name, waits, lookAtMessages)
		}
	}
	if c.heralded.Deaf != "" {
		add("beacons do not pass between all nodes: %s. Those are alive through others, as long as these are: look at the switch, and for firewalls at cluster.beacon_port", c.heralded.Deaf)
	}
}

// unclaimed is how many slots nobody has, as far as is known, that somebody should.
func (c *Core) unclaimed() int {
	slots := c.cfg.all()
	for _, had := range []hashring.Set{c.claims(), c.promised, c.claimed(), c.promisedByPeers(), c.mute} {
		slots.RemoveAll(had)
	}
	return slots.Count()
}
