package e2e

import (
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// healed is the longest for which two may answer after a split has healed. The design
// says one interval and a commit; this is for a loaded machine.
const healed = 2 * time.Second

// Two halves that hear nothing of each other both serve, each its own clients. When
// they meet again, two may answer for a moment.
func TestSplitAndHeal(t *testing.T) {
	play(t, 3, []scene{
		{"clients with the many", func(t *testing.T, l *lab.Lab) { split(t, l, l.Nodes[1:], l.Nodes[:1]) }},
		{"clients with the few", func(t *testing.T, l *lab.Lab) { split(t, l, l.Nodes[2:], l.Nodes[:2]) }},
	})
}

func TestSplitAndHealOfTwo(t *testing.T) {
	play(t, 2, []scene{
		{"clients with the first", func(t *testing.T, l *lab.Lab) { split(t, l, l.Nodes[:1], l.Nodes[1:]) }},
		{"clients with the second", func(t *testing.T, l *lab.Lab) { split(t, l, l.Nodes[1:], l.Nodes[:1]) }},
	})
}

// split parts the nodes; the clients are with those here.
func split(t *testing.T, l *lab.Lab, here, there []*lab.Node) {
	settle(t, l, l.Nodes...)
	talkers, err := l.Talk(pace)
	must(t, err)
	defer talkers.Stop()
	clients := audience{talkers, l}
	before := clients.allServed(t)

	must(t, l.Partition(lab.All, append(names(here...), lab.ClientPort), names(there...)))
	settle(t, l, here...)
	settle(t, l, there...)
	for _, n := range there {
		if c := count(clients.allServed(t), n); c > 0 {
			t.Errorf("%s, which is beyond the split, serves %d clients", n.Name, c)
		}
	}

	heal := l.Now()
	must(t, l.Heal())
	settle(t, l, l.Nodes...)
	clients.returned(t, before)
	clients.quiet(t)
	talkers.Stop()

	doubles, last := 0, heal
	for _, trace := range talkers.Traces() {
		for _, ask := range trace {
			if ask.Again == 0 {
				continue
			}
			if ask.Sent < heal {
				t.Fatalf("a datagram was answered twice %v before the heal, by node-%d and node-%d", heal-ask.Sent, ask.By, ask.Again)
			}
			doubles, last = doubles+1, max(last, ask.Sent)
		}
	}
	t.Logf("after the heal %d datagrams were answered twice, the last asked after %v", doubles, last-heal)
	if last-heal > healed {
		t.Errorf("two nodes answered for %v after the heal", last-heal)
	}
	r := clients.Report(lab.Window{From: heal, To: l.Now()}, nil)
	t.Logf("longest silence after the heal: %v", r.Others.Longest.Max)
}
