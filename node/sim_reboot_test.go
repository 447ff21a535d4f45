package node

import (
	"slices"
	"testing"
	"time"
)

// rebootWorld has nodes of which all serve.
func rebootWorld(seed uint64, tracing bool, nodes int) *world {
	w := newWorld(seed, tracing, nodes, calmNet())
	w.layOut()
	for _, n := range w.nodes {
		w.start(n)
	}
	w.awaitServing(w.nodes, 12*time.Second)
	w.strict = true
	return w
}

// TestASwitchReboot: all carriers go for 40 s, and come back at different times. Within a
// second of the moment at which a majority has them, all buckets are served again, by
// nodes that were back then, and in the end by all.
func TestASwitchReboot(t *testing.T) {
	for _, nodes := range []int{3, 5, 8} {
		forSeeds(t, 12, func(seed uint64, tracing bool) *world {
			w := rebootWorld(seed, tracing, nodes)
			const outage = 40 * time.Second
			span := []Time{50 * ms, 900 * ms, 3 * time.Second}[seed%3]
			w.reboot(outage, span)
			w.run(outage)
			var majority Time
			for end := w.now + span + 2*time.Second; w.now < end; w.run(10 * ms) {
				back := 0
				for _, n := range w.nodes {
					if n.core.wire.OK {
						back++
					}
				}
				if 2*back > nodes {
					majority = w.now
					break
				}
				w.expect(len(w.whoServes()) == 0, "%v serve, though only %d of %d are back", w.whoServes(), back, nodes)
			}
			w.run(time.Second)
			w.expect(majority > 0 && w.unowned() == 0, "a second after a majority was back %d buckets have no owner; %v", w.unowned(), w.phases())
			w.awaitServing(w.nodes, span+3*time.Second)
			w.run(10 * time.Second)
			w.settle()
			return w
		})
	}
}

// TestASwitchRebootOfWhichAPartNeverComesBack: those that are left are no majority. They
// wait as long as a node that starts alone, and then serve all.
func TestASwitchRebootOfWhichAPartNeverComesBack(t *testing.T) {
	for _, nodes := range []int{3, 5, 8} {
		forSeeds(t, 12, func(seed uint64, tracing bool) *world {
			w := rebootWorld(seed, tracing, nodes)
			const outage = 40 * time.Second
			left := slices.Clone(w.nodes)
			w.rng.Shuffle(nodes, func(i, k int) { left[i], left[k] = left[k], left[i] })
			left = left[:nodes/2]
			w.reboot(outage, 500*ms, left...)
			w.run(outage)
			alone := DefaultTiming(w.timing.D).Alone
			w.run(alone - 100*ms)
			w.expect(len(w.whoServes()) == 0, "%v of %d serve at once, and nobody hears the others", w.whoServes(), nodes)
			w.awaitServing(left, 2*time.Second)
			return w
		})
	}
}

// TestAWireOfOneNodeIsAway: the others serve on, and it joins them as any node does.
func TestAWireOfOneNodeIsAway(t *testing.T) {
	scenario(t, 5, func(t *testing.T, w *world) {
		w.gapLimit = 0
		n := w.nodes[2]
		w.partition(n.index)
		w.step(n, WireChanged{Reason: "carrier lost"})
		w.run(40 * time.Second)
		w.heal()
		w.step(n, WireChanged{OK: true, Forwards: true})
		w.run(2 * time.Second)
		if n.owns() == 0 {
			t.Errorf("it is %s: %s", n.core.phase, n.core.mayServe())
		}
	})
}
