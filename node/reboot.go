package node

import (
	"fmt"
	"slices"
)

// After a switch reboot. Every node that loses its wire gives up its buckets and joins anew
// when the wire is back. Nobody serves then, and nobody should wait for a seed, or for
// strangers that are no part of it: as soon as a majority of the nodes that it knew hear
// each other a node that served before serves again. A minority may be one side of a switch
// whose other ports are still learning: it waits as long as a node that starts alone. What
// the others did meanwhile no node can know, so it holds nobody dead for a silence that
// was its own (Herald.wireBack).

// noteKnown keeps whom this node knows when it loses its wire while it serves: those that
// are alive, and those that have died a little before, since a switch may cease to forward
// before it takes the carrier away.
func (c *Core) noteKnown() {
	c.outside.knew = nil
	for _, p := range c.order {
		if p.alive || c.now < p.diedAt+c.cfg.Timing.Carrier {
			c.outside.knew = append(c.outside.knew, p.Name)
		}
	}
}

// hearsKnown is how many of those it hears now.
func (c *Core) hearsKnown() (heard int) {
	for p := range c.alivePeers() {
		if c.authenticated(p) && slices.Contains(c.outside.knew, p.Name) {
			heard++
		}
	}
	return heard
}

// servesAgain reports whether this node served when it lost its wire, and hears a
// majority of the nodes that it knew then.
func (c *Core) servesAgain() bool {
	heard := c.hearsKnown()
	return heard > 0 && 2*(heard+1) > len(c.outside.knew)+1
}

// missesMost says why a node that lost its wire while it served does not serve yet, though
// it hears somebody: they are too few, and none of them serves.
func (c *Core) missesMost() string {
	if c.outside.knew == nil || c.party().serves || c.servesAgain() || c.loneWait() == "" {
		return ""
	}
	return fmt.Sprintf("this node hears %d of the %d nodes that it knew before its wire was away, and none that serves: it waits a while for the others",
		c.hearsKnown(), len(c.outside.knew))
}
