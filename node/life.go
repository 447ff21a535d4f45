package node

import "fmt"

// live moves the node through its phases: from joining to serving when nothing
// forbids it any more, and back when the wire is gone or others run a newer spec.
func (c *Core) live() {
	switch c.phase {
	case Joining:
		if c.mayServe() != "" {
			return
		}
		if !c.attached {
			c.attach()
			return
		}
		c.enter(Active)
		if c.drained {
			c.enter(Draining)
		}
	case Active, Draining, Drained:
		if p := c.outranked(true); p != nil {
			c.withdrawFromService(fmt.Sprintf("%s serves with another spec of a higher rank", p.Name))
		}
	}
}

// enter changes the phase.
func (c *Core) enter(p Phase) {
	if c.phase == p {
		return
	}
	c.phase = p
	c.replan = true
	c.notice(false, "this node is %s", p)
}

// attach asks the shell to bring the VIP up, once at a time.
func (c *Core) attach() {
	if c.attaching || c.attachFailed != nil && c.now < c.attachAfter {
		return
	}
	c.attaching = true
	c.out = append(c.out, Attach{})
}

func (c *Core) attachDone(err error) {
	c.attaching = false
	if err != nil {
		if c.attachFailed == nil {
			c.notice(true, "the address cannot be brought up: %v", err)
		}
		c.attachFailed, c.attachAfter = err, c.now+c.cfg.Timing.Alone
		return
	}
	c.attached, c.attachFailed = true, nil
}

// mayServe says what still keeps a joining node from serving; "" if nothing does.
func (c *Core) mayServe() string {
	if !c.wire.OK {
		return c.wire.Reason
	}
	if !c.seedsTried {
		return "the seeds are being tried"
	}
	if p := c.outranked(false); p != nil {
		return fmt.Sprintf("%s runs another spec (revision %d, here %d); give all nodes the same spec",
			p.Name, p.SpecRevision, c.cfg.SpecRevision)
	}
	alone := true
	for p := range c.alivePeers() {
		alone = false
		if !p.told {
			if c.now >= p.aliveSince+c.cfg.Timing.Alone {
				continue // it has had its time; it may be of another format
			}
			return fmt.Sprintf("%s has not said yet what it claims", p.Name)
		}
	}
	if alone {
		return c.mayStartAlone()
	}
	return ""
}

// mayStartAlone: only after the seeds have been tried for a while, and on a wire
// that forwards; a port that still learns would hide the others.
func (c *Core) mayStartAlone() string {
	t := c.cfg.Timing
	if c.now < c.startedAt+t.Alone {
		return "no seed has answered yet"
	}
	if !c.wire.Forwards && c.now < c.wireSince+t.Carrier {
		return "no seed answers, and nobody on the wire does: the switch port may not forward yet"
	}
	return ""
}

// outranked returns an alive peer with another spec that goes before this node:
// those that serve go before those that do not, then the higher revision, then
// the lower name. With servingOnly, only peers that serve count.
func (c *Core) outranked(servingOnly bool) *peer {
	for p := range c.alivePeers() {
		if !p.foreign {
			continue
		}
		serves := p.foreignIs.Serving()
		higher := p.SpecRevision > c.cfg.SpecRevision ||
			p.SpecRevision == c.cfg.SpecRevision && p.Name < c.cfg.Name
		if servingOnly && serves && higher || !servingOnly && (serves || higher) {
			return p
		}
	}
	return nil
}

func (c *Core) wireChanged(ev WireChanged) {
	if !c.wire.OK && ev.OK {
		c.wireSince = c.now
	}
	lost := c.wire.OK && !ev.OK
	c.wire = ev
	if lost && c.phase.Serving() {
		c.withdrawFromService(ev.Reason)
	}
}

// withdrawFromService gives everything up at once, without heirs, and starts over
// as a joiner.
func (c *Core) withdrawFromService(why string) {
	c.notice(true, "giving up all buckets: %s", why)
	c.giveUp()
	c.enter(Joining)
	c.startedAt = c.now
}

// giveUp forgets every slot and everything under way about slots.
func (c *Core) giveUp() {
	c.withdraw(func(Slot) bool { return false })
	clear(c.requests)
	c.grants = nil
	c.want, c.promised, c.requested = c.cfg.newSet(), c.cfg.newSet(), c.cfg.newSet()
	c.replan = true
}

// leave begins the handing over of everything, and then the end.
func (c *Core) leave() {
	if c.phase == Leaving {
		return
	}
	if !c.phase.Serving() {
		c.giveUp()
	}
	c.enter(Leaving)
	c.leaveBy = c.now + c.cfg.Timing.LeaveBy
}

// finish ends what a phase was for: a node that drains is drained, one that
// leaves may stop.
func (c *Core) finish() {
	switch c.phase {
	case Leaving:
		if c.now >= c.leaveBy || !c.hasHeir() {
			c.giveUp()
		}
		if c.idle() && !c.stopped {
			c.stopped = true
			c.out = append(c.out, Stop{})
		}
	case Draining:
		if c.idle() && c.hasHeir() {
			c.enter(Drained)
		}
	}
}

// idle reports whether this node has nothing, and owes nothing.
func (c *Core) idle() bool {
	return c.want.Empty() && c.kernel.Empty() && c.open == nil && len(c.grants) == 0
}

// hasHeir reports whether some other node can be given buckets.
func (c *Core) hasHeir() bool {
	for _, m := range c.view.Members() {
		if m.Name != c.cfg.Name && m.eligible() > rankHolding {
			return true
		}
	}
	return false
}

// wished deals with what a local operator wants of some node.
func (c *Core) wished(ev Wished) {
	w := ev.Wish
	w.Origin = c.cfg.Name
	if w.Node == c.cfg.Name {
		w.Stamp = nextStamp(c.obeyed, w.Origin)
		c.answer(ev.Token, c.obey(w), "")
		return
	}
	p := c.peers[w.Node]
	if p == nil {
		c.answer(ev.Token, fmt.Sprintf("no node is named %q; `peervip status` lists them", w.Node), "")
		return
	}
	if p.said != nil {
		w.Stamp = p.said.Obeyed
	}
	w.Stamp = nextStamp(max(w.Stamp, c.wishes[w.Node].Stamp), w.Origin)
	c.keepWish(w)
	for q := range c.alivePeers() {
		q.wishSentAt = c.now
		c.send(q, &Message{Wish: &w})
	}
	if !p.alive {
		c.answer(ev.Token, "", fmt.Sprintf("%s is down; it will be told when it comes back", w.Node))
		return
	}
	c.asking[w.Node] = ev.Token
}

// keepWish keeps the wish until its node says that it has dealt with it. Whoever
// waits here for an older one is told.
func (c *Core) keepWish(w Wish) {
	c.wishes[w.Node] = w
	if token, ok := c.asking[w.Node]; ok {
		delete(c.asking, w.Node)
		c.answer(token, inBetween(w.Node), "")
	}
}

func inBetween(node string) string {
	return fmt.Sprintf("another command for %s came in between; see `peervip status`", node)
}

func (c *Core) receiveWish(p *peer, w Wish) {
	if w.Node != c.cfg.Name {
		if t := c.peers[w.Node]; t != nil && t.said != nil && t.said.Obeyed >= w.Stamp {
			return
		}
		if w.Stamp > c.wishes[w.Node].Stamp {
			c.keepWish(w)
		}
		return
	}
	if w.Stamp > c.obeyed {
		c.verdict = Verdict{Stamp: w.Stamp, Refused: c.obey(w)}
	}
	if w.Origin == p.Name {
		v := Verdict{Stamp: w.Stamp} // obeyed in an earlier life
		switch {
		case c.verdict.Stamp == w.Stamp:
			v = c.verdict
		case w.Stamp < c.obeyed:
			v.Refused = inBetween(w.Node)
		}
		c.send(p, &Message{Verdict: &v})
	}
}

func (c *Core) receiveVerdict(p *peer, v *Verdict) {
	if w, ok := c.wishes[p.Name]; ok && v.Stamp >= w.Stamp {
		delete(c.wishes, p.Name)
		if token, ok := c.asking[p.Name]; ok {
			delete(c.asking, p.Name)
			c.answer(token, v.Refused, "")
		}
	}
}

// obey does what is wished of this node, and returns why not if it cannot.
func (c *Core) obey(w Wish) (refused string) {
	c.obeyed = max(c.obeyed, w.Stamp)
	defer func() { c.out = append(c.out, Save{Drained: c.drained, Obeyed: c.obeyed}) }()
	switch w.Want {
	case WantDrain:
		return c.drain(w.Force)
	case WantResume:
		c.drained = false
		if c.phase == Draining || c.phase == Drained {
			c.enter(Active)
		}
	case WantWeight:
		if w.Weight < 1 || w.Weight > MaxWeight {
			return fmt.Sprintf("weight %d: must be 1 to %d", w.Weight, MaxWeight)
		}
		c.wantWeight = Tenths(w.Weight)
	default:
		return fmt.Sprintf("%s does not know how to %q; is it an older version?", c.cfg.Name, w.Want)
	}
	return ""
}

// MaxWeight is the greatest weight that a node may have.
const MaxWeight = 1000

func (c *Core) drain(force bool) (refused string) {
	if c.phase == Leaving {
		return fmt.Sprintf("%s is leaving already", c.cfg.Name)
	}
	if c.phase == Active && !force && !c.hasFitHeir() {
		return fmt.Sprintf("%s is the last fit node: nobody would answer; drain it all the same with --force", c.cfg.Name)
	}
	c.drained = true
	if c.phase != Active && c.phase != Draining {
		return ""
	}
	c.enter(Draining)
	if force && !c.hasHeir() {
		c.giveUp()
		c.enter(Drained)
	}
	return ""
}

// hasFitHeir reports whether each service for which this node is fit has another
// fit node.
func (c *Core) hasFitHeir() bool {
	for service := range c.cfg.Services {
		if c.unfit[service] {
			continue
		}
		found := false
		for _, m := range c.view.Members() {
			found = found || m.Name != c.cfg.Name && m.rank(service) == rankFit
		}
		if !found {
			return false
		}
	}
	return true
}
