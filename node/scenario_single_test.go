package node

import (
	"testing"
	"time"
)

// holder is the one node that has all buckets; nil: none has.
func (w *world) holder() *simNode {
	for _, n := range w.nodes {
		if n.owns() == w.buckets {
			return n
		}
	}
	return nil
}

// TestFailedPrimaryReturns: a service that one node serves stays where
// it has gone to when its node had failed, unless it is told to return.
func TestFailedPrimaryReturns(t *testing.T) {
	for _, preempt := range []bool{false, true} {
		prepare := func(w *world) { w.single, w.preempt = true, preempt }
		scenarioIn(t, 3, prepare, func(t *testing.T, w *world) {
			primary := w.holder()
			if primary != w.nodes[0] {
				t.Fatalf("of equals %v serves, and not the first", primary)
			}
			w.gapLimit = 0
			w.stop(primary, false)
			w.run(3 * time.Second)
			next := w.holder()
			if next != w.nodes[1] {
				t.Fatalf("after the primary's death %v serves, and not the next", next)
			}
			w.gapLimit = oneHandoff
			w.start(primary)
			w.run(8 * time.Second)
			if preempt {
				next = primary
			}
			if now := w.holder(); now != next {
				t.Fatalf("after the primary's return %v serves, want %s", now, next.name)
			}
		})
	}
}

// TestSingleGoesAndStays: what is planned moves it, and no more than that.
func TestSingleGoesAndStays(t *testing.T) {
	prepare := func(w *world) { w.single = true }
	scenarioIn(t, 3, prepare, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		for _, step := range []struct {
			what string
			do   func()
			want *simNode
		}{
			{"a greater weight elsewhere", func() { w.wish(b, Wish{Node: c.name, Want: WantWeight, Weight: 300}) }, a},
			{"a drain", func() { w.wish(b, Wish{Node: a.name, Want: WantDrain}) }, c},
			{"the end of the drain", func() { w.wish(b, Wish{Node: a.name, Want: WantResume}) }, c},
			{"a failing check", func() { w.setFit(c, 0, false) }, a},
			{"a check that passes again", func() { w.setFit(c, 0, true) }, a},
			{"a leave", func() { w.step(a, Leave{}) }, c},
			{"a start", func() { w.start(a) }, c},
			{"a split", func() { w.partition(0, 1, 1) }, nil},
		} {
			if step.want == nil { // both halves serve
				w.strict = false
			}
			step.do()
			w.run(10 * time.Second)
			if now := w.holder(); step.want != nil && now != step.want {
				t.Fatalf("%s: %v serves, want %s", step.what, now, step.want.name)
			}
		}
		w.heal()
		w.run(10 * time.Second)
		if w.holder() == nil {
			t.Fatal("after the heal nobody serves alone")
		}
	})
}
