package node

import (
	"testing"
	"time"
)

// servedWithin fails if some bucket has no owner after that time.
func servedWithin(t *testing.T, w *world, limit Time) {
	t.Helper()
	w.run(limit)
	if n := w.unowned(); n > 0 {
		t.Errorf("%d buckets have no owner after %v", n, limit)
	}
}

// TestNothingIsGivenToWhoCannotBeTold: invariant 6. Messages of n0 do not reach n1, not
// through others either, and its beacons do: so n1 knows that n0 drains, and asks.
func TestNothingIsGivenToWhoCannotBeTold(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.intercept = func(from, to *simNode, m *Message) fate {
			return fate{lost: to.name == "n1" && m.From.Name == "n0"}
		}
		w.wish(w.nodes[2], Wish{Node: "n0", Want: WantDrain})
		servedWithin(t, w, time.Second)
		servedWithin(t, w, time.Minute)
	})
}

// TestAGrantThatIsLostForGoodComesBack: invariant 6. Messages begin to be lost with a grant,
// so n0 has released buckets for an heir that does not learn it.
func TestAGrantThatIsLostForGoodComesBack(t *testing.T) {
	for name, both := range map[string]bool{"one way": false, "and the first word of it too": true} {
		t.Run(name, func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.gapLimit = 0
				began, cancels := false, 0
				w.intercept = func(from, to *simNode, m *Message) fate {
					if m.From.Name == "n0" && to.name == "n1" {
						began = began || m.Grant != nil
						return fate{lost: began}
					}
					if m.From.Name == "n1" && m.Cancel != nil && began {
						cancels++
						return fate{lost: both}
					}
					return fate{}
				}
				w.wish(w.nodes[2], Wish{Node: "n0", Want: WantDrain})
				servedWithin(t, w, 5*time.Second)
				if cancels == 0 {
					t.Error("no grant was lost")
				}
				servedWithin(t, w, time.Minute)
			})
		})
	}
}
