package node

import (
	"testing"
	"time"
)

// What a node remembered is lost with its power: was it drained? A peer that heard it
// serve knows that it was not.
func TestLostMemoryOfANodeThatServed(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		n := w.nodes[1]
		w.gapLimit = 0
		w.stop(n, false)
		w.run(10 * time.Second)
		for range 2 { // and it is lost again, before it was told and after
			n.saved = Save{Doubt: true}
			w.start(n)
			w.run(10 * time.Second)
			if s := n.core.Snapshot(); s.Phase != Active || n.saved.Drained || n.saved.Doubt || n.hasProblem("whether this node was drained") {
				t.Fatalf("it is %s, saved %+v, problems %q", s.Phase, n.saved, s.Problems)
			}
			w.stop(n, false)
			w.run(10 * time.Second)
		}
		w.start(n)
	})
}

// One that was drained, or of which nobody knows it, stays so until somebody resumes it.
func TestLostMemoryOfANodeThatWasDrained(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		n := w.nodes[1]
		w.wish(n, Wish{Node: n.name, Want: WantDrain})
		w.run(10 * time.Second)
		w.gapLimit = 0
		w.stop(n, false)
		w.run(10 * time.Second)
		n.saved = Save{Doubt: true}
		w.start(n)
		w.run(10 * time.Second)
		if n.owns() > 0 || !n.hasProblem("whether this node was drained is not known") {
			t.Fatalf("it has %d buckets, problems %q", n.owns(), n.core.Snapshot().Problems)
		}
		w.wish(w.nodes[0], Wish{Node: n.name, Want: WantResume})
		w.run(10 * time.Second)
		if n.owns() == 0 || n.saved.Doubt || n.hasProblem("whether this node was drained") {
			t.Errorf("resumed it has %d buckets, saved %+v", n.owns(), n.saved)
		}
	})
}

// All have lost it, as in a power cut of the rack: they serve all the same, since
// nobody else does.
func TestLostMemoryOfAll(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		for _, n := range w.nodes {
			w.stop(n, false)
		}
		w.run(10 * time.Second)
		for _, n := range w.nodes {
			n.saved = Save{Doubt: true}
			w.start(n)
		}
		w.run(20 * time.Second)
		owned := 0
		for _, n := range w.nodes {
			owned += n.owns()
		}
		if owned != w.buckets {
			t.Errorf("%d of %d buckets are served", owned, w.buckets)
		}
		for _, n := range w.nodes {
			w.wish(n, Wish{Node: n.name, Want: WantResume})
		}
	})
}

// An operator's word ends the doubt: what a peer recalls comes too late then.
func TestLostMemoryAndAnOperatorIsQuicker(t *testing.T) {
	d := newDesk(t)
	d.step(Started{Doubt: true})
	d.step(SeedsTried{})
	d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
	if !d.core.drained || d.core.doubt {
		t.Fatalf("drained %v, doubt %v", d.core.drained, d.core.doubt)
	}
	d.core.receiveWish(&peer{}, Wish{Node: "a", Stamp: 9 << 32, Want: WantResume, Recalled: true})
	if !d.core.drained || d.core.obeyed(TopicDuty) != 9<<32 {
		t.Errorf("drained %v, obeyed %d", d.core.drained, d.core.obeyed(TopicDuty))
	}
}
