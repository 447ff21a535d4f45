package node

// receive judges a message: from whom, to which incarnation, and what.
func (c *Core) receive(m *Message) {
	if m.To != 0 && m.To != c.cfg.Nonce {
		return // for an earlier life of this node
	}
	p := c.alivePeer(m.From)
	if p == nil {
		return // a stranger, a dead peer, or an earlier life of a peer; gossip speaks first
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
		p.flows = m.Flows.Counts
		return
	}
	if p.foreign || !m.fits(c.cfg.slots()) {
		return // another layout: its slots are not ours
	}
	switch {
	case m.Request != nil:
		c.receiveRequest(p, m.Request)
	case m.Grant != nil:
		c.receiveGrant(p, m.Grant)
	case m.Refusal != nil:
		c.receiveRefusal(p, m.Refusal)
	case m.Cancel != nil:
		c.receiveCancel(p, m.Cancel)
	case m.Confirm != nil:
		c.receiveConfirm(p, m.Confirm)
	}
}

func (c *Core) receiveDelta(p *peer, m *Message) {
	d := m.Delta
	p.told = true
	if p.foreign || !m.fits(c.cfg.slots()) {
		p.foreignIs = d.Phase
		c.replan = true
		c.send(p, &Message{Ack: &Ack{Nonce: d.Nonce, Version: d.Version}})
		return
	}
	if p.said != nil && d.Version <= p.said.Version {
		c.send(p, &Message{Ack: &Ack{Nonce: d.Nonce, Version: p.said.Version}})
		return
	}
	next, ok := d.apply(p.said)
	if !ok {
		known := uint64(0)
		if p.said != nil {
			known = p.said.Version
		}
		c.send(p, &Message{Ack: &Ack{Nonce: d.Nonce, Version: known, Lost: true}})
		return
	}
	p.said = next
	if next.Version >= p.releasedAt {
		p.released = c.cfg.newSet()
	}
	c.send(p, &Message{Ack: &Ack{Nonce: d.Nonce, Version: next.Version}})
	c.forgetConfirmed(p)
	if w, ok := c.wishes[p.Name]; ok && next.Obeyed >= w.Stamp {
		if _, waits := c.asking[p.Name]; !waits {
			delete(c.wishes, p.Name)
		}
	}
	c.replan = true
}

func (c *Core) receiveAck(p *peer, a *Ack) {
	if c.said == nil || a.Nonce != c.cfg.Nonce {
		return
	}
	p.acked = max(p.acked, min(a.Version, c.said.Version))
	c.replan = c.replan || c.orphansSince > 0
	if a.Lost && a.Version < c.said.Version {
		c.sendStatement(p, nil)
	}
}
