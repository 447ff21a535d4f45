package node

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// losing loses messages from one node to another from now on, whichever of them they are
// of, while beacons pass.
func (w *world) losing(links ...[2]int) {
	w.intercept = func(from, to *simNode, _ *Message) fate {
		return fate{lost: slices.Contains(links, [2]int{from.index, to.index})}
	}
}

// hearNothing cuts two nodes from each other, on all media; both stay members.
func (w *world) hearNothing(a, b int) {
	for _, link := range [][2]int{{a, b}, {b, a}} {
		w.wireCut[link], w.unicastCut[link] = true, true
	}
	w.losing([2]int{a, b}, [2]int{b, a})
}

// pairFaults are between n1 and n2.
var pairFaults = map[string]func(w *world){
	"messages one way":   func(w *world) { w.losing([2]int{1, 2}) },
	"messages both ways": func(w *world) { w.losing([2]int{1, 2}, [2]int{2, 1}) },
	"all both ways":      func(w *world) { w.hearNothing(1, 2) },
	"all both ways, and gossip knows": func(w *world) {
		w.hearNothing(1, 2)
		w.gossipCut[[2]int{1, 2}], w.gossipCut[[2]int{2, 1}] = true, true
		w.gossipAll()
	},
}

// TestNewsPassesThroughAThird: two nodes do not reach each other, one of
// them changes, a third dies. Invariants 1 and 6 hold while the fault lasts.
func TestNewsPassesThroughAThird(t *testing.T) {
	for name, fault := range pairFaults {
		for change, wish := range map[string]Wish{
			"nothing": {}, "n1 drains": {Node: "n1", Want: WantDrain}, "n1 has more weight": {Node: "n1", Want: WantWeight, Weight: 300},
			"n2 has less weight": {Node: "n2", Want: WantWeight, Weight: 20},
		} {
			t.Run(name+", "+change, func(t *testing.T) {
				scenario(t, 4, func(t *testing.T, w *world) {
					w.gapLimit = 0 // what nobody answers is told again first
					fault(w)
					w.run(3 * time.Second)
					if wish.Node != "" {
						w.wish(w.nodes[0], wish)
						w.run(7 * time.Second) // weights take their time
					}
					if n := w.unowned(); n > 0 {
						t.Errorf("%d buckets have no owner after the change", n)
					}
					w.stop(w.nodes[3], false)
					w.run(time.Second)
					if n := w.unowned(); n > 0 {
						t.Errorf("%d buckets have no owner a second after a death", n)
					}
					for _, n := range w.up() {
						if !n.core.agreed() {
							t.Errorf("%s does not agree with the others", n.name)
						}
					}
					w.heal()
				})
			})
		}
	}
}

// TestEverybodySaysWhoseMessagesNeedAThird, with what to look at, and ceases to when that
// is over.
func TestEverybodySaysWhoseMessagesNeedAThird(t *testing.T) {
	for want, links := range map[string][][2]int{
		"messages of n1 reach n2 only through other nodes":         {{1, 2}},
		"messages between n1 and n2 pass only through other nodes": {{1, 2}, {2, 1}},
	} {
		scenario(t, 4, func(t *testing.T, w *world) {
			say := func() (n int) {
				for _, node := range w.nodes {
					for _, line := range node.core.Snapshot().Problems {
						if strings.HasPrefix(line, want) && strings.Contains(line, "look for a firewall") {
							n++
						}
					}
				}
				return n
			}
			change := func() {
				for weight := 50; weight < 200; weight += 50 {
					w.wish(w.nodes[0], Wish{Node: "n1", Want: WantWeight, Weight: weight})
					w.run(6 * time.Second)
				}
			}
			w.gapLimit = 0
			w.losing(links...)
			change()
			if n := say(); n != 4 {
				t.Errorf("%d of 4 nodes say that %s", n, want)
			}
			w.intercept = nil
			change()
			if n := say(); n != 0 {
				t.Errorf("%d nodes still say that %s", n, want)
			}
		})
	}
}

// TestNothingExtraWhenAllIsWell: no message takes another way on a sound network.
func TestNothingExtraWhenAllIsWell(t *testing.T) {
	scenario(t, 4, func(t *testing.T, w *world) {
		w.intercept = func(from, to *simNode, m *Message) fate {
			if m.For != "" {
				t.Errorf("%s sends a message for %s to %s", from.name, m.For, to.name)
			}
			return fate{}
		}
		w.wish(w.nodes[0], Wish{Node: "n1", Want: WantDrain})
		w.run(3 * time.Second)
		w.wish(w.nodes[0], Wish{Node: "n1", Want: WantResume})
		w.run(3 * time.Second)
	})
}
