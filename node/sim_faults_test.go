package node

import (
	"testing"
	"time"
)

// mishap does one random thing to a node that no operator planned and that splits
// nobody from all others.
func (w *world) mishap() {
	n := w.some()
	switch w.rng.IntN(22) {
	case 0, 1:
		w.stall(n, w.randomly(600*ms))
	case 2:
		w.stall(n, w.randomly(4*time.Second))
	case 3:
		w.stop(n, false)
	case 4:
		w.start(n)
	case 5:
		w.stop(n, false)
		w.run(w.randomly(500 * ms))
		w.start(n)
	case 6: // one way, on the wire
		w.wireCut[[2]int{n.index, w.some().index}] = true
	case 7: // it is not heard on the wire, or hears nobody there
		w.log("the wire is cut at %s", n.name)
		from := w.rng.IntN(2)
		for i := range w.nodes {
			link := [2]int{n.index, i}
			w.wireCut[[2]int{link[from], link[1-from]}] = true
		}
	case 8:
		w.beaconLoss = 0.3 * w.rng.Float64()
	case 9:
		w.log("the core of %s hangs", n.name)
		n.blocked = true
		w.at(w.randomly(3*time.Second), func() { n.blocked = false })
	case 10:
		clear(w.wireCut)
		clear(w.gossipCut)
		w.gossipAll()
		w.beaconLoss = 0
	case 11:
		w.cutGossip(n)
	case 12, 13:
		w.log("%s does not get to read", n.name)
		n.starved = w.now + w.randomly(600*ms)
	case 14, 15, 16, 17, 18, 19:
		w.trouble(n)
	default:
		w.planned()
	}
}

// TestMishaps is invariants 1, 2, 5 and 6: stalls, hung cores, beacons and messages that are
// lost, kernels that do not do what they should, crashes and restarts never make two nodes
// with a valid lease accept new flows of one bucket, and never leave one without an owner for long.
func TestMishaps(t *testing.T) {
	forSeeds(t, 1, func(seed uint64, tracing bool) *world {
		return settled(seed, tracing, 2+int(seed%4)).mishaps(12, 1500*ms)
	})
}

// TestMishapsOfManyNodes is the same with 16 to 32 nodes.
func TestMishapsOfManyNodes(t *testing.T) {
	forSeeds(t, 100, func(seed uint64, tracing bool) *world {
		return settled(seed, tracing, 16+int((seed-1)*7%17)).mishaps(40, 500*ms)
	})
}

// mishaps does so many, and then nothing more.
func (w *world) mishaps(count int, every Time) *world {
	w.judgeAll()
	w.clients(50*ms, 15*time.Second)
	for range count {
		w.mishap()
		w.someTime(every)
	}
	w.beaconLoss = 0
	w.quiet()
	return w
}
