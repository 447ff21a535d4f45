package node

import (
	"fmt"

	"github.com/peervip/peervip/hashring"
)

// MaxGrace bounds the time that an operator may give the flows of a node that drains.
const MaxGrace = 7 * 24 * Time(3600e9)

// grace is how long the flows of a node that drains or leaves may go on, from now on.
func (c *Core) grace() Time {
	switch {
	case c.hurry:
		return 0
	case c.wishedGrace != nil:
		return *c.wishedGrace
	}
	return c.cfg.DrainTimeout
}

// badGrace says what is wrong with a grace that is wished for; "": nothing.
func badGrace(grace *Time) string {
	if grace != nil && (*grace < 0 || *grace > MaxGrace) {
		return fmt.Sprintf("a grace of %v: want 0s (open connections are ended at once) to %v", *grace, MaxGrace)
	}
	return ""
}

// Waiting is what a node that drains or leaves waits for.
type Waiting struct {
	// Flows that are open here and linger.
	Flows int
	// Left is how long it waits for them at the most.
	Left Time
}

// waiting is what this node waits for; nil: it does not, or it has not counted yet.
func (c *Core) waiting() *Waiting {
	if c.waitedFor < 0 || c.phase != Draining && c.phase != Leaving {
		return nil
	}
	return &Waiting{c.waitedFor, max(c.cutBy-c.now, 0)}
}

// counted takes how many flows there are, and tells the peers.
func (c *Core) counted(ev FlowsCounted) {
	c.flows, c.waitedFor = ev.Counts, ev.Waiting
	m := Flows{Counts: c.flows}
	if w := c.waiting(); w != nil {
		m.Waiting, m.Left = &w.Flows, w.Left
	}
	for p := range c.alivePeers() {
		c.send(p, &Message{Flows: &m})
	}
}

// countedBy takes what a peer has counted.
func (c *Core) countedBy(p *peer, m *Flows) {
	p.flows, p.waiting = m.Counts, nil
	if m.Waiting != nil {
		p.waiting, p.waitsUntil = &Waiting{Flows: *m.Waiting}, c.now+min(max(m.Left, 0), MaxGrace)
	}
}

// waitingOf is what a peer waits for, as it said.
func (c *Core) waitingOf(p *peer) *Waiting {
	if p.waiting == nil {
		return nil
	}
	return &Waiting{p.waiting.Flows, max(p.waitsUntil-c.now, 0)}
}

// Lingering are the slots whose flows a node that drains or leaves waits for, or soon
// will, and those of them of which the kernel has flows by lists.
func (c *Core) Lingering() (slots, listed hashring.Set) {
	slots = c.want.Clone()
	for _, set := range []hashring.Set{c.kernel, c.lingering, c.kernelLinger, c.lists.kernelYield} {
		slots.AddAll(set)
	}
	slots.RetainAll(c.lingers)
	return slots, c.listedHere()
}
