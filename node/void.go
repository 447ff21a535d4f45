package node

import "slices"

// A grant may be lost for good: the holder has released the slots, and from then on no
// message of its reaches the heir. The holder must not take them back by itself, since the
// heir may have them. So the heir gives up a request that stays unanswered, cancels it,
// and says in its statement that it takes no grant of it any more. What is lost of that is
// sent again, as any statement is. Then the slots are the holder's again.

// giveUpUnanswered gives up the requests that were not answered in time.
func (c *Core) giveUpUnanswered() {
	for _, r := range c.sortedRequests() {
		if r.slots.Empty() || r.firstAt == 0 || c.now < c.answerBy(r) {
			continue
		}
		slots := r.slots
		r.slots = c.cfg.newSet()
		c.requested.RemoveAll(slots)
		c.givenUp, c.replan = max(c.givenUp, r.id), true
		if p := c.alivePeer(r.to); p != nil {
			c.send(p, &Message{Cancel: &Cancel{ID: r.id, Slots: slots}})
			c.holdBack(p, p.version())
		}
		c.dropIfOver(r)
	}
}

// answerBy is when a request is given up. As long as its holder speaks it may be waiting for
// its kernel.
func (c *Core) answerBy(r *request) Time {
	wait := c.cfg.Timing.Answer
	by := r.firstAt + wait
	if p := c.alivePeer(r.to); p != nil {
		by = max(by, p.spokeAt+wait)
	}
	return min(by, r.firstAt+4*wait)
}

// takes is the lowest ID of a request of which this node may still take a grant, or has
// taken one that its holder may not know to be confirmed. A request that is not kept is
// declined when a grant of it comes. While the kernel may still carry out what was given
// up, nothing is declined anew.
func (c *Core) takes() uint64 {
	if c.disowned && c.said != nil {
		return c.said.Takes
	}
	least := c.lastID + 1
	for id := range c.requests {
		least = min(least, id)
	}
	return least
}

// tellGivenUp reports whether a holder must be told that a request was given up. Others
// that are over it has answered itself.
func (c *Core) tellGivenUp(next *Statement) bool {
	return c.givenUp >= c.said.Takes && next.Takes > c.said.Takes
}

// voidGrants takes back what the peer will not take any more.
func (c *Core) voidGrants(p *peer) {
	for i := len(c.grants) - 1; i >= 0; i-- {
		if g := c.grants[i]; g.to == p.Incarnation && g.id < p.said.Takes {
			c.receiveCancel(p, &Cancel{ID: g.id, Slots: g.slots})
		}
	}
}

// mostDeferred bounds the requests of a peer that wait. Its heir repeats them.
const mostDeferred = 8

// putOff keeps a request of a peer that has not got what this node has told it last.
func (p *peer) putOff(q *Request) {
	p.deferred = slices.DeleteFunc(p.deferred, func(o *Request) bool { return o.ID == q.ID })
	if len(p.deferred) < mostDeferred {
		p.deferred = append(p.deferred, &Request{ID: q.ID, Slots: q.Slots.Clone()})
	}
}

// judgeDeferred judges the requests of those who have got it by now.
func (c *Core) judgeDeferred() {
	judged := false
	for p := range c.likePeers() {
		if len(p.deferred) > 0 && p.acked >= p.sent {
			for _, q := range p.deferred {
				c.receiveRequest(p, q)
			}
			p.deferred, judged = nil, true
		}
	}
	if judged {
		c.advance()
	}
}
