package e2e

import (
	"fmt"
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// No planned change breaks an open connection, and no bucket is answered for
// twice meanwhile: the flows stay on their node, the new ones go to the heir.
func TestOpenConnectionsSurvivePlannedChanges(t *testing.T) {
	l := cluster(t, 3)
	node := l.Nodes[1]
	clients := listen(t, l)
	clients.allServed(t)
	held := l.Hold(lab.HoldConfig{})
	defer held.Stop()
	must(t, held.WaitOpen(patiently(t)))
	from := l.Now()
	whole := func(after string) {
		t.Helper()
		if r := held.Report(lab.Window{From: from, To: l.Now()}, nil); r.Held != len(l.Sources) || r.Reset > 0 || r.Stalled > 0 {
			t.Errorf("after the %s of %d open connections %d are reset and %d stalled", after, r.Held, r.Reset, r.Stalled)
		}
	}

	run(t, node, "drain")
	inPhase(t, "draining", node, l.Nodes...)
	eventually(t, func() error {
		s, err := node.Status(t.Context())
		if err != nil {
			return err
		}
		if n, _ := s.Find(node.Name); n.Serves("other") > 0 || n.Services["other"].Linger == 0 {
			return fmt.Errorf("%s still takes new flows, or keeps none: %+v", node.Name, n)
		}
		return nil
	})
	clients.quiet(t)
	whole("drain")

	run(t, node, "resume")
	settle(t, l, l.Nodes...)
	clients.quiet(t)
	whole("resume")

	run(t, node, "weight", node.Name, "300")
	settle(t, l, l.Nodes...)
	clients.quiet(t)
	whole("change of weight")

	// And when the last connection is gone, nothing is in transition any more.
	held.Stop()
	eventually(t, func() error {
		for _, n := range l.Nodes {
			s, err := n.Status(t.Context())
			if err != nil {
				return err
			}
			for _, peer := range s.Nodes {
				if svc := peer.Services["other"]; svc.Adopt > 0 || svc.Linger > 0 {
					return fmt.Errorf("%s sees %s adopt %d buckets and linger on %d", n.Name, peer.Name, svc.Adopt, svc.Linger)
				}
			}
		}
		return nil
	})
}

// At the deadline of a drain what is left of the node's connections is ended at
// both ends, and nobody else's.
func TestDeadlineOfADrain(t *testing.T) {
	l := cluster(t, 3, func(_ int, c *lab.AgentConfig) { c.Spec.DrainTimeout = "3s" })
	node := l.Nodes[1]
	clients := listen(t, l)
	served := count(clients.allServed(t), node)
	held := l.Hold(lab.HoldConfig{})
	defer held.Stop()
	must(t, held.WaitOpen(patiently(t)))
	from := l.Now()
	run(t, node, "drain", "--wait")
	inPhase(t, "drained", node, node)
	r := held.Report(lab.Window{From: from, To: l.Now()}, node)
	if r.Reset != served || r.OthersBroken > 0 || r.Stalled > 0 {
		t.Errorf("%d connections of the drained node, %d reset, %d of others broken, %d stalled",
			served, r.Reset, r.OthersBroken, r.Stalled)
	}
}
