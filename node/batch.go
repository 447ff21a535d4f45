package node

import "fmt"

// Step takes events, in their order, and returns what is to be done about all of them
// together. The time must never run backwards. Call it with a Tick no later than
// Deadline.
//
// What peers and beacons say is taken as one change when it comes together: one plan
// and one statement for all of it. With a plan and a statement for each event, n nodes
// that start at once would each tell n-1 peers of n-1 views.
func (c *Core) Step(now Time, events ...Event) []Effect {
	c.now = max(now, 1)
	c.out = nil
	var moves []Event // messages about slots that wait for the news that came with them
	settle := func() {
		if len(moves) == 0 {
			return
		}
		c.advance()
		for _, ev := range moves {
			c.take(ev)
		}
		moves = moves[:0]
	}
	for _, ev := range events {
		switch classOf(ev) {
		case aboutSlots:
			moves = append(moves, ev)
		case news:
			c.take(ev)
		default:
			settle()
			c.advance()
			c.take(ev)
			c.advance()
		}
	}
	settle()
	c.advance()
	c.judgeDeferred()
	c.tell()
	return c.out
}

// class says how an event may be handled together with others.
type class byte

const (
	// alone: it is rare, and what came before it must have had its effect.
	alone class = iota
	// news: something has changed at a peer, or about it.
	news
	// aboutSlots: a peer asks for slots, gives them, or answers. It is judged by all that is
	// known of the peers, so the news that came with it are taken first. The network
	// could have brought the messages in that order as well.
	aboutSlots
)

func classOf(ev Event) class {
	switch ev := ev.(type) {
	case Tick, PeerAlive, PeerDead, PeerStanding, PeerSpoke, Heralded, StrangersHeard, FlowsCounted:
		return news
	case Received:
		switch m := ev.Message; {
		case m.Delta != nil, m.Ack != nil, m.Flows != nil:
			return news
		case m.Wish != nil, m.Verdict != nil:
			return alone
		}
		return aboutSlots
	}
	return alone
}

// advance brings everything that follows from the state to its end: phase, view,
// slots, the kernel and the statement.
func (c *Core) advance() {
	for again := true; again; again = c.replan {
		c.applyVoluntary()
		c.limp()
		c.live()
		c.plan()
		c.finish()
		c.plan() // what a phase's end has changed
		c.commit()
		c.publish()
	}
}

// tell has the shell told what is due after a step: to whom it sends what, and what it
// is to look for.
func (c *Core) tell() {
	c.noteDisowned()
	c.warnCutOff()
	c.tellPhases()
	c.findFlows()
	c.listFlows()
	c.tellStatement()
	c.offerGrants()
	c.transmitDue()
	c.acknowledge()
}

// take takes note of one event.
func (c *Core) take(event Event) {
	switch ev := event.(type) {
	case Tick:
	case Started:
		c.startedAt, c.drained, c.forced, c.doubt = c.now, ev.Drained || ev.Doubt, ev.Forced, ev.Doubt
		c.stamps = remembered(ev.Stamps, ev.Obeyed)
		if badGrace(ev.Grace) == "" {
			c.wishedGrace = ev.Grace
		}
	case SeedsTried:
		c.seedsTried = true
	case PeerAlive:
		delete(c.outside.unread, ev.Name)
		c.peerAlive(ev)
	case PeerDead:
		delete(c.outside.unread, ev.Name)
		c.peerDead(ev)
	case PeerUnreadable:
		c.peerUnreadable(ev)
	case PeerStanding:
		c.peerStanding(ev)
	case PeerSpoke:
		c.peerSpoke(ev)
	case HeldDead:
		c.heldDead(ev)
	case Heralded:
		c.heraldedNow(ev)
	case OtherKey:
		c.outside.otherKey = ev
	case StrangersHeard:
		c.strangersHeard(ev)
	case VIPAnswered:
		c.vipAnswered(ev)
	case ServeDespite:
		c.serveDespite(ev.Address)
	case Received:
		c.receive(ev.Message)
	case Committed:
		c.committed(ev)
	case Attached:
		c.attachDone(ev.Err)
	case WireChanged:
		c.wireChanged(ev)
	case HealthChanged:
		c.wantUnfit[ev.Service], c.whyUnfit[ev.Service] = !ev.Fit, ev.Reason
	case Wished:
		c.wished(ev)
	case Leave:
		c.leave(ev)
	case FlowsFound:
		c.flowsFound(ev)
	case FlowsListed:
		c.flowsListed(ev)
	case FlowsCounted:
		c.counted(ev)
	default:
		panic(fmt.Sprintf("node: unknown event %T", event))
	}
}
