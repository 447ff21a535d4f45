package node

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// TestHealWithOneStartedAnew is invariant 1 after a split in which one side was started anew, so
// that nobody has held it dead. Beacons pass again, and messages do not: of those who serve
// the same buckets one side yields all the same.
func TestHealWithOneStartedAnew(t *testing.T) {
	for _, nodes := range []int{2, 3, 4} {
		for _, passes := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d nodes, messages pass %v", nodes, passes), func(t *testing.T) {
				scenario(t, nodes, func(t *testing.T, w *world) {
					w.gapLimit = 0
					w.watch()
					n := w.nodes[nodes-1]
					w.partition(n.index)
					w.run(2 * time.Second)
					w.stop(n, false)
					w.run(2 * time.Second)
					w.start(n)
					w.run(8 * time.Second)
					if n.owns() != w.buckets || !n.leased {
						t.Fatalf("%s does not serve alone: it has %d buckets", n.name, n.owns())
					}
					if !passes {
						w.drop(func(_, _ *simNode, _ *Message) bool { return true })
					}
					w.heal()
					w.run(8 * time.Second)
					w.drops = nil
				})
			})
		}
	}
}

// TestLostBucketIsNotKeptByAKernelThatIsTriedLater is invariant 1 at a node whose kernel has
// refused several commits, so that it is tried again after a while: what another claims too,
// and this node has lost to it, the kernel is asked at once to let go of. If it does
// not, the node gives up its lease.
func TestLostBucketIsNotKeptByAKernelThatIsTriedLater(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{})
	d.commits(nil)
	d.alive("b")
	d.says("b", func(*Statement) {})
	d.agrees("b")
	wanted, refusal := d.owned("b"), errors.New("refused")
	for id := range uint64(9) { // the kernel refuses what b asks for, and the probes after that
		d.tells("b", Message{Request: &Request{ID: id + 1, Slots: wanted.Clone()}})
		for d.core.open == nil {
			d.wait(100 * ms)
		}
		d.commits(refusal)
	}
	if d.core.commitAfter < d.now+300*ms {
		t.Fatalf("the kernel is tried again in %v", d.core.commitAfter-d.now)
	}
	d.says("b", func(s *Statement) { s.Claims = wanted.Clone() }) // as after a split
	d.agrees("b")
	if d.core.open == nil || d.core.open.Probe || !d.core.openSlots.Equal(wanted) {
		t.Fatalf("the kernel is not asked to let go of %v", wanted)
	}
	d.commits(refusal)
	if b := d.core.Bulletin(); b.Lease || b.Phase != Joining {
		t.Errorf("its kernel keeps what b serves, and it is %v, lease %v", b.Phase, b.Lease)
	}
}
