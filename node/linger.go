package node

import "github.com/peervip/peervip/hashring"

// flowLook is how this node learns which of its lingering slots still have flows.
type flowLook struct {
	done  bool         // the first look is over, after which the node may serve
	open  bool         // FindFlows was asked for, and not answered
	at    Time         // no look before
	pause Time         // from the last look to the next; grows while nothing ends
	slots hashring.Set // that the open look may end
}

// due reports whether there is something to look for.
func (l *flowLook) due(c *Core) bool {
	return !l.open && (!l.done || c.lingering.Intersects(c.kernelLinger))
}

// hurry makes the next look come soon: looks are rare while flows just go on,
// since each of them makes the kernel walk its whole table.
func (l *flowLook) hurry(now, pause Time) { l.pause, l.at = pause, min(l.at, now+pause) }

// claim makes the slots this node's: it shall take new flows of them.
func (c *Core) claim(slots hashring.Set) {
	c.want.AddAll(slots)
	c.lingering.RemoveAll(slots)
	c.cutting.RemoveAll(slots)
	c.lists.yielding.RemoveAll(slots)
}

// linger lets the flows of the slots go on here, where the kernel accepts any and
// their service wants that, until there are none, or the deadline of a drain or a
// leave.
func (c *Core) linger(slots hashring.Set) {
	c.lists.yielding.RemoveAll(slots)
	here := c.kernel.Clone()
	here.AddAll(c.kernelLinger)
	here.AddAll(c.lists.kernelYield)
	here.RetainAll(slots)
	c.revive(here)
	// An open look may have passed these slots before a flow began.
	c.flowLook.slots.RemoveAll(slots)
	c.flowLook.hurry(c.now, c.cfg.Timing.Look)
}

// revive lets flows go on that a former life of this node has left in the kernel.
func (c *Core) revive(slots hashring.Set) {
	kept := slots.Clone()
	kept.RetainAll(c.lingers)
	c.lingering.AddAll(kept)
}

// findFlows looks for flows: once at the start, of any slot, since an agent that
// has crashed finds its flows again; then of lingering slots.
func (c *Core) findFlows() {
	l := &c.flowLook
	if !l.due(c) || c.now < l.at {
		return
	}
	l.open, l.slots = true, c.lingering.Clone()
	l.slots.RetainAll(c.kernelLinger)
	if !l.done {
		l.slots = c.cfg.all()
	}
	c.out = append(c.out, FindFlows{Slots: l.slots.Clone(), Listed: c.listedHere()})
}

// flowsFound ends the lingering of slots without flows.
func (c *Core) flowsFound(ev FlowsFound) {
	l := &c.flowLook
	if !l.open {
		return
	}
	l.open = false
	l.pause = min(max(2*l.pause, c.cfg.Timing.Look), 16*c.cfg.Timing.Look)
	l.at = c.now + l.pause
	first := !l.done
	l.done = true
	switch {
	case ev.Err != nil:
		c.notice(true, "whether flows still live here cannot be told: %v", ev.Err)
	case first:
		c.revive(ev.Live)
		if n := c.lingering.Count(); n > 0 {
			c.notice(false, "flows of an earlier life go on in %s", Count(n, "buckets"))
		}
	default:
		over := l.slots.Clone()
		over.RemoveAll(ev.Live)
		c.lingering.RemoveAll(over)
		if !over.Empty() {
			l.hurry(c.now, c.cfg.Timing.Look)
		}
	}
}

// cut ends what still lingers when the deadline of a drain or a leave has come.
func (c *Core) cut() {
	if c.cutBy == 0 || c.now < c.cutBy || c.lingering.Empty() || c.phase == Restarting {
		return
	}
	if c.hurry && !c.handedOver() && c.now < c.giveUpBy {
		return // so that who comes back at once meets the heir
	}
	switch {
	case c.hurry:
		c.notice(false, "ending the open connections of %s, as asked for", Count(c.lingering.Count(), "buckets"))
	default:
		c.notice(true, "the time of the open connections is over: ending those of %s", Count(c.lingering.Count(), "buckets"))
	}
	c.cutting.AddAll(c.lingering)
	c.lingering = c.cfg.newSet()
}
