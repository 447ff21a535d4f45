package e2e

import (
	"fmt"
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// wholeCluster is a running cluster under `linger: all`, whose kernels forget a
// datagram flow after some seconds of silence.
func wholeCluster(t *testing.T) *lab.Lab {
	t.Helper()
	l := cluster(t, 3, func(_ int, c *lab.AgentConfig) {
		c.Spec.Services = []lab.ServiceSection{{Name: "other", Linger: "all"}}
	})
	for _, n := range l.Nodes {
		for _, kind := range []string{"udp_timeout", "udp_timeout_stream"} {
			_, err := n.NS.Run("sysctl", "-q", "-w", "net.netfilter.nf_conntrack_"+kind+"=5")
			must(t, err)
		}
	}
	return l
}

// unmovedBut checks who answers each source: the node from before, or, if that is
// the one that has gone, somebody else.
func (a audience) unmovedBut(t *testing.T, before []lab.NodeID, gone *lab.Node, when string) []lab.NodeID {
	t.Helper()
	after := a.allServed(t)
	for i := range after {
		if left := gone != nil && before[i] == gone.ID(); left == (after[i] == before[i]) {
			t.Errorf("%s %s is answered by node-%d, before by node-%d", when, a.l.Sources[i], after[i], before[i])
		}
	}
	return after
}

// lingers waits until the node takes no new flows and keeps some.
func lingers(t *testing.T, n *lab.Node) {
	t.Helper()
	eventually(t, func() error {
		s, err := n.Status(t.Context())
		if err != nil {
			return err
		}
		if n, _ := s.Find(n.Name); n.Serves("other") > 0 || n.Services["other"].Linger == 0 {
			return fmt.Errorf("%s still takes new flows, or keeps none: %+v", n.Name, n)
		}
		return nil
	})
}

// nothingMoves waits until no bucket is in transition.
func nothingMoves(t *testing.T, l *lab.Lab) {
	t.Helper()
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

// Under `linger: all` a client that talks by datagrams stays on its node over a
// drain and a resume; new ones move at once; who falls silent is forgotten.
func TestTalkativeClientsStayOverADrain(t *testing.T) {
	l := wholeCluster(t)
	node := l.Nodes[1]
	old := listen(t, l)
	before := old.allServed(t)
	if count(before, node) == 0 {
		t.Fatalf("%s serves no client", node.Name)
	}

	run(t, node, "drain")
	lingers(t, node)
	old.quiet(t)
	old.unmovedBut(t, before, nil, "while its node drains")
	fresh := listen(t, l)
	moved := fresh.unmovedBut(t, before, node, "a new flow, while a node drains,")

	run(t, node, "resume")
	settle(t, l, l.Nodes...)
	old.quiet(t)
	old.unmovedBut(t, before, nil, "after the resume")
	fresh.unmovedBut(t, moved, nil, "after the resume")

	// Who falls silent is forgotten, and then nothing is in transition any more.
	fresh.Stop()
	nothingMoves(t, l)
	run(t, node, "drain")
	lingers(t, node)
	old.unmovedBut(t, before, nil, "while its node drains again")
	inPhase(t, "draining", node, l.Nodes...)
	old.Stop()
	inPhase(t, "drained", node, l.Nodes...)
}

// When an heir dies while the old owner keeps flows, whoever comes next leaves them
// alone too.
func TestTalkativeClientsStayWhenTheHeirDies(t *testing.T) {
	l := wholeCluster(t)
	keeper, heir := l.Nodes[1], l.Nodes[2]
	clients := listen(t, l)
	before := clients.allServed(t)
	run(t, keeper, "drain")
	lingers(t, keeper)
	must(t, heir.Kill())
	settle(t, l, l.Nodes[0])
	clients.unmovedBut(t, before, heir, "after the death of an heir")
	clients.quiet(t)
}

// An agent that comes back keeps no datagrams: whoever has their bucket now
// answers.
func TestDatagramsAfterARestart(t *testing.T) {
	l := wholeCluster(t)
	clients := listen(t, l)
	clients.allServed(t)
	must(t, l.Nodes[1].Restart())
	settle(t, l, l.Nodes...)
	clients.allServed(t)
	clients.quiet(t)
}
