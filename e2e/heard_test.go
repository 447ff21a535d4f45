package e2e

import (
	"os"
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// A node whose seeds have no address, since the name server is dead, and whom no other
// node has for a seed, hears the beacons of its cluster: their senders are its seeds.
func TestWhoIsHeardIsJoined(t *testing.T) {
	l := build(t, 3, func(i int, c *lab.AgentConfig) {
		c.Cluster.Join = []string{"10.77.0.11", "10.77.0.12"}
		if i == 2 {
			c.Cluster.Join = []string{"web-1.invalid"}
		}
	})
	members, late := l.Nodes[:2], l.Nodes[2]
	start(t, members...)
	settle(t, l, members...)
	must(t, os.RemoveAll(late.Config.Node.StateDir)) // it knows of no peers
	start(t, late)
	settle(t, l, l.Nodes...)
}
