package node

import "slices"

// What gets worse is told and acted on at once, since clients meet it; what gets better
// takes its time, so that views come to rest even when many nodes change.

// voluntaryDue reports whether a change of weight or fitness waits for its turn.
func (c *Core) voluntaryDue() bool {
	return c.weight != c.wantWeight || !slices.Equal(c.unfit, c.wantUnfit)
}

// applyVoluntary lets changes of weight and fitness into what this node says of itself:
// those for the worse at once, those for the better when Timing.Voluntary has passed since
// the last change.
func (c *Core) applyVoluntary() {
	if !c.voluntaryDue() {
		return
	}
	better := !c.phase.Serving() || c.lastVoluntary == 0 || c.now >= c.lastVoluntary+c.cfg.Timing.Voluntary
	changed := false
	for i, unfit := range c.wantUnfit {
		switch {
		case unfit == c.unfit[i], !unfit && !better:
			continue
		case unfit:
			c.notice(true, "service %s: this node is unfit: %s", c.cfg.Services[i].Name, c.whyUnfit[i])
		default:
			c.notice(false, "service %s: this node is fit", c.cfg.Services[i].Name)
		}
		c.unfit[i], changed = unfit, true
	}
	if c.weight != c.wantWeight && (better || c.wantWeight < c.weight) {
		c.weight, changed = c.wantWeight, true
	}
	if !changed {
		return
	}
	c.lastVoluntary = 0
	if c.phase.Serving() {
		c.lastVoluntary = c.now
	}
	c.replan = true
}

// gather returns what a member counts for in the view that is made now. If it is in new
// trouble, it counts for what it did before until Timing.Gather has passed since that of
// the first: several nodes whose checks fail together are one change, not one after another
// with buckets that move to nodes which fail next. What an operator wants of a node comes
// alone, and at once.
func (c *Core) gather(m Member) Member {
	i := slices.IndexFunc(c.view.members, func(old Member) bool { return old.Incarnation == m.Incarnation })
	if i < 0 || !m.troubledMoreThan(c.view.members[i]) {
		return m
	}
	if c.gatherUntil == 0 {
		c.gatherUntil = c.now + c.cfg.Timing.Gather
	}
	if old := c.view.members[i]; c.now < c.gatherUntil {
		m.Unfit, m.CutOff = old.Unfit, old.CutOff
	}
	return m
}

// troubledMoreThan reports whether the member has lost its wire, or its fitness for a
// service, since it was the old one.
func (m Member) troubledMoreThan(old Member) bool {
	return m.CutOff && !old.CutOff ||
		slices.ContainsFunc(m.Unfit, func(service int) bool { return !slices.Contains(old.Unfit, service) })
}
