package node

import (
	"testing"
	"time"
)

// TestLeaveOfAJoinerWhoseKernelKeepsBuckets: a node loses its carrier, and its kernel
// refuses to let go of the buckets; the others take them over. When the carrier is back,
// the node is told to restart or to leave: it gets no lease for what it had.
func TestLeaveOfAJoinerWhoseKernelKeepsBuckets(t *testing.T) {
	for _, keep := range []bool{false, true} {
		scenario(t, 3, func(t *testing.T, w *world) {
			w.gapLimit = 0
			n := w.nodes[2]
			n.refuses = true
			w.loseCarrier(n, time.Second)
			w.partition(2)
			w.run(time.Second)
			w.heal()
			w.run(3 * time.Second)
			if n.core.phase != Joining || n.owns() == 0 || n.leased {
				t.Fatalf("%s is %s with %d buckets, lease: %v", n.name, n.core.phase, n.owns(), n.leased)
			}
			w.step(n, Leave{KeepFlows: keep})
			w.run(2 * time.Second)
			n.refuses = false
			w.run(10 * time.Second)
		})
	}
}

// TestHealWithKernelsThatKeepBuckets: two halves meet, after the nodes of one were started
// anew, so that nobody has held them dead. Kernels refuse to let go of what the other half
// keeps. Who cannot give up a bucket that another serves gives up its lease.
func TestHealWithKernelsThatKeepBuckets(t *testing.T) {
	for victim := range 4 {
		scenario(t, 4, func(t *testing.T, w *world) {
			w.gapLimit = 0
			w.watch()
			w.partition(1, 3)
			for _, i := range []int{0, 2} {
				w.run(2 * time.Second)
				w.stop(w.nodes[i], false)
				w.run(2 * time.Second)
				w.start(w.nodes[i])
			}
			w.run(5 * time.Second)
			w.nodes[victim].refuses = true
			w.run(100 * ms)
			w.heal()
			w.run(5 * time.Second)
			w.nodes[victim].refuses = false
			w.run(5 * time.Second)
		})
	}
}
