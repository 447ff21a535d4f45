package node

import (
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// TestWorseIsToldAtOnce: what fails right after it passed, and a weight that is lowered
// right after it was raised, do not wait for the five seconds of what gets better.
func TestWorseIsToldAtOnce(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	said := func() (weight int, unfit bool) { return d.core.said.Weight, len(d.core.said.Unfit) > 0 }
	d.step(Wished{Wish: Wish{Node: "a", Want: WantWeight, Weight: 150}})
	d.wait(6 * time.Second)
	d.step(Wished{Wish: Wish{Node: "a", Want: WantWeight, Weight: 200}})
	d.wait(time.Second)
	if weight, unfit := said(); weight != 20 || unfit {
		t.Fatalf("weight %d, unfit %t", weight, unfit)
	}
	d.step(HealthChanged{Service: 0, Reason: "broken"})
	if _, unfit := said(); !unfit {
		t.Error("unfit, and does not say so")
	}
	d.step(Wished{Wish: Wish{Node: "a", Want: WantWeight, Weight: 100}})
	if weight, _ := said(); weight != 10 {
		t.Errorf("its weight was lowered, and it says %d", weight)
	}
	d.step(Wished{Wish: Wish{Node: "a", Want: WantWeight, Weight: 200}})
	d.step(HealthChanged{Service: 0, Fit: true})
	d.wait(d.core.cfg.Timing.Voluntary - 10*ms)
	if weight, unfit := said(); weight != 10 || !unfit {
		t.Errorf("what got better was told at once: weight %d, unfit %t", weight, unfit)
	}
	d.wait(20 * ms)
	if weight, unfit := said(); weight != 20 || unfit {
		t.Errorf("what got better was never told: weight %d, unfit %t", weight, unfit)
	}
}

// TestWhatGetsWorseTogetherIsOneView: at this node and at others, within one interval.
func TestWhatGetsWorseTogetherIsOneView(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": setOf(16)}, func(c *Config) { c.Timing.Gather = 20 * ms })
	d.commits(nil)
	before := d.core.view.Digest()
	views := map[uint64]bool{}
	look := func() { views[d.core.view.Digest()] = true }
	d.says("b", func(s *Statement) { s.Unfit = []int{0} })
	look()
	d.wait(9 * ms)
	d.step(HealthChanged{Service: 0, Reason: "broken"})
	if len(d.core.said.Unfit) == 0 {
		t.Error("it does not tell at once that it is unfit")
	}
	look()
	d.wait(10 * ms)
	d.says("c", func(s *Statement) { s.CutOff = true })
	look()
	if len(views) != 1 || !views[before] {
		t.Fatalf("%d views within one interval", len(views))
	}
	d.wait(2 * ms)
	look()
	if len(views) != 2 {
		t.Fatalf("%d views after it", len(views))
	}
	for _, m := range d.core.view.Members() {
		if len(m.Unfit) == 0 && !m.CutOff {
			t.Errorf("in the view, after all have got worse: %+v", m)
		}
	}
	d.says("b", func(s *Statement) { s.Unfit = nil })
	if look(); len(views) != 3 {
		t.Error("what got better at b has not come into the view")
	}
}

// TestADrainIsNotGathered: nothing comes between an operator's word and the handoff.
func TestADrainIsNotGathered(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": setOf(16)}, func(c *Config) { c.Timing.Gather = 20 * ms })
	d.commits(nil)
	d.says("c", func(s *Statement) { s.Unfit = []int{0} })
	d.says("b", func(s *Statement) { s.Phase, s.Weight = Draining, 5 })
	for _, m := range d.core.view.Members() {
		switch {
		case m.Name == "b" && (m.Phase != Draining || m.Weight != 5):
			t.Errorf("the drain of b waits: %+v", m)
		case m.Name == "c" && len(m.Unfit) > 0:
			t.Errorf("the failed check of c does not wait for others: %+v", m)
		}
	}
}

// TestAllFailTogether: the checks of all nodes look at one thing, and fail within one
// interval. Nothing moves.
func TestAllFailTogether(t *testing.T) {
	scenario(t, 4, func(t *testing.T, w *world) {
		takes := w.takes
		for i, n := range w.nodes {
			w.at(Time(i)*simDetect.Interval/5, func() { w.setFit(n, 0, false) })
		}
		w.run(8 * time.Second)
		if w.takes != takes {
			t.Errorf("%d buckets have moved between nodes that are all unfit", w.takes-takes)
		}
		for _, n := range w.nodes {
			w.setFit(n, 0, true)
		}
	})
}

// TestUnfitRightAfterFit: a service fails two seconds after it came back; its clients do
// not wait until five have passed.
func TestUnfitRightAfterFit(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.setFit(w.nodes[1], 0, false)
		w.run(6 * time.Second)
		w.setFit(w.nodes[1], 0, true)
		w.run(2 * time.Second)
		if w.nodes[1].owns() == 0 {
			t.Fatal("it is fit, and has nothing")
		}
		w.setFit(w.nodes[1], 0, false)
		w.run(100 * ms)
		if n := w.nodes[1].owns(); n > 0 {
			t.Errorf("it is unfit, and still has %d buckets after 100 ms", n)
		}
		w.setFit(w.nodes[1], 0, true)
	})
}
