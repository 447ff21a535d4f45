package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// planned is the longest that a client may hear nothing in a planned change.
// Such a move takes about a millisecond; this is for a loaded machine.
const planned = 2 * time.Second

// inPhase waits until each observer says that the node is in the phase.
func inPhase(t *testing.T, phase string, n *lab.Node, observers ...*lab.Node) {
	t.Helper()
	eventually(t, func() error {
		for _, o := range observers {
			s, err := o.Status(t.Context())
			if err != nil {
				return err
			}
			if got, _ := s.Find(n.Name); got.Phase != phase {
				return fmt.Errorf("%s sees %s %q, want %q", o.Name, n.Name, got.Phase, phase)
			}
		}
		return nil
	})
}

// smooth checks that no client was silent for long since the time.
func (a audience) smooth(t *testing.T, since time.Duration) {
	t.Helper()
	if r := a.Report(lab.Window{From: since, To: a.l.Now()}, nil); r.Others.Longest.Max > planned {
		t.Errorf("a client was silent for %v in a planned change", r.Others.Longest.Max)
	}
}

// A drained node serves nobody, over a restart too, until it is resumed; then
// everything is as it was.
func TestDrainAndResume(t *testing.T) {
	l := cluster(t, 3)
	node, others := l.Nodes[1], []*lab.Node{l.Nodes[0], l.Nodes[2]}
	clients := listen(t, l)
	before := clients.allServed(t)

	from := l.Now()
	run(t, node, "drain", "--wait")
	if n, _ := mustStatus(t, node).Find(node.Name); n.Phase != "drained" || n.Serves("other") != 0 {
		t.Errorf("after drain --wait: %+v", n)
	}
	settle(t, l, others...)
	inPhase(t, "drained", node, l.Nodes...)
	drained := clients.allServed(t)
	if count(drained, node) != 0 {
		t.Errorf("the drained node serves %d clients", count(drained, node))
	}
	clients.unmoved(t, from, before, drained)
	clients.smooth(t, from)

	must(t, node.Restart())
	inPhase(t, "drained", node, l.Nodes...)
	settle(t, l, others...)
	clients.quiet(t)

	from = l.Now()
	run(t, node, "resume")
	settle(t, l, l.Nodes...)
	inPhase(t, "active", node, l.Nodes...)
	after := clients.allServed(t)
	clients.unmoved(t, from, drained, after)
	clients.smooth(t, from)
	clients.returned(t, before)
	clients.quiet(t)
}

func mustStatus(t *testing.T, n *lab.Node) lab.Status {
	t.Helper()
	s, err := n.Status(patiently(t))
	must(t, err)
	return s
}

// Any node is drained and resumed from any node. The last one is not drained
// unless that is really wanted, for nobody would answer.
func TestDrainFromAnotherNode(t *testing.T) {
	l := cluster(t, 2)
	a, b := l.Nodes[0], l.Nodes[1]
	clients := listen(t, l)
	clients.allServed(t)
	refused(t, "node-9", a, "drain", "node-9")
	run(t, a, "drain", b.Name)
	settle(t, l, a)
	inPhase(t, "drained", b, a, b)
	refused(t, "--force", a, "drain")
	refused(t, "--force", b, "drain", a.Name)
	settle(t, l, a)
	clients.allServed(t)
	run(t, a, "resume", b.Name)
	settle(t, l, a, b)
	clients.allServed(t)
	clients.quiet(t)
}

// A node that leaves, by command or by SIGTERM, hands over first and takes
// everything of peervip's with it.
func TestLeaveAndRejoin(t *testing.T) {
	l := cluster(t, 3)
	node, others := l.Nodes[2], l.Nodes[:2]
	clients := listen(t, l)
	before := clients.allServed(t)
	for name, leave := range map[string]func(){
		"leave": func() {
			run(t, node, "leave")
			must(t, node.WaitExit(patiently(t)))
		},
		"SIGTERM": func() { must(t, node.Stop(patiently(t))) },
	} {
		from := l.Now()
		leave()
		settle(t, l, others...)
		nothingLeft(t, node)
		without := clients.allServed(t)
		clients.unmoved(t, from, before, without)
		clients.smooth(t, from)
		if count(without, node) != 0 {
			t.Errorf("%s: the node still serves %d clients", name, count(without, node))
		}
		clients.quiet(t)
		start(t, node)
		settle(t, l, l.Nodes...)
		clients.allServed(t)
	}
	clients.quiet(t)
}

// All nodes stop in turn; the last takes the VIP with it.
func TestAllLeave(t *testing.T) {
	l := cluster(t, 2)
	for _, n := range l.Nodes {
		must(t, n.Stop(patiently(t)))
		nothingLeft(t, n)
	}
}

// A node that fails its check serves nobody until it is well again. When no node
// is fit nothing moves, and everybody is served.
func TestFailingHealthCheck(t *testing.T) {
	l := cluster(t, 3, func(_ int, c *lab.AgentConfig) {
		c.Spec.Services = []lab.ServiceSection{{Name: "other", Health: []lab.CheckSection{lab.HTTPCheck()}}}
	})
	a, b, c := l.Nodes[0], l.Nodes[1], l.Nodes[2]
	clients := listen(t, l)
	before := clients.allServed(t)

	from := l.Now()
	a.SetHealthy(false)
	settle(t, l, b, c)
	sick := clients.allServed(t)
	if count(sick, a) != 0 {
		t.Errorf("the sick node serves %d clients", count(sick, a))
	}
	clients.unmoved(t, from, before, sick)
	if n, _ := mustStatus(t, b).Find(a.Name); n.Services["other"].Healthy {
		t.Error("b does not see that a is not healthy")
	}

	b.SetHealthy(false)
	settle(t, l, c)
	c.SetHealthy(false)
	eventually(t, func() error {
		if n, _ := mustStatus(t, c).Find(c.Name); n.Services["other"].Healthy {
			return fmt.Errorf("c does not see that it is not healthy: %+v", n)
		}
		return nil
	})
	time.Sleep(time.Second)
	settle(t, l, c) // nothing has moved
	clients.smooth(t, from)
	clients.allServed(t)

	for _, n := range l.Nodes {
		n.SetHealthy(true)
	}
	settle(t, l, l.Nodes...)
	clients.returned(t, before)
	clients.quiet(t)
}
