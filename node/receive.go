package node

// receive judges a message: from whom, to which incarnation, and what.
func (c *Core) receive(m *Message) {
	if m.For != "" && m.For != c.cfg.Name {
		c.passOn(m)
		return
	}
	if m.To != 0 && m.To != c.cfg.Nonce {
		return // for an earlier life of this node
	}
	p := c.alivePeer(m.From)
	if p == nil {
		return // a stranger, a dead peer, or an earlier life of a peer; gossip speaks first
	}
	p.latest = max(p.latest, m.Said)
	p.unanswered, p.spokeAt = 0, c.now
	c.came(p, m)
	if m.To != 0 {
		c.acknowledged(p, m.Heard)
	}
	switch {
	case m.Delta != nil:
		c.receiveDelta(p, m)
		return
	case m.Ack != nil:
		c.receiveAck(p, m.Ack)
		return
	case m.Wish != nil:
		c.receiveWish(p, *m.Wish)
		return
	case m.Verdict != nil:
		c.receiveVerdict(p, m.Verdict)
		return
	case m.Flows != nil:
		c.countedBy(p, m.Flows)
		return
	}
	if p.foreign || m.To == 0 || !m.fits(c.cfg.slots()) {
		return // its slots are not ours, or it is meant for anybody: slots never are
	}
	switch {
	case m.Request != nil:
		c.receiveRequest(p, m.Request)
	case m.Grant != nil:
		c.receiveGrant(p, m.Grant)
	case m.Refusal != nil:
		c.receiveRefusal(p, m.Refusal, m.Said)
	case m.Cancel != nil:
		c.receiveCancel(p, m.Cancel)
	case m.Confirm != nil:
		c.receiveConfirm(p, m.Confirm)
	case m.ListAsk != nil:
		c.receiveListAsk(p, m.ListAsk)
	case m.Lists != nil:
		c.receiveLists(p, m.Lists)
	}
}

func (c *Core) receiveDelta(p *peer, m *Message) {
	d := m.Delta
	if d.From == 0 && m.To != 0 && m.Heard == 0 {
		p.lost = true // it has only now met this node: what it was sent before it could not use
	}
	if p.foreign {
		d = d.withoutSlots(c.cfg.newSet())
	} else if !m.fits(c.cfg.slots()) {
		return // the same spec and other slots: no word of it can be true
	}
	known := uint64(0)
	if p.said != nil {
		known = p.said.Version
	}
	if d.Version <= known {
		p.owed = true
		return
	}
	next, ok := d.apply(p.said)
	if !ok {
		c.send(p, &Message{Ack: &Ack{Nonce: d.Nonce, Version: known, Lost: true}})
		return
	}
	p.said = next
	c.out = append(c.out, Have{p.Incarnation, next.Version})
	if next.Phase.Serving() { // then it has looked for the flows of its earlier lives
		c.bury(func(m mourning) bool { return m.Name == p.Name })
	}
	if next.Version >= p.releasedAt {
		p.released = c.cfg.newSet()
	}
	if next.Version >= p.lingersAt {
		p.lingers = c.cfg.newSet()
	}
	c.mournedBy(d.Mourned)
	p.owed = true
	c.forgetConfirmed(p)
	c.voidGrants(p)
	c.forgetWish(p)
	c.recallTo(p)
	c.replan = true
}

func (c *Core) receiveAck(p *peer, a *Ack) {
	if c.said == nil || a.Nonce != c.cfg.Nonce {
		return
	}
	c.acknowledged(p, a.Version)
	if p.behind > 0 && !p.whole {
		p.behind = c.now // it has answered what it could not use; a whole statement it could
	}
	p.lost = p.lost || a.Lost && a.Version < c.said.Version
}

// acknowledged takes note of the version of this node's statement that the peer has.
func (c *Core) acknowledged(p *peer, version uint64) {
	if c.said != nil && version > p.acked {
		p.acked = min(version, c.said.Version)
		if p.behind = 0; p.acked < p.sent {
			p.behind = c.now
		}
		c.replan = c.replan || c.inQuestion()
	}
}
