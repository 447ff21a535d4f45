package node

import (
	"cmp"
	"fmt"
	"slices"
)

// live moves the node through its phases: from joining to serving when nothing
// forbids it any more, and back when the wire is gone or others run a newer spec.
func (c *Core) live() {
	switch c.phase {
	case Joining:
		c.watchStrangers()
		if c.mayServe() != "" {
			return
		}
		if !c.attached {
			c.attach()
			return
		}
		if c.drained && c.cutBy == 0 { // over a restart too a drain has an end
			c.cutBy = c.now + c.grace()
		}
		switch {
		case c.forced:
			c.enter(Drained)
		case c.drained:
			c.enter(Draining)
		default:
			c.enter(Active)
		}
	case Active, Draining, Drained:
		if p := c.outranked(true); p != nil {
			c.withdrawFromService(fmt.Sprintf("%s serves with another spec of a higher rank", p.Name))
		} else if c.heralded.Unheeded || c.heralded.Uninformed {
			c.withdrawFromService(c.unheeded())
		} else if p := c.stuckBeside(); p != nil {
			c.withdrawFromService(fmt.Sprintf("messages do not pass between this node and %s, and for that nobody owns %s: %s", p.Name, Count(c.unclaimed(), "buckets"), lookAtMessages))
		}
	}
}

// enter changes the phase.
func (c *Core) enter(p Phase) {
	if c.phase == p {
		return
	}
	if !p.Serving() {
		c.servingSince = 0
	} else if !c.phase.Serving() || c.phase == Drained { // see Liveness.mayTake
		c.servingSince = c.now
	}
	c.phase = p
	if p == Joining {
		c.joinedWith = 0
	}
	c.outside.freeSince = 0
	if p.Serving() {
		c.outside.knew = nil
	}
	c.waitedFor = -1
	c.replan = true
	c.notice(false, "this node is %s", p)
}

// attach asks the shell to bring the VIP up, once at a time.
func (c *Core) attach() {
	if c.attaching || c.now < c.attachAfter {
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
	c.attached, c.attachFailed, c.attachAfter = true, nil, 0
}

// mayServe says what still keeps a joining node from serving; "" if nothing does.
func (c *Core) mayServe() string {
	if why := c.mayServeBut(); why != "" {
		return why
	}
	return c.strangersForbid()
}

// mayServeBut is mayServe without a look at strangers on the wire.
func (c *Core) mayServeBut() string {
	if !c.wire.OK {
		return c.wire.Reason
	}
	if !c.flowLook.done {
		return "the flows of this node's last life are being looked for"
	}
	if !c.letGo() {
		return "the kernel has not let go of all buckets yet"
	}
	if !c.seedsTried {
		return "the seeds are being tried"
	}
	if c.now < max(c.startedAt, c.wireSince)+c.cfg.Silence { // to meet takes some beacons
		return "this node listens for beacons"
	}
	if c.heralded.Barred != "" {
		return c.heralded.Barred
	}
	if c.heralded.Unknown != "" {
		return c.heralded.Unknown
	}
	if list := c.unlisted(); len(list) > 0 {
		return fmt.Sprintf("beacons of %s come, but its gossip port cannot be reached: look for a firewall, or add it to cluster.join", list[0].Name)
	}
	if why := c.unreadableForbid(); why != "" {
		return why
	}
	if p := c.outranked(false); p != nil {
		return fmt.Sprintf("%s runs another spec (revision %d, here %d); give all nodes the same spec",
			p.Name, p.SpecRevision, c.cfg.SpecRevision)
	}
	alone := true
	for p := range c.alivePeers() {
		alone = false
		if why := c.unheard(p); why != "" {
			return why
		}
		if p.said == nil {
			if c.now >= p.aliveSince+c.cfg.Timing.Alone {
				continue // it has had its time; it may be of another format
			}
			return fmt.Sprintf("%s has not said yet what it claims", p.Name)
		}
	}
	if alone {
		return c.mayStartAlone()
	}
	return cmp.Or(c.missesMost(), c.unheeded())
}

// unheard says why a member of which no beacon comes keeps this node from serving:
// neither would know of the other's death. Who does not serve has its time only.
func (c *Core) unheard(p *peer) string {
	serves := p.said != nil && p.member().Phase != Joining
	if c.cfg.Silence == 0 || p.heard != nil || !serves && c.now >= p.aliveSince+c.cfg.Timing.Alone {
		return ""
	}
	return fmt.Sprintf("no beacon of %s comes that has heard this node, on the wire or by unicast: look for a firewall that drops UDP to cluster.beacon_port, here and there, and for another key or cluster name", p.Name)
}

// mayStartAlone: only after the seeds have been tried for a while, and on a wire
// that forwards; a port that still learns would hide the others.
func (c *Core) mayStartAlone() string {
	if why := c.seedsRefuse(); why != "" {
		return why
	}
	if c.hearsAnybody() {
		return "somebody's beacons come, and no seed answers: look at cluster.join and for a firewall at the gossip port"
	}
	if list := c.unreadable(); len(list) > 0 {
		return fmt.Sprintf("a member that cannot be understood sends beacons: %s; %s", describeStrangers(list), strangerCure(list))
	}
	return c.loneWait()
}

// loneWait says for what a node waits that hears nobody, or too few.
func (c *Core) loneWait() string {
	t := c.cfg.Timing
	if c.now < max(c.startedAt, c.wireSince)+t.Alone {
		return "no node of this cluster has answered yet"
	}
	if !c.wire.Forwards && c.now < c.wireSince+t.Carrier {
		return "no seed answers, and nobody on the wire does: the switch port may not forward yet"
	}
	return ""
}

// outranked returns an alive peer with another spec that goes before this node:
// those that serve go before those that do not, then the higher revision, then
// the lower name. A peer that does not serve has some time to begin, and is not waited
// for if it cannot. With servingOnly, only peers that serve count.
func (c *Core) outranked(servingOnly bool) *peer {
	for p := range c.alivePeers() {
		if !p.foreign {
			continue
		}
		serves := p.said != nil && p.member().Phase != Joining
		higher := p.SpecRevision > c.cfg.SpecRevision ||
			p.SpecRevision == c.cfg.SpecRevision && p.Name < c.cfg.Name
		waits := c.now < max(p.aliveSince, c.startedAt)+c.cfg.Timing.Alone
		if servingOnly && serves && higher || !servingOnly && (serves || higher && waits) {
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
	if lost {
		c.outside.freeSince = 0
	}
	if lost && c.phase.Serving() {
		c.noteKnown()
		c.withdrawFromService(ev.Reason)
	}
}

// withdrawFromService gives everything up at once, without heirs, and starts over
// as a joiner.
func (c *Core) withdrawFromService(why string) {
	c.notice(true, "giving up all buckets: %s", why)
	c.dropLists()
	c.giveUp()
	c.disowned = true // others take what it had, also if its kernel does not let go of it yet
	c.enter(Joining)
	c.startedAt, c.giveUpBy, c.cutBy = c.now, 0, 0
}

// giveUp lets go of every slot and everything under way about slots. The flows
// that are here go on.
func (c *Core) giveUp() {
	if c.want.Empty() && len(c.requests) == 0 && len(c.grants) == 0 {
		return
	}
	c.withdraw(c.cfg.newSet())
	c.disowned = c.disowned || c.openTakes // what it takes is claimed no more
	for id, r := range c.requests {
		// What the kernel has confirmed must go on to be confirmed; what it has not
		// is declined when it cannot accept it any more (see receiveGrant).
		if r.taken = r.closed.Clone(); r.taken.Empty() {
			delete(c.requests, id)
		}
	}
	c.grants = nil
	c.want, c.promised = c.cfg.newSet(), c.cfg.newSet()
	c.linger(c.cfg.all())
	c.replan = true
}

// leave begins the handing over of everything, and then the end. A leave may still
// become a restart, and the other way round.
func (c *Core) leave(ev Leave) {
	next := Leaving
	c.lastToGo = false
	if ev.KeepFlows {
		next = Restarting
	}
	c.hurry = c.hurry || ev.Now
	if c.phase.Going() {
		c.enter(next)
		c.cutBy = min(c.cutBy, c.now+c.grace())
		return
	}
	by := c.now + c.grace()
	if c.phase == Draining && c.cutBy > 0 { // whose time runs already
		by = min(by, c.cutBy)
	}
	if !c.phase.Serving() {
		c.giveUp()
	}
	c.enter(next)
	c.giveUpBy, c.cutBy = c.now+c.cfg.Timing.LeaveBy, by
}

// finish ends what a phase was for: a node that drains is drained, one that
// leaves may stop, and does so even if its kernel refuses to release the buckets:
// the end of the process releases them.
func (c *Core) finish() {
	c.cut()
	switch c.phase {
	case Draining:
		if c.idle() && c.hasHeir(rankUnfit) {
			c.enter(Drained)
		}
	case Drained, Leaving, Restarting: // a node that is drained by force may still have some
		if c.now >= c.giveUpBy || !c.hasHeir(rankHolding) {
			c.giveUp()
		}
		if c.phase == Leaving && !c.hasHeir(rankHolding) && !c.awaitsHeir() {
			c.lingering = c.cfg.newSet() // nobody is left to serve the address: why wait
			c.lastToGo = true
		}
		late := c.now >= max(c.giveUpBy, c.cutBy)+c.cfg.Timing.LeaveBy
		done := c.phase == Leaving && c.idle() || c.phase == Restarting && c.handedOver()
		switch {
		case !done:
			c.doneAt = 0
		case c.doneAt == 0:
			c.doneAt = c.now
		}
		patience := c.doneAt + c.cfg.Timing.Agreement
		// Who does not know of it ends its flows. Without a wire, or an address, nobody can
		// be told, and nobody waits for it.
		if c.phase == Restarting && c.wire.OK {
			patience = max(patience, c.giveUpBy)
		}
		// What the last one had ends with it: it must be gone when somebody serves again.
		over := done && (c.lastToGo || c.announced() || c.now >= patience)
		if c.phase.Going() && !c.stopped && (over || late) {
			c.stopped = true
			c.out = append(c.out, Stop{KeepFlows: c.phase == Restarting})
		}
	}
}

// announced reports whether all peers know what this node has to say now: who goes is
// waited for until they know that it has nothing.
func (c *Core) announced() bool {
	if c.said == nil || !c.statement().sameBut(c.said) {
		return false
	}
	for p := range c.likePeers() {
		if p.acked < c.said.Version {
			return false
		}
	}
	return true
}

// handedOver reports whether this node has nothing that new flows come to, and owes
// nothing.
func (c *Core) handedOver() bool {
	return c.want.Empty() && c.kernel.Empty() && c.open == nil && len(c.grants) == 0
}

// idle reports whether this node has nothing, and owes nothing.
func (c *Core) idle() bool {
	return c.handedOver() && c.lingering.Empty() && c.kernelLinger.Empty()
}

// hasHeir reports whether some other node, of that rank at least when its checks
// pass, can be given buckets.
func (c *Core) hasHeir(least rank) bool {
	return slices.ContainsFunc(c.view.Members(), func(m Member) bool {
		return m.Name != c.cfg.Name && m.eligible() >= least
	})
}

// awaitsHeir reports whether another node may soon serve again: this one may have missed
// it for a moment only, or it restarts, or joins.
func (c *Core) awaitsHeir() bool {
	for p := range c.claimers() {
		if phase := p.member().Phase; phase == Restarting || phase == Joining {
			return true
		}
	}
	return !c.wire.OK || len(c.mourned) > 0
}

// hasFitHeir reports whether each service has another fit node: each of those for which
// this node is fit, or every one.
func (c *Core) hasFitHeir(every bool) bool {
	for service, unfit := range c.unfit {
		if (every || !unfit) && !slices.ContainsFunc(c.view.Members(), func(m Member) bool {
			return m.Name != c.cfg.Name && m.rank(service) == rankFit
		}) {
			return false
		}
	}
	return true
}

// drain begins what an operator wishes. With force the node gives its buckets away
// though nobody else is fit for them: to nodes that are not, or to nobody.
func (c *Core) drain(force bool, grace *Time) (refused string) {
	switch {
	case badGrace(grace) != "":
		return badGrace(grace)
	case c.phase.Going():
		return fmt.Sprintf("%s is %s already", c.cfg.Name, c.phase)
	case c.phase == Active && !force && !c.hasFitHeir(false):
		return fmt.Sprintf("%s is the last fit node: nobody would answer; drain it all the same with --force", c.cfg.Name)
	}
	c.drained, c.forced, c.wishedGrace = true, c.forced || force, grace
	c.cutBy = c.now + c.grace()
	switch {
	case !c.phase.Serving(): // it will be drained when it begins to serve
	case force && !c.hasFitHeir(true):
		c.enter(Drained)
		c.giveUpBy = c.now + c.cfg.Timing.LeaveBy
	case c.phase == Active:
		c.enter(Draining)
	}
	return ""
}

// resume takes a drain back.
func (c *Core) resume() (refused string) {
	c.drained, c.forced, c.wishedGrace = false, false, nil
	if c.phase.Going() {
		return fmt.Sprintf("%s is %s; it will serve when it is started again", c.cfg.Name, c.phase)
	}
	c.giveUpBy, c.cutBy = 0, 0
	c.revive(c.cutting)
	c.cutting = c.cfg.newSet()
	if c.phase.Serving() {
		c.enter(Active)
	}
	return ""
}
