package node

import (
	"slices"
	"testing"
	"time"
)

// starting is a world of which no node is up yet; two owners are faults.
func starting(seed uint64, nodes int) *world {
	w := newWorld(seed, true, nodes, calmNet())
	w.layOut()
	w.strict = true
	return w
}

// ends waits for rest and reports what is broken.
func (w *world) ends(t *testing.T) {
	t.Helper()
	w.run(30 * time.Second)
	w.settle()
	if len(w.faults) > 0 {
		t.Errorf("%v", w.faults)
	}
	if t.Failed() {
		t.Fatal("\n" + w.report())
	}
}

// TestStartAlone: a node that reaches no seed serves after it has
// tried for a while, not before.
func TestStartAlone(t *testing.T) {
	w := starting(1, 1)
	w.start(w.nodes[0])
	w.run(DefaultTiming(200*ms).Alone - 10*ms)
	if w.nodes[0].owns() > 0 || !w.nodes[0].hasProblem("no node of this cluster has answered yet") {
		t.Errorf("%d buckets, problems %q", w.nodes[0].owns(), w.nodes[0].core.Snapshot().Problems)
	}
	w.run(100*ms + simDetect.D)
	if w.nodes[0].owns() != w.buckets {
		t.Errorf("%d of %d buckets once it may start alone", w.nodes[0].owns(), w.buckets)
	}
	w.ends(t)
}

// TestStartAloneOnAWireThatDoesNotForward: a switch port listens and learns for
// 30 s, in which the others cannot be heard.
func TestStartAloneOnAWireThatDoesNotForward(t *testing.T) {
	w := starting(1, 1)
	w.nodes[0].deaf = true
	w.start(w.nodes[0])
	w.run(34 * time.Second)
	if w.nodes[0].owns() > 0 || !w.nodes[0].hasProblem("the switch port may not forward yet") {
		t.Errorf("%d buckets, problems %q", w.nodes[0].owns(), w.nodes[0].core.Snapshot().Problems)
	}
	w.run(2 * time.Second)
	if w.nodes[0].owns() != w.buckets {
		t.Errorf("%d of %d buckets after 36 s", w.nodes[0].owns(), w.buckets)
	}
	w.ends(t)
}

// TestStartAloneWhenTheWireForwardsLater: the others answer before the time is up.
func TestStartAloneWhenTheWireForwardsLater(t *testing.T) {
	w := starting(1, 2)
	w.start(w.nodes[1])
	w.run(10 * time.Second)
	w.nodes[0].deaf = true
	w.partition(0)
	w.start(w.nodes[0])
	w.run(20 * time.Second)
	if w.nodes[0].owns() > 0 {
		t.Errorf("serves %d buckets behind a port that does not forward", w.nodes[0].owns())
	}
	w.heal()
	w.ends(t)
}

// TestStartAloneBeforeTheSeedsWereTried: no time is long enough for that.
func TestStartAloneBeforeTheSeedsWereTried(t *testing.T) {
	d := newDesk(t)
	d.wait(time.Minute)
	if d.core.phase != Joining || d.core.mayServe() != "the seeds are being tried" {
		t.Errorf("%s: %q", d.core.phase, d.core.mayServe())
	}
}

// TestStartAloneBothJoiningAtOnce: nodes that see each other need not wait, and no
// two of them may find all buckets free.
func TestStartAloneBothJoiningAtOnce(t *testing.T) {
	for seed := uint64(1); seed <= 50; seed++ {
		w := starting(seed, 3)
		for _, n := range w.nodes {
			w.start(n)
		}
		w.run(time.Second)
		if n := w.unowned(); n > 0 {
			t.Errorf("%d buckets without an owner after a second", n)
		}
		w.ends(t)
	}
}

// TestStartAloneOnBothSidesOfASplit: neither can know of the other. When they
// meet, every bucket has one owner again, at once.
func TestStartAloneOnBothSidesOfASplit(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		w := starting(seed, 4)
		w.strict = false
		w.partition(0, 1)
		for _, n := range w.nodes {
			w.start(n)
		}
		w.run(10 * time.Second)
		if n := w.nodes[0].owns() + w.nodes[1].owns(); n != w.buckets {
			t.Errorf("the half has %d of %d buckets", n, w.buckets)
		}
		w.heal()
		w.run(500 * ms)
		for slot, owners := range w.owners {
			if owners > 1 {
				t.Errorf("slot %d has %d owners half a second after the heal", slot, owners)
			}
		}
		w.ends(t)
	}
}

// TestOneEditedFile: a node comes back with another spec, of a higher
// or lower revision. Those that serve go on, it stays out and says why.
func TestOneEditedFile(t *testing.T) {
	for name, revision := range map[string]int{"higher": 9, "lower": -1} {
		t.Run(name, func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.stop(w.nodes[0], false)
				w.gapLimit = 0
				w.run(3 * time.Second)
				w.gapLimit = oneHandoff
				takes := w.takes
				w.nodes[0].revision = revision
				w.start(w.nodes[0])
				w.run(20 * time.Second)
				if w.takes != takes || w.nodes[0].owns() > 0 {
					t.Errorf("%d buckets have moved, %d of them to the edited node", w.takes-takes, w.nodes[0].owns())
				}
				for _, n := range w.nodes {
					if !n.hasProblem("another spec") {
						t.Errorf("%s does not tell of it: %q", n.name, n.core.Snapshot().Problems)
					}
				}
				w.stop(w.nodes[0], false)
				w.nodes[0].revision = 1
				w.start(w.nodes[0])
			})
		})
	}
}

// TestHigherRevisionGoesFirstAtAColdStart: when nobody serves yet, the newer spec is
// the reference.
func TestHigherRevisionGoesFirstAtAColdStart(t *testing.T) {
	w := starting(3, 3)
	w.nodes[1].revision = 2
	for _, n := range w.nodes {
		w.start(n)
	}
	w.run(20 * time.Second)
	if got := w.phases(); !slices.Equal(got, []Phase{Joining, Active, Joining}) {
		t.Errorf("phases %v, want n1 alone to serve", got)
	}
	if len(w.faults) > 0 {
		t.Error(w.faults)
	}
}
