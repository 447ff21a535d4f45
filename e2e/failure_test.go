package e2e

import (
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// The clients of a node without power are served by the others, and those of the
// others notice nothing. The node comes back, and with it its clients.
func TestPowerOffAndRejoin(t *testing.T) {
	l := cluster(t, 3)
	victim, survivors := l.Nodes[1], []*lab.Node{l.Nodes[0], l.Nodes[2]}
	clients := listen(t, l)
	before := clients.allServed(t)

	from := l.Now()
	must(t, victim.PowerOff())
	settle(t, l, survivors...)
	without := clients.allServed(t)
	if count(without, victim) != 0 {
		t.Error("a node without power serves clients")
	}
	if moved := clients.unmoved(t, from, before, without); moved > count(before, victim)+len(before)/4 {
		t.Errorf("%d clients moved, %d were the dead node's", moved, count(before, victim))
	}
	if s := clients.Report(lab.Window{From: from, To: l.Now()}, victim).Affected; s.Longest.Max > 10*time.Second {
		t.Errorf("a client of the dead node was silent for %v", s.Longest.Max)
	}
	clients.quiet(t)

	from = l.Now()
	must(t, victim.PowerOn())
	must(t, victim.Start())
	settle(t, l, l.Nodes...)
	after := clients.allServed(t)
	clients.unmoved(t, from, without, after)
	clients.returned(t, before)
	clients.quiet(t)
}

// An agent that is back before anybody missed it is a new one, and its buckets
// are nobody's until it has joined again.
func TestRestartWithTheSameName(t *testing.T) {
	l := cluster(t, 3)
	clients := listen(t, l)
	clients.allServed(t)
	for range 3 {
		must(t, l.Nodes[2].Restart())
		settle(t, l, l.Nodes...)
		clients.allServed(t)
	}
	clients.quiet(t)
}

// Two nodes whose power fails at once: the third serves everybody.
func TestTwoPowerOffsAtOnce(t *testing.T) {
	l := cluster(t, 3)
	clients := listen(t, l)
	clients.allServed(t)
	must(t, l.Nodes[0].PowerOff())
	must(t, l.Nodes[1].PowerOff())
	settle(t, l, l.Nodes[2])
	if by := clients.allServed(t); count(by, l.Nodes[2]) != len(by) {
		t.Errorf("the last node serves %d of %d clients", count(by, l.Nodes[2]), len(by))
	}
	clients.quiet(t)
}
