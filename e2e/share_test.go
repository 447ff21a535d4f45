package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// Each client is served by one node, always the same, whatever the protocol and
// port, and everybody can compute which.
func TestShare(t *testing.T) {
	l := cluster(t, 3)
	clients := listen(t, l)
	by := clients.allServed(t)
	browsers := l.Browse(lab.BrowseConfig{})
	clients.quiet(t)
	browsers.Stop()

	for _, n := range l.Nodes {
		if count(by, n) == 0 {
			t.Errorf("%s serves none of %d clients", n.Name, len(by))
		}
	}
	for i, trace := range clients.Traces() {
		for _, ask := range trace {
			if ask.By != 0 && ask.By != by[i] {
				t.Fatalf("client %s is answered by node-%d and node-%d", l.Sources[i], by[i], ask.By)
			}
		}
	}
	visits := browsers.Visits()
	if len(visits) == 0 {
		t.Error("nobody visited the web service")
	}
	for _, v := range visits {
		if v.Outcome != lab.OK || v.By != by[v.Source] {
			t.Errorf("client %s, whom node-%d answers on UDP, had its web page %v from node-%d: %v",
				l.Sources[v.Source], by[v.Source], v.Outcome, v.By, v.Err)
		}
	}
	for i, source := range l.Sources[:6] {
		owner := l.Nodes[by[i]-1].Name
		out := run(t, l.Nodes[i%3], "explain", source.String())
		if !strings.Contains(out, owner) {
			t.Errorf("%s is answered by %s, but explain says %s", source, owner, out)
		}
	}
}

// A node with twice the weight has twice the share.
func TestShareByWeight(t *testing.T) {
	l := cluster(t, 3, func(i int, c *lab.AgentConfig) {
		if i == 0 {
			c.Node.Weight = 200
		}
	})
	clients := listen(t, l)
	clients.allServed(t)
	clients.quiet(t)
	// settle has compared shares with weights; that they are these is for here.
	n, _ := settle(t, l, l.Nodes...).Find("node-1")
	if got := n.Serves("other"); got != 512 {
		t.Errorf("node-1, with half of all weight, serves %d of 1024 buckets", got)
	}
}

// Nodes that start at the same moment must not each serve alone for a while.
func TestTwoNodesStartingAtOnce(t *testing.T) {
	l := build(t, 2)
	clients := listen(t, l)
	start(t, l.Nodes...)
	settle(t, l, l.Nodes...)
	by := clients.allServed(t)
	if a, b := count(by, l.Nodes[0]), count(by, l.Nodes[1]); a == 0 || b == 0 {
		t.Errorf("%d and %d clients", a, b)
	}
	clients.quiet(t)
}

// The first node of a cluster finds nobody, says so, and serves; the next joins it.
func TestStartingAlone(t *testing.T) {
	l := build(t, 2)
	clients := listen(t, l)
	begun := time.Now()
	start(t, l.Nodes[0])
	s := settle(t, l, l.Nodes[0])
	if waited := time.Since(begun); waited < 5*time.Second {
		t.Errorf("alone after %v: it must look for its seeds for 5 s", waited)
	}
	if len(s.Problems) == 0 {
		t.Error("alone with seeds that it cannot reach, and status shows no problem")
	}
	clients.allServed(t)
	start(t, l.Nodes[1])
	settle(t, l, l.Nodes...)
	clients.allServed(t)
	clients.quiet(t)
}

// A node with another key is no member, does not serve, and says why.
func TestWrongKey(t *testing.T) {
	binary, err := tested()
	must(t, err)
	l := build(t, 3)
	members, stranger := l.Nodes[:2], l.Nodes[2]
	stranger.Config.Cluster.KeyFile += "-of-another"
	must(t, lab.WriteKey(t.Context(), binary, stranger.Config.Cluster.KeyFile))
	start(t, members...)
	settle(t, l, members...)
	clients := listen(t, l)
	clients.allServed(t)
	start(t, stranger)
	time.Sleep(8 * time.Second) // longer than it takes to start alone

	s := settle(t, l, members...)
	if n, known := s.Find(stranger.Name); known && n.Alive {
		t.Errorf("%s is a member: %+v", stranger.Name, n)
	}
	if by := clients.allServed(t); count(by, stranger) > 0 {
		t.Errorf("%s serves %d clients", stranger.Name, count(by, stranger))
	}
	clients.quiet(t)
	said := stranger.Log()
	if stranger.Running() {
		s, err := stranger.Status(patiently(t))
		must(t, err)
		said = strings.Join(s.Problems, "\n")
	}
	if !strings.Contains(said, "key") {
		t.Errorf("%s does not say that its key is wrong, but: %s", stranger.Name, said)
	}
}
