package node

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// answer is the node's last word to its operators.
func (n *simNode) answer() Answer {
	if len(n.answers) == 0 {
		return Answer{Refused: "(no answer)"}
	}
	return n.answers[len(n.answers)-1]
}

func (n *simNode) hasProblem(text string) bool {
	return slices.ContainsFunc(n.core.Snapshot().Problems, func(p string) bool { return strings.Contains(p, text) })
}

// TestLastHealthyNodeFailsItsCheck: nothing may jump to nodes that
// have been broken for an hour.
func TestLastHealthyNodeFailsItsCheck(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.setFit(w.nodes[1], 0, false)
		w.setFit(w.nodes[2], 0, false)
		w.run(10 * time.Second)
		if n := w.nodes[0].owns(); n != w.buckets {
			t.Fatalf("the healthy node has %d of %d buckets", n, w.buckets)
		}
		takes := w.takes
		w.setFit(w.nodes[0], 0, false)
		w.run(10 * time.Second)
		if w.takes != takes || w.nodes[0].owns() != w.buckets {
			t.Errorf("%d buckets have moved", w.takes-takes)
		}
		if !w.nodes[2].hasProblem("no active node is fit") {
			t.Errorf("problems: %q", w.nodes[2].core.Snapshot().Problems)
		}
		// Only what a dead node had is dealt out, over the alive.
		w.gapLimit = 0
		w.stop(w.nodes[0], false)
		w.run(2 * time.Second)
		if a, b := w.nodes[1].owns(), w.nodes[2].owns(); a+b != w.buckets || a == 0 || b == 0 {
			t.Errorf("after the death the unfit have %d and %d buckets", a, b)
		}
		// And one that is fit again gets all.
		w.gapLimit = oneHandoff
		w.setFit(w.nodes[1], 0, true)
		w.run(7 * time.Second)
		if n := w.nodes[1].owns(); n != w.buckets {
			t.Errorf("the only healthy node has %d buckets", n)
		}
		w.start(w.nodes[0])
	})
}

// TestNoneHealthyDrop: spec.when_none_healthy: drop. Silence, and back from it.
func TestNoneHealthyDrop(t *testing.T) {
	for seed := uint64(1); seed <= 8; seed++ {
		w := starting(seed, 2)
		w.dropUnhealthy = true
		for _, n := range w.nodes {
			w.start(n)
		}
		w.run(10 * time.Second)
		w.setFit(w.nodes[0], 0, false)
		w.run(7 * time.Second)
		if w.nodes[0].owns() > 0 || w.nodes[1].owns() != w.buckets {
			t.Errorf("%d and %d buckets, n0 is unfit", w.nodes[0].owns(), w.nodes[1].owns())
		}
		w.setFit(w.nodes[1], 0, false)
		w.run(7 * time.Second)
		if w.unowned() != w.buckets || !w.nodes[0].hasProblem("so nobody serves it (spec.when_none_healthy: drop)") {
			t.Errorf("%d buckets are served by nobody; problems %q", w.unowned(), w.nodes[0].core.Snapshot().Problems)
		}
		w.setFit(w.nodes[0], 0, true)
		w.run(7 * time.Second)
		if w.nodes[0].owns() != w.buckets {
			t.Errorf("n0 is fit again and has %d buckets", w.nodes[0].owns())
		}
		w.ends(t)
	}
}

// TestTwoOperatorsDrainTheLastTwoNodes: at the same moment, each on
// the node that is not drained. Holders keep; nobody is silenced.
func TestTwoOperatorsDrainTheLastTwoNodes(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.wish(w.nodes[0], Wish{Node: "n0", Want: WantDrain})
		w.wish(w.nodes[1], Wish{Node: "n1", Want: WantDrain})
		if a, b := w.nodes[0].answer(), w.nodes[1].answer(); a.Refused+b.Refused != "" {
			t.Fatalf("neither can know of the other's, and the answers are %+v and %+v", a, b)
		}
		w.run(5 * time.Second)
		if got := w.phases(); !slices.Equal(got, []Phase{Draining, Draining}) || w.unowned() > 0 {
			t.Errorf("phases %v, and %d buckets have no owner", got, w.unowned())
		}
		if !w.nodes[0].hasProblem("all nodes are draining") {
			t.Errorf("problems: %q", w.nodes[0].core.Snapshot().Problems)
		}
		w.wish(w.nodes[0], Wish{Node: "n1", Want: WantResume})
		w.run(2 * time.Second)
		if n := w.nodes[1].owns(); n != w.buckets || w.nodes[0].core.phase != Drained {
			t.Errorf("n1 is resumed and has %d buckets, n0 is %s", n, w.nodes[0].core.phase)
		}
		w.wish(w.nodes[0], Wish{Node: "n0", Want: WantResume})
	})
}

// TestAllDrained: the last node is refused without --force; with it, all is silent.
func TestAllDrained(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.wish(w.nodes[2], Wish{Node: "n0", Want: WantDrain})
		w.run(time.Second)
		w.wish(w.nodes[2], Wish{Node: "n1", Want: WantDrain})
		w.run(time.Second)
		w.wish(w.nodes[0], Wish{Node: "n2", Want: WantDrain})
		w.run(time.Second)
		if got := w.nodes[0].answer().Refused; !strings.Contains(got, "n2 is the last fit node") || !strings.Contains(got, "--force") {
			t.Errorf("draining the last fit node was answered %q", got)
		}
		if w.nodes[2].owns() != w.buckets {
			t.Errorf("n2 has %d buckets", w.nodes[2].owns())
		}
		w.wish(w.nodes[0], Wish{Node: "n2", Want: WantDrain, Force: true})
		w.run(time.Second)
		if got := w.nodes[0].answer().Refused; got != "" {
			t.Errorf("--force was answered %q", got)
		}
		if got := w.phases(); !slices.Equal(got, []Phase{Drained, Drained, Drained}) || w.unowned() != w.buckets {
			t.Errorf("phases %v, %d buckets are served", got, w.buckets-w.unowned())
		}
		if !w.nodes[1].hasProblem("no node serves") {
			t.Errorf("problems: %q", w.nodes[1].core.Snapshot().Problems)
		}
		for _, n := range w.nodes { // the restart of a machine brings nothing back
			w.stop(n, false)
			w.run(time.Second)
			w.start(n)
			w.run(10 * time.Second)
		}
		w.wish(w.nodes[0], Wish{Node: "n1", Want: WantResume})
		w.run(2 * time.Second)
		if w.nodes[1].owns() != w.buckets {
			t.Errorf("n1 is resumed and has %d buckets", w.nodes[1].owns())
		}
	})
}

// TestDrainedOverARestart: a drained node stays drained and takes nothing.
func TestDrainedOverARestart(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.wish(w.nodes[1], Wish{Node: "n0", Want: WantDrain})
		w.run(time.Second)
		w.stop(w.nodes[0], false)
		w.run(time.Second)
		w.nodes[0].takes = 0
		w.start(w.nodes[0])
		w.run(10 * time.Second)
		if w.nodes[0].core.phase != Drained || w.nodes[0].takes > 0 {
			t.Errorf("n0 is %s, and has taken %d buckets", w.nodes[0].core.phase, w.nodes[0].takes)
		}
	})
}

// TestDrainAndWeightForWhoIsDown: both wait for it, and it obeys both when it comes back.
func TestDrainAndWeightForWhoIsDown(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.stop(w.nodes[2], false)
		w.run(2 * time.Second)
		w.wish(w.nodes[0], Wish{Node: "n2", Want: WantDrain})
		w.run(100 * ms)
		w.wish(w.nodes[1], Wish{Node: "n2", Want: WantWeight, Weight: 50})
		w.run(time.Second)
		for _, n := range w.up() {
			if got := n.core.Snapshot().Nodes[2].Wishes; !slices.Equal(got, []WishKind{WantDrain, WantWeight}) {
				t.Errorf("%s keeps %v", n.name, got)
			}
		}
		w.start(w.nodes[2])
		w.run(3 * time.Second)
		if c := w.nodes[2].core; c.phase != Drained && c.phase != Draining || c.weight != 5 {
			t.Errorf("n2 is %s and weighs %d tenths", c.phase, c.weight)
		}
		w.wish(w.nodes[0], Wish{Node: "n2", Want: WantResume})
		w.run(3 * time.Second)
		if n := w.nodes[2].owns(); n == 0 || n > w.buckets/3 {
			t.Errorf("n2 has %d buckets", n)
		}
	})
}

// TestWishForANodeThatIsDown is kept, also by those who did not hear the operator
// themselves, and obeyed before the node serves; its origin may be gone by then.
func TestWishForANodeThatIsDown(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.stop(w.nodes[2], false)
		w.run(time.Second)
		w.wish(w.nodes[0], Wish{Node: "n2", Want: WantDrain})
		if got := w.nodes[0].answer(); got.Refused != "" || !strings.Contains(got.Note, "when it comes back") {
			t.Errorf("answered %+v", got)
		}
		w.run(time.Second)
		w.stop(w.nodes[0], false) // the origin restarts, and learns the wish anew
		w.run(time.Second)
		w.start(w.nodes[0])
		w.run(10 * time.Second)
		w.stop(w.nodes[1], false) // the only one that heard it restarts as well
		w.run(time.Second)
		w.start(w.nodes[1])
		w.run(10 * time.Second)
		w.nodes[2].takes = 0
		w.start(w.nodes[2])
		w.run(10 * time.Second)
		if w.nodes[2].core.phase != Drained || w.nodes[2].takes > 0 {
			t.Errorf("n2 is %s, and has taken %d buckets", w.nodes[2].core.phase, w.nodes[2].takes)
		}
	})
}

// TestWishThatIsOverruledWhileTheNodeIsDown: the last operator is right.
func TestWishThatIsOverruledWhileTheNodeIsDown(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.stop(w.nodes[2], false)
		w.run(time.Second)
		w.wish(w.nodes[0], Wish{Node: "n2", Want: WantDrain})
		w.run(time.Second)
		w.wish(w.nodes[1], Wish{Node: "n2", Want: WantResume})
		w.run(time.Second)
		w.start(w.nodes[2])
		w.run(10 * time.Second)
		if w.nodes[2].core.phase != Active {
			t.Errorf("n2 is %s", w.nodes[2].core.phase)
		}
	})
}

// TestWishOverALossyNetwork: the operator hears the node's own verdict, once.
func TestWishOverALossyNetwork(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.intercept = func(_, _ *simNode, m *Message) fate {
			return fate{lost: (m.Wish != nil || m.Verdict != nil) && w.rng.IntN(3) == 0}
		}
		w.wish(w.nodes[0], Wish{Node: "n1", Want: WantWeight, Weight: 5000})
		w.wish(w.nodes[2], Wish{Node: "nobody", Want: WantDrain})
		w.run(20 * time.Second)
		if got := w.nodes[0].answers; len(got) != 1 || !strings.Contains(got[0].Refused, "must be 1 to 1000") {
			t.Errorf("answered %+v", got)
		}
		if got := w.nodes[2].answers; len(got) != 1 || !strings.Contains(got[0].Refused, `no node is named "nobody"`) {
			t.Errorf("answered %+v", got)
		}
	})
}

// TestCarrierLost: everything is given up at once, the others take it, and the
// node comes back as a joiner when the wire does.
func TestCarrierLost(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 200 * ms // no handoff, but no death either
		w.step(w.nodes[0], WireChanged{Reason: "eth0 has no carrier"})
		w.run(time.Second)
		if w.nodes[0].owns() > 0 || w.unowned() > 0 {
			t.Errorf("n0 has %d buckets, nobody %d", w.nodes[0].owns(), w.unowned())
		}
		if !w.nodes[0].hasProblem("eth0 has no carrier") {
			t.Errorf("problems: %q", w.nodes[0].core.Snapshot().Problems)
		}
		w.step(w.nodes[0], WireChanged{OK: true, Forwards: true})
		w.run(2 * time.Second)
		if w.nodes[0].core.phase != Active || w.nodes[0].owns() == 0 {
			t.Errorf("the wire is back: n0 is %s with %d buckets", w.nodes[0].core.phase, w.nodes[0].owns())
		}
	})
}
