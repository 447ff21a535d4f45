package node

import (
	"flag"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeeds = flag.Uint64("sim.seeds", 300, "how many seeds the simulator runs, for each kind of trouble")
	simSeed  = flag.Uint64("sim.seed", 0, "replay this one seed, with its whole trace")
	simAll   = flag.Bool("sim.all", false, "go on after a seed that fails, and print no traces")
	simFrom  = flag.Uint64("sim.from", 1, "the first seed")
)

// forSeeds runs the scenario for many seeds (a share of -sim.seeds) and prints
// the trace of one that breaks an invariant.
func forSeeds(t *testing.T, share uint64, scenario func(seed uint64, tracing bool) *world) {
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
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // many small values, all short-lived
	seeds := max(1, *simSeeds/share) + *simFrom - 1
	var next atomic.Uint64
	next.Store(*simFrom - 1)
	var mu sync.Mutex
	var double, orphan, gap Time
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= seeds && (*simAll || !t.Failed()); seed = next.Add(1) {
				w := scenario(seed, false)
				if len(w.faults) > 0 && *simAll {
					t.Errorf("seed %d: %.250v", seed, w.faults)
				} else if len(w.faults) > 0 {
					w = scenario(seed, true)
					t.Errorf("seed %d: %.1500v\n(replay: go test ./node -run '%s$' -sim.seed=%d -v)\n%s",
						seed, w.faults, t.Name(), seed, w.report())
				}
				mu.Lock()
				double, orphan, gap = max(double, w.worstDouble), max(orphan, w.worstOrphan), max(gap, w.worstGap)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d seeds; the longest: double claim %v, bucket without an owner %v, while some node could serve %v",
		seeds, double, orphan, gap)
}

// someWorld is a world of nodes of which all are down, with one service mostly,
// sometimes several, with or without health checks and silence without fit nodes;
// sometimes one node serves all of a service.
func someWorld(seed uint64, tracing bool, nodes int) *world {
	w := newWorld(seed, tracing, nodes, calmNet())
	w.timing = rareBeacons
	if seed%3 == 0 {
		w.services, w.buckets = 2+int(seed/3%2), 32
	}
	w.dropUnhealthy = seed%5 == 0
	w.checked = seed%4 == 1
	w.single, w.preempt = seed%7 >= 5, seed%7 == 6
	w.layOut()
	if seed%2 == 1 {
		w.ownClocks()
	}
	return w
}

// settled starts all nodes and lets them come to rest.
func settled(seed uint64, tracing bool, nodes int) *world {
	w := someWorld(seed, tracing, nodes)
	for _, n := range w.nodes {
		w.start(n)
	}
	w.run(8 * time.Second)
	w.settle()
	w.forgetPast()
	return w
}

func (w *world) some() *simNode { return w.nodes[w.rng.IntN(len(w.nodes))] }

// planned does one random planned change to a random node.
func (w *world) planned() {
	n, by := w.some(), w.some()
	switch w.rng.IntN(12) {
	case 0, 1:
		w.wish(by, Wish{Node: n.name, Want: WantDrain})
	case 2:
		w.wish(by, Wish{Node: n.name, Want: WantDrain, Force: w.rng.IntN(2) == 0})
	case 3, 4, 5:
		w.wish(by, Wish{Node: n.name, Want: WantResume})
	case 6, 7:
		w.wish(by, Wish{Node: n.name, Want: WantWeight, Weight: 10 + w.rng.IntN(200)})
	case 8, 9:
		w.setFit(n, w.rng.IntN(w.services), w.rng.IntN(2) == 0)
	default:
		if n.core == nil {
			w.start(n)
			return
		}
		keep := w.rng.IntN(2) == 0
		w.log("%s leaves, keep flows: %v", n.name, keep)
		w.step(n, Leave{KeepFlows: keep})
	}
}

// someTime lets a while pass, now and then a very short one.
func (w *world) someTime(limit Time) {
	if w.rng.IntN(4) == 0 {
		limit = 10 * ms
	}
	w.run(w.randomly(limit))
}

// quiet ends all faults, brings every node up and waits.
func (w *world) quiet() {
	w.net = calmNet()
	w.endTroubles()
	w.heal()
	for _, n := range w.nodes {
		w.start(n)
	}
	w.run(16 * time.Second)
	w.settle()
}

// plannedChanges is invariants 1 to 5 under planned changes, while clients open
// connections.
func plannedChanges(w *world, net simNet, gapLimit Time) *world {
	w.net, w.gapLimit, w.strict = net, gapLimit, true
	w.strictFlows = !w.dropUnhealthy // which ends flows on purpose
	w.clients(20*ms, 20*time.Second)
	for range 12 {
		w.planned()
		w.someTime(2 * time.Second)
	}
	w.quiet()
	return w
}

// oneHandoff is what a planned change may leave a bucket without an owner on a
// calm network: a round trip and two commits, and each commit may have to wait for
// the one before it.
const oneHandoff = 2*calmDelay + 4*calmCommit

// TestPlannedChanges on a sound network: never two owners, never a longer gap than
// one handoff while some node can serve, an end of everything.
func TestPlannedChanges(t *testing.T) {
	forSeeds(t, 1, func(seed uint64, tracing bool) *world {
		return plannedChanges(settled(seed, tracing, 2+int(seed%4)), calmNet(), oneHandoff)
	})
}

// TestPlannedChangesOverABadNetwork adds loss, delays of up to a second,
// repetition, and a kernel that is slow or refuses.
func TestPlannedChangesOverABadNetwork(t *testing.T) {
	forSeeds(t, 1, func(seed uint64, tracing bool) *world {
		return plannedChanges(settled(seed, tracing, 2+int(seed%4)), roughNet(), 10*time.Second)
	})
}

// TestPlannedChangesOfManyNodes is the same with as many nodes as a large cluster
// has.
func TestPlannedChangesOfManyNodes(t *testing.T) {
	forSeeds(t, 10, func(seed uint64, tracing bool) *world {
		net, limit := calmNet(), oneHandoff
		if seed%2 == 0 {
			net, limit = roughNet(), 10*time.Second
		}
		return plannedChanges(settled(seed, tracing, 8), net, limit)
	})
}

// TestCrashes is invariants 1, 2, 5 and 6 in and after crashes among planned changes on a bad
// network.
func TestCrashes(t *testing.T) {
	forSeeds(t, 1, func(seed uint64, tracing bool) *world {
		w := settled(seed, tracing, 3+int(seed%4))
		w.net = roughNet()
		w.judgeAll()
		w.clients(50*ms, 15*time.Second)
		for range 15 {
			n := w.some()
			switch w.rng.IntN(6) {
			case 0, 1:
				w.stop(n, false)
			case 2:
				w.start(n)
			case 3:
				w.stop(n, false)
				w.run(w.randomly(500 * ms)) // often less than its death takes to be noticed
				w.start(n)
			default:
				w.planned()
			}
			w.someTime(1500 * ms)
		}
		w.quiet()
		return w
	})
}

// TestPartitions is invariants 1, 2, 5 and 6 in and after splits, whole and one-way, among
// crashes, lost carriers, troubles and planned changes.
func TestPartitions(t *testing.T) {
	forSeeds(t, 1, func(seed uint64, tracing bool) *world {
		return settled(seed, tracing, 3+int(seed%4)).partitions()
	})
}

func (w *world) partitions() *world {
	w.net = roughNet()
	w.judgeAll()
	w.clients(50*ms, 20*time.Second)
	for range 15 {
		a, b := w.some(), w.some()
		switch w.rng.IntN(14) {
		case 0:
			w.partition(a.index, b.index)
		case 1:
			w.log("messages from %s to %s vanish", a.name, b.name)
			w.cut[[2]int{a.index, b.index}] = true
			w.gossipAll()
		case 2, 3:
			w.heal()
		case 4:
			w.stop(a, false)
		case 5:
			w.start(a)
		case 6:
			w.loseCarrier(a, w.randomly(time.Second))
		case 7:
			w.log("the kernel of %s refuses everything: %v", a.name, !a.refuses)
			a.refuses = !a.refuses
		case 8, 9, 10, 11:
			w.trouble(a)
		default:
			w.planned()
		}
		w.someTime(2 * time.Second)
	}
	w.quiet()
	return w
}

// loseCarrier takes a node's wire away for a while.
func (w *world) loseCarrier(n *simNode, span Time) {
	w.log("%s loses its carrier", n.name)
	core := n.core
	w.step(n, WireChanged{Reason: "carrier lost"})
	w.at(span, func() {
		if n.core == core {
			w.step(n, WireChanged{OK: true, Forwards: true})
		}
	})
}

// TestColdStarts is invariants 1, 2 and 5 when the nodes of a cluster start at
// any times, as after a power failure.
func TestColdStarts(t *testing.T) {
	forSeeds(t, 1, func(seed uint64, tracing bool) *world {
		w := someWorld(seed, tracing, 2+int(seed%5))
		if seed%3 == 1 {
			w.net = roughNet()
		}
		w.judgeAll()
		span := []Time{20 * ms, 200 * ms, 8 * time.Second}[seed%3]
		for _, n := range w.nodes {
			n.saved.Drained = w.rng.IntN(6) == 0
			w.at(w.randomly(span), func() { w.start(n) })
		}
		w.run(14 * time.Second)
		w.quiet()
		return w
	})
}

// TestOneSeedIsOneRun: the core's effects, and so the whole run, depend on nothing
// but the seed, least of all on the order of a map.
func TestOneSeedIsOneRun(t *testing.T) {
	run := func() []string {
		w := settled(6, true, 5)
		w.net = roughNet()
		for range 20 {
			w.planned()
			if w.rng.IntN(4) == 0 {
				w.stop(w.some(), false)
			}
			w.someTime(time.Second)
		}
		w.quiet()
		return w.trace
	}
	once, again := run(), run()
	if !slices.Equal(once, again) {
		i := 0
		for i < min(len(once), len(again)) && once[i] == again[i] {
			i++
		}
		t.Errorf("two runs differ from line %d of %d and %d on: %v", i, len(once), len(again), once[max(0, i-3):min(i+1, len(once))])
	}
}
