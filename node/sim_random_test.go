package node

import (
	"flag"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeeds = flag.Uint64("sim.seeds", 300, "how many seeds the simulator runs, for each kind of trouble")
	simSeed  = flag.Uint64("sim.seed", 0, "replay this one seed, with its whole trace")
)

// forSeeds runs the scenario for many seeds and prints the trace of the first
// that breaks an invariant.
func forSeeds(t *testing.T, scenario func(seed uint64, tracing bool) *world) {
	t.Helper()
	if *simSeed > 0 {
		w := scenario(*simSeed, true)
		for _, line := range w.trace {
			t.Log(line)
		}
		for _, f := range w.faults {
			t.Error(f)
		}
		return
	}
	var next atomic.Uint64
	var worst struct {
		sync.Mutex
		double, orphan Time
	}
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= *simSeeds && !t.Failed(); seed = next.Add(1) {
				w := scenario(seed, false)
				if len(w.faults) > 0 {
					w = scenario(seed, true)
					t.Errorf("seed %d: %v\n(replay: go test ./node -run '%s$' -sim.seed=%d -v)\n%s",
						seed, w.faults[0], t.Name(), seed, w.report())
				}
				worst.Lock()
				worst.double, worst.orphan = max(worst.double, w.worstDouble), max(worst.orphan, w.worstOrphan)
				worst.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d seeds; longest double claim %v, longest bucket without an owner %v", *simSeeds, worst.double, worst.orphan)
}

// settled starts all nodes and lets them come to rest.
func settled(seed uint64, tracing bool, nodes int, net simNet) *world {
	w := newWorld(seed, tracing, nodes, 64, calmNet())
	for _, n := range w.nodes {
		w.start(n)
	}
	w.run(10 * time.Second)
	w.settle()
	w.net = net
	w.worstOrphan, w.worstDouble = 0, 0
	return w
}

// planned does one random planned change to a random node.
func (w *world) planned() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	by := w.nodes[w.rng.IntN(len(w.nodes))]
	switch w.rng.IntN(6) {
	case 0:
		w.log("operator at %s: drain %s", by.name, n.name)
		w.step(by, Wished{Wish: Wish{Node: n.name, Want: WantDrain}})
	case 1, 2:
		w.log("operator at %s: resume %s", by.name, n.name)
		w.step(by, Wished{Wish: Wish{Node: n.name, Want: WantResume}})
	case 3:
		weight := 10 + w.rng.IntN(200)
		w.log("operator at %s: weight %s %d", by.name, n.name, weight)
		w.step(by, Wished{Wish: Wish{Node: n.name, Want: WantWeight, Weight: weight}})
	case 4:
		fit := w.rng.IntN(2) == 0
		w.log("%s: fit=%v", n.name, fit)
		w.step(n, HealthChanged{Service: 0, Fit: fit, Reason: "simulated"})
	case 5:
		if n.core != nil {
			w.log("%s leaves", n.name)
			w.step(n, Leave{})
		} else {
			w.start(n)
		}
	}
}

// quiet ends all faults, brings every node up and waits.
func (w *world) quiet() {
	w.net = calmNet()
	w.heal()
	for _, n := range w.nodes {
		w.start(n)
	}
	w.run(60 * time.Second)
	w.settle()
}

// TestPlannedChangesNeverMakeTwoOwners is invariants 1, 2, 3 and 5 under planned
// changes on a sound network.
func TestPlannedChangesNeverMakeTwoOwners(t *testing.T) {
	forSeeds(t, func(seed uint64, tracing bool) *world {
		w := settled(seed, tracing, 2+int(seed%4), calmNet())
		w.strictSince = w.now
		for range 12 {
			w.planned()
			w.run(Time(w.rng.Int64N(int64(2 * time.Second))))
		}
		w.quiet()
		return w
	})
}

// TestPlannedChangesOverABadNetworkNeverMakeTwoOwners adds loss, delays of up to
// a second, repetition, and a kernel that is slow or refuses.
func TestPlannedChangesOverABadNetworkNeverMakeTwoOwners(t *testing.T) {
	forSeeds(t, func(seed uint64, tracing bool) *world {
		w := settled(seed, tracing, 2+int(seed%4), roughNet())
		w.strictSince = w.now
		for range 12 {
			w.planned()
			w.run(Time(w.rng.Int64N(int64(2 * time.Second))))
		}
		w.quiet()
		return w
	})
}

// TestCrashesEndWithOneOwnerEach is invariants 2 and 5 after crashes among
// planned changes on a bad network.
func TestCrashesEndWithOneOwnerEach(t *testing.T) {
	forSeeds(t, func(seed uint64, tracing bool) *world {
		w := settled(seed, tracing, 3+int(seed%4), roughNet())
		for range 15 {
			n := w.nodes[w.rng.IntN(len(w.nodes))]
			switch w.rng.IntN(4) {
			case 0:
				w.stop(n, false)
			case 1:
				w.start(n)
			default:
				w.planned()
			}
			w.run(Time(w.rng.Int64N(int64(1500 * ms))))
		}
		w.quiet()
		return w
	})
}

// TestPartitionsEndWithOneOwnerEach is invariants 2 and 5 after splits, whole and
// one-way, among crashes and planned changes.
func TestPartitionsEndWithOneOwnerEach(t *testing.T) {
	forSeeds(t, func(seed uint64, tracing bool) *world {
		w := settled(seed, tracing, 3+int(seed%4), roughNet())
		for range 15 {
			a, b := w.rng.IntN(len(w.nodes)), w.rng.IntN(len(w.nodes))
			switch w.rng.IntN(7) {
			case 0:
				w.partition(a, b)
			case 1:
				w.log("messages from n%d to n%d vanish", a, b)
				w.cut[[2]int{a, b}] = true
				w.gossipAll()
			case 2, 3:
				w.heal()
			case 4:
				w.stop(w.nodes[a], false)
			case 5:
				w.start(w.nodes[a])
			default:
				w.planned()
			}
			w.run(Time(w.rng.Int64N(int64(2 * time.Second))))
		}
		w.quiet()
		return w
	})
}
