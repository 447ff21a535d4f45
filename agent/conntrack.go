package agent

import (
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
)

// ConntrackStatus is how full the kernel's table of flows is: of all flows of the host.
type ConntrackStatus struct {
	Count   int    `json:"count"`
	Max     int    `json:"max"`
	Dropped uint64 `json:"dropped"` // packets without a place, and flows that went for others
}

const (
	// fillingPercent of the table are reason to act.
	fillingPercent = 80
	// nearlyFullPercent are full, if something was dropped: flows end all the time.
	nearlyFullPercent = 95
	// smallTable is less than the kernel gives a machine with 1 GB: fewer than 70 new
	// connections a second fill it, since each stays for the two minutes of TIME_WAIT.
	smallTable = 8192
)

// conntrackTrend is what was last seen of the table.
type conntrackTrend struct {
	nft.Conntrack
	drops trend
}

// see takes the table as it is now.
func (c *conntrackTrend) see(table nft.Conntrack, now node.Time) {
	if c.Max == 0 {
		c.drops.last = table.Dropped // by others, before this start
	}
	c.Conntrack = table
	c.drops.grew(table.Dropped, now)
}

// problems are those of the table. A new connection without a place in it gets no
// answer; alive is how many nodes share the load.
func (c *conntrackTrend) problems(alive int, now node.Time, list *problemList) {
	const cure = "raise net.netfilter.nf_conntrack_max"
	used := func(percent int) bool { return c.Count*100 >= c.Max*percent }
	switch {
	case c.Max == 0: // not known, or without a limit
	case used(100) || used(nearlyFullPercent) && c.drops.recent(now, lately):
		list.addAlert("conntrack is full", "conntrack is full: %d of %d, %d dropped: net.netfilter.nf_conntrack_max is too small for this host, and new connections get no answer: raise it",
			c.Count, c.Max, c.Dropped)
	case used(fillingPercent):
		list.add("conntrack is nearly full: %d of %d: without room new connections get no answer: %s", c.Count, c.Max, cure)
	case alive > 1 && c.Count*alive/(alive-1) > c.Max:
		list.add("conntrack is too small for a death: %d of %d here, and as many more as the share of a dead node: %s", c.Count, c.Max, cure)
	case c.Max < smallTable:
		list.add("conntrack has room for %d flows only, and a closed connection keeps its place for two minutes: %s", c.Max, cure)
	}
	if c.Liberal {
		list.add("net.netfilter.nf_conntrack_tcp_be_liberal is on: a client that uses a port again after a move may be reset by its old node: set it to 0")
	}
}

// status is nil if the kernel has not said it.
func (c *conntrackTrend) status() *ConntrackStatus {
	if c.Max == 0 {
		return nil
	}
	return &ConntrackStatus{Count: c.Count, Max: c.Max, Dropped: c.Dropped}
}

// alive counts the nodes that share the load.
func alive(nodes []node.NodeSnapshot) (n int) {
	for _, one := range nodes {
		if one.Alive {
			n++
		}
	}
	return n
}
