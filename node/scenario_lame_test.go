package node

import (
	"strings"
	"testing"
	"time"
)

// says reports whether the node's problems speak of something.
func (n *simNode) says(what string) bool {
	return strings.Contains(strings.Join(n.core.Snapshot().Problems, "\n"), what)
}

// TestANodeWithoutALeaseIsRelieved is invariant 6: n1's lease has run out and cannot be armed,
// as where another program changes rules all the time.
func TestANodeWithoutALeaseIsRelieved(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.disarm(w.nodes[1])
		servedWithin(t, w, 3*time.Second)
		for _, n := range w.nodes {
			who := "n1"
			if n.name == who {
				who = "this node"
			}
			if !n.says(who + " cannot serve: it has no lease") {
				t.Errorf("%s says %q", n.name, n.core.Snapshot().Problems)
			}
		}
		if n := w.nodes[1].core; n.phase != Active || !n.claims().Empty() {
			t.Errorf("n1 is %s and claims %d buckets", n.phase, n.claims().Count())
		}
		w.nodes[1].unarmable = false
		w.gapLimit = oneHandoff
		w.run(5 * time.Second)
		if w.nodes[1].owns() == 0 {
			t.Error("n1 has its lease again, and no buckets")
		}
		if w.nodes[0].says("cannot serve") {
			t.Errorf("n0 says %q", w.nodes[0].core.Snapshot().Problems)
		}
	})
}

// TestAKernelThatRefusesOrphans is invariant 6: what the kernel does not take is not kept
// from others.
func TestAKernelThatRefusesOrphans(t *testing.T) {
	for name, story := range map[string]func(*world){
		"a death": func(w *world) { w.stop(w.nodes[0], false) },
		"a leave": func(w *world) { w.step(w.nodes[0], Leave{}); w.run(10 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.gapLimit = 0
				had := w.nodes[1].owns()
				w.nodes[1].refuses = true
				story(w)
				servedWithin(t, w, 5*time.Second)
				if n := w.nodes[1]; n.owns() != had || !n.says("this node cannot serve: its kernel refuses") {
					t.Errorf("n1 has %d buckets, before %d; it says %q", n.owns(), had, n.core.Snapshot().Problems)
				}
				if !w.nodes[2].says("n1 cannot serve: its kernel refuses") {
					t.Errorf("n2 says %q", w.nodes[2].core.Snapshot().Problems)
				}
				w.nodes[1].refuses = false
				w.run(5 * time.Second)
				if w.nodes[1].owns() <= had {
					t.Errorf("n1 has %d buckets, before %d", w.nodes[1].owns(), had)
				}
				w.start(w.nodes[0])
			})
		})
	}
}

// TestNeitherLeaseNorCommits is invariants 1 and 6: n1 can serve nothing, and release
// nothing. Others take its buckets, and it gets no lease before its kernel has let go.
func TestNeitherLeaseNorCommits(t *testing.T) {
	for name, heal := range map[string]func(*simNode){
		"all ends at once":       func(n *simNode) { n.refuses, n.unarmable = false, false },
		"it can arm first":       func(n *simNode) { n.unarmable = false },
		"it takes commits first": func(n *simNode) { n.refuses = false },
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.gapLimit = 0
				w.nodes[1].refuses = true
				w.disarm(w.nodes[1])
				w.run(200 * ms)
				w.wish(w.nodes[0], Wish{Node: "n1", Want: WantWeight, Weight: 50}) // which its kernel refuses
				servedWithin(t, w, 5*time.Second)
				if n := w.nodes[1]; n.core.phase != Joining || !n.core.claims().Empty() || n.owns() == 0 {
					t.Errorf("n1 is %s, claims %d buckets, and its kernel has %d", n.core.phase, n.core.claims().Count(), n.owns())
				}
				heal(w.nodes[1])
				w.run(5 * time.Second)
				w.nodes[1].refuses, w.nodes[1].unarmable = false, false
				w.run(5 * time.Second)
				if n := w.nodes[1]; n.core.phase != Active || n.owns() == 0 {
					t.Errorf("n1 is %s and has %d buckets", n.core.phase, n.owns())
				}
			})
		})
	}
}

// TestAllAreLame is invariant 6: where nobody can serve nothing moves, and everybody says so.
func TestAllAreLame(t *testing.T) {
	for name, fail := range map[string]func(*world, *simNode){
		"no lease":   func(w *world, n *simNode) { w.disarm(n) },
		"no commits": func(w *world, n *simNode) { n.refuses = true },
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.gapLimit = 0
				for _, n := range w.nodes {
					fail(w, n)
				}
				w.wish(w.nodes[0], Wish{Node: "n1", Want: WantWeight, Weight: 200}) // so that the kernels have something to refuse
				w.wish(w.nodes[0], Wish{Node: "n0", Want: WantWeight, Weight: 50})
				w.run(5 * time.Second)
				takes, owns := w.takes, []int{w.nodes[0].owns(), w.nodes[1].owns(), w.nodes[2].owns()}
				w.run(time.Minute)
				if w.takes != takes {
					t.Errorf("buckets have moved: %d takes", w.takes-takes)
				}
				for i, n := range w.nodes {
					if n.owns() != owns[i] || n.core.phase != Active {
						t.Errorf("%s is %s and has %d buckets, before %d", n.name, n.core.phase, n.owns(), owns[i])
					}
					if name == "no lease" && !n.says("no node can serve as it should") {
						t.Errorf("%s says %q", n.name, n.core.Snapshot().Problems)
					}
				}
				for _, n := range w.nodes {
					n.refuses, n.unarmable = false, false
				}
				servedWithin(t, w, time.Second)
			})
		})
	}
}
