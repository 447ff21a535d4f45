package node

import (
	"testing"
	"time"
)

// unservedMoments counts, over a time, the moments at which some bucket had no owner.
func (w *world) unservedMoments(of Time) (moments int) {
	for range of / (10 * ms) {
		w.run(10 * ms)
		if w.unowned() > 0 {
			moments++
		}
	}
	return moments
}

// TestAHeirOfThreeWithADeadKernelCostsLittle: it asks three holders at once. What the
// first grant's refused commit shows counts for the others: what comes then is declined,
// and nothing is asked for before the kernel takes a commit.
func TestAHeirOfThreeWithADeadKernelCostsLittle(t *testing.T) {
	for name, story := range map[string]func(*world){
		"it gets more weight": func(w *world) { w.wish(w.nodes[0], Wish{Node: "n1", Want: WantWeight, Weight: 300}) },
		"it is back after a crash": func(w *world) {
			w.stop(w.nodes[1], false)
			w.run(3 * time.Second)
			w.start(w.nodes[1])
		},
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, 4, func(t *testing.T, w *world) {
				w.gapLimit = 0
				w.nodes[1].refuses = true
				story(w)
				w.run(5 * time.Second)
				if n := w.unservedMoments(time.Minute); n > 10 {
					t.Errorf("buckets had no owner in %d of 6000 moments of a minute", n)
				}
				w.nodes[1].refuses = false
				w.run(10 * time.Second)
				if w.nodes[1].owns() == 0 {
					t.Error("its kernel takes commits again, and it has got nothing")
				}
			})
		})
	}
}

// TestAKernelThatTakesOnlyWhatChangesNothing: it takes each probe, and refuses what it is
// probed for. Then each try costs the clients a moment, and tries become rare.
func TestAKernelThatTakesOnlyWhatChangesNothing(t *testing.T) {
	scenario(t, 4, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.nodes[1].refusesChanges = true
		w.wish(w.nodes[0], Wish{Node: "n1", Want: WantWeight, Weight: 300})
		w.run(10 * time.Second)
		if n := w.unservedMoments(time.Minute); n > 40 {
			t.Errorf("buckets had no owner in %d of 6000 moments of a minute", n)
		}
		w.nodes[1].refusesChanges = false
	})
}
