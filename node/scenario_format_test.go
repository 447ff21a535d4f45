package node

import (
	"fmt"
	"testing"
	"time"
)

// formats are the formats in which the nodes speak that are up.
func (w *world) formats() string {
	var all []byte
	for _, n := range w.nodes {
		if n.core != nil {
			format, _ := n.herald.Format()
			all = append(all, '0'+format)
		}
	}
	return string(all)
}

// TestFormatsRollUpAndBack: three nodes get a program that reads a later format of beacons,
// one after another, and then the earlier one again. It is spoken when the last one
// reads it, and no more from the moment that one does not; nobody is ever without an
// owner for longer than a handoff takes.
func TestFormatsRollUpAndBack(t *testing.T) {
	for seed := uint64(1); seed <= 10; seed++ {
		w := starting(seed, 3)
		for _, n := range w.nodes {
			n.older = true
			w.start(n)
		}
		w.run(15 * time.Second)
		w.strict, w.gapLimit = true, oneHandoff
		for _, older := range []bool{false, true} {
			for i, n := range w.nodes {
				w.step(n, Leave{KeepFlows: true})
				w.run(2 * time.Second)
				if n.core != nil {
					t.Fatalf("seed %d: %s has not gone", seed, n.name)
				}
				n.older = older
				w.start(n)
				w.run(time.Second)
				if w.formats() != "111" {
					t.Errorf("seed %d: with %s back they speak %s", seed, n.name, w.formats())
				}
				w.run(formatPatience + 3*time.Second)
				want := "111"
				if !older && i == 2 {
					want = "222"
				}
				if w.formats() != want {
					t.Errorf("seed %d: when %s is back for a while they speak %s, want %s", seed, n.name, w.formats(), want)
				}
			}
		}
		for _, n := range w.nodes {
			if owns := n.owns(); owns < w.buckets/3 {
				t.Errorf("seed %d: at the end %s has %d of %d buckets", seed, n.name, owns, w.buckets)
			}
		}
		for _, fault := range w.faults {
			t.Errorf("seed %d: %s", seed, fault)
		}
	}
}

// TestAnOldJoinerIsUnderstood: a node with an older program comes to nodes that speak a
// format that it does not read, and gossip is slow: they hear it first, and speak so that it
// can read them. When it is gone they go on so for a while, since it may be back.
func TestAnOldJoinerIsUnderstood(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		joiner := w.nodes[2]
		w.step(joiner, Leave{})
		w.run(20 * time.Second)
		if w.formats() != "22" {
			t.Fatalf("they speak %s", w.formats())
		}
		joiner.older = true
		w.start(joiner)
		w.run(4 * w.timing.Interval)
		if w.formats() != "111" {
			t.Errorf("an old one is heard, and they speak %s", w.formats())
		}
		w.run(10 * time.Second)
		if joiner.owns() == 0 || len(joiner.core.Snapshot().Strangers) > 0 {
			t.Errorf("the old one has %d buckets, and strangers %+v", joiner.owns(), joiner.core.Snapshot().Strangers)
		}
		if _, who := w.nodes[0].herald.Format(); who != joiner.name {
			t.Errorf("%q keeps them from the later format", who)
		}
		w.step(joiner, Leave{})
		w.run(2 * time.Second)
		if w.formats() != "11" {
			t.Errorf("right after it has left they speak %s", w.formats())
		}
		w.run(20 * time.Second)
		if w.formats() != "22" {
			t.Errorf("long after it has left they speak %s", w.formats())
		}
		joiner.older = false
		w.start(joiner)
	})
}

// TestFormatsDoNotFlap: whoever reads the lowest format and comes and goes keeps the others
// from a higher one all the time.
func TestFormatsDoNotFlap(t *testing.T) {
	var f formatChoice
	changes, last, second := 0, uint8(0), Time(0)
	for now := Time(0); now < time.Minute; now += 20 * mil {
		all := uint8(2)
		if now/(2*time.Second)%2 == 1 && now < 30*time.Second {
			all = 1
		}
		format := f.choose(now, formatPatience, all)
		if format != last && last != 0 {
			changes++
			second = now
		}
		last = format
	}
	if at := fmt.Sprint(second.Round(time.Second)); changes != 1 || last != 2 || at != "33s" {
		t.Errorf("%d changes, the last at %v to %d", changes, second, last)
	}
}
