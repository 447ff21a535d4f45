package node

import (
	"fmt"
	"testing"
	"time"
)

// chain lets beacons pass between neighbours only, by number; with messages, those too.
func (w *world) chain(messages bool) {
	for a := range w.nodes {
		for b := range w.nodes {
			if b-a < -1 || b-a > 1 {
				w.cutBeacons(a, b, true)
				w.cut[[2]int{a, b}] = messages
			}
		}
	}
	w.gossipAll()
}

// TestAChain is invariant 1 where hearing is not transitive: the ends of a chain hold each
// other dead, and take nothing from each other. Every bucket stays where it is.
func TestAChain(t *testing.T) {
	for _, nodes := range []int{4, 5, 6} {
		for _, messages := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d nodes, messages cut %v", nodes, messages), func(t *testing.T) {
				forSeeds(t, 50, func(seed uint64, tracing bool) *world {
					w := newWorld(seed, tracing, nodes, calmNet())
					w.layOut()
					for _, n := range w.nodes {
						w.start(n)
					}
					w.awaitServing(w.nodes, 12*time.Second)
					w.run(3 * time.Second)
					w.chain(messages)
					unowned := 0
					for range 300 {
						w.run(100 * ms)
						for slot, owners := range w.owners {
							if owners > 1 {
								w.fault("invariant 1: slot %d has %d owners", slot, owners)
								return w
							}
						}
						if w.unowned() > 0 {
							unowned++
						}
					}
					w.expect(unowned < 10, "at %d of 300 moments buckets had no owner", unowned)
					for i, n := range w.nodes {
						w.expect(n.hasProblem("are more than one step apart") == (i < nodes-3 || i >= 3), "%s: problems %q", n.name, n.core.Snapshot().Problems)

					}
					w.heal()
					w.run(16 * time.Second)
					w.settle()
					return w
				})
			})
		}
	}
}

// TestHealWithAKernelThatHasRefusedForLong is invariant 1 where a kernel refuses since before
// the split has healed, so that the node tries it again once a second only. What the other
// half serves it must let go of at once, or lose its lease.
func TestHealWithAKernelThatHasRefusedForLong(t *testing.T) {
	for _, victim := range []int{1, 3} {
		scenario(t, 4, func(t *testing.T, w *world) {
			w.gapLimit = 0
			w.watch()
			w.nodes[victim].refuses = true
			w.partition(1, 3)
			for _, i := range []int{0, 2} {
				w.run(2 * time.Second)
				w.stop(w.nodes[i], false)
				w.run(2 * time.Second)
				w.start(w.nodes[i])
			}
			w.run(5*time.Second + 300*ms)
			w.heal()
			w.run(5 * time.Second)
			w.nodes[victim].refuses = false
			w.run(5 * time.Second)
		})
	}
}
