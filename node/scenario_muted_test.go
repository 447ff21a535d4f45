package node

import (
	"testing"
	"time"
)

// muteBeacons lets no beacon of a node arrive, on any medium, while gossip and messages
// pass, and it hears all others.
func (w *world) muteBeacons(n *simNode) {
	for i := range w.nodes {
		w.wireCut[[2]int{n.index, i}], w.unicastCut[[2]int{n.index, i}] = true, true
	}
}

// TestMutedBesideAJoiner (invariant 1): n2 is kept from serving by another
// spec. n1 is started anew while n0 falls mute, so that n1's new life never hears n0, and
// n0 takes its beacons for recordings. Only n2, which does not serve, can tell n0 that
// n1 serves and holds it dead.
func TestMutedBesideAJoiner(t *testing.T) {
	forSeeds(t, 15, func(seed uint64, tracing bool) *world {
		w := newWorld(seed, tracing, 3, calmNet())
		w.layOut()
		w.nodes[2].revision = -1
		for _, n := range w.nodes[:2] {
			w.start(n)
		}
		w.run(8 * time.Second)
		w.start(w.nodes[2])
		w.run(8 * time.Second)
		w.strict = true
		n0, n1 := w.nodes[0], w.nodes[1]
		w.stop(n1, false)
		delay := w.randomly(150 * ms)
		w.at(delay, func() { w.muteBeacons(n0) })
		w.run(60 * ms)
		w.start(n1)
		w.run(10 * time.Second)
		w.expect(n1.owns() == w.buckets && n1.leased, "n1 serves %d of %d buckets, lease %v", n1.owns(), w.buckets, n1.leased)
		w.expect(n0.owns() == 0 && n0.core.phase == Joining, "n0, which nobody hears, is %s with %d buckets", n0.core.phase, n0.owns())
		w.expect(n0.hasProblem("holds this node dead"), "problems of n0: %q", n0.core.Snapshot().Problems)
		w.heal()
		w.run(5 * time.Second)
		w.expect(n0.owns() > 0, "n0 is heard again, is %s and has no buckets", n0.core.phase)
		return w
	})
}

// cutBeacons lets no beacon pass from one node to another, on any medium.
func (w *world) cutBeacons(from, to int, cut bool) {
	w.wireCut[[2]int{from, to}], w.unicastCut[[2]int{from, to}] = cut, cut
}

// TestHeldDeadByOneWhomItDoesNotHear is invariant 1: n0 and n2 hear each other through n1
// only. When n2 has not heard n1 for a while it takes everything. n1 is told so, and n0
// must not go on with what it had when n2 holds it alive again.
func TestHeldDeadByOneWhomItDoesNotHear(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.cutBeacons(0, 2, true)
		w.cutBeacons(2, 0, true)
		w.run(3 * time.Second)
		w.cutBeacons(1, 2, true)
		w.run(simDetect.D + w.randomly(600*ms))
		w.cutBeacons(1, 2, false)
		w.run(5 * time.Second)
		if w.unowned() > 0 {
			t.Errorf("%d buckets have no owner; %v", w.unowned(), w.phases())
		}
		w.cutBeacons(0, 2, false)
		w.cutBeacons(2, 0, false)
	})
}

// TestRestartedAndHeardThroughAThird: n1 is started anew and does not hear n0, so that n0
// takes its beacons for recordings. n2 hears both: for n0 that is a sign of life of n1's
// new life, and the old one is dead.
func TestRestartedAndHeardThroughAThird(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.cut[[2]int{0, 1}] = true
		w.gossipAll()
		w.stop(w.nodes[1], false)
		w.run(w.randomly(400 * ms))
		w.start(w.nodes[1])
		w.run(8 * time.Second)
		if n0, n1 := w.nodes[0], w.nodes[1]; !n0.herald.live.Alive(Incarnation{n1.name, n1.boot}) {
			t.Errorf("n0 holds of n1 %+v", n0.herald.Status(w.now).Neighbours)
		}
		w.heal()
	})
}

// TestANewcomerSpeaksToAll is invariant 1: nobody hears n0, and n1 is not heard on the
// wire, so that n0 hears it by unicast, and once n1 holds n0 dead once a second. As long as
// n1 does not serve n0 goes on. Before n1 takes over it must have told n0 that it serves.
func TestANewcomerSpeaksToAll(t *testing.T) {
	forSeeds(t, 15, func(seed uint64, tracing bool) *world {
		w := newWorld(seed, tracing, 2, calmNet())
		w.layOut()
		w.nodes[1].revision = -1 // it does not serve
		w.start(w.nodes[0])
		w.run(8 * time.Second)
		w.start(w.nodes[1])
		w.run(8 * time.Second)
		w.strict = true
		w.wireCut[[2]int{1, 0}] = true
		w.step(w.nodes[1], OtherKey{Why: "seeds that answer have another key"}) // nor will it alone, for a while
		w.muteBeacons(w.nodes[0])
		w.run(2*time.Second + w.randomly(time.Second))
		w.expect(w.nodes[0].owns() == w.buckets && w.nodes[0].leased, "a deaf newcomer has stopped n0")
		w.step(w.nodes[1], OtherKey{})
		w.run(15 * time.Second)
		w.expect(w.unowned() == 0 && w.nodes[1].leased, "%d buckets have no owner; %v", w.unowned(), w.phases())
		return w
	})
}

// TestWhoWasSilentFindsNobodyDeadAtOnce is invariant 1: the core of n0 hangs, so that n0
// is silent for nearly D. n1 does not wait for its acknowledgement meanwhile, and falls
// mute. When n0 speaks again n1 has to have heard it, and lost its lease, before n0 finds
// it dead.
func TestWhoWasSilentFindsNobodyDeadAtOnce(t *testing.T) {
	forSeeds(t, 5, func(seed uint64, tracing bool) *world {
		w := newWorld(seed, tracing, 2, calmNet())
		w.layOut()
		for _, n := range w.nodes {
			w.start(n)
		}
		w.run(6 * time.Second)
		w.strict = true
		n0, n1 := w.nodes[0], w.nodes[1]
		n0.blocked = true
		w.at(simDetect.D-simDetect.Interval, func() { w.muteBeacons(n1) })
		w.at(simDetect.D+simDetect.quiet()+w.randomly(simDetect.quiet()), func() { n0.blocked = false })
		w.run(5 * time.Second)
		w.expect(w.unowned() == 0 && n1.core.phase == Joining, "%d buckets have no owner; %v", w.unowned(), w.phases())
		w.heal()
		w.run(5 * time.Second)
		w.settle()
		return w
	})
}

// TestHealOfASplitWhileTheCoreHangs: the lease of the smaller half is dropped by the beacon
// that says that it is dead, whatever its core does. The bound of invariant 1 is an interval.
func TestHealOfASplitWhileTheCoreHangs(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit, w.strict = 0, false
		w.partition(0)
		w.run(3 * time.Second)
		w.nodes[0].blocked = true
		w.run(5 * ms)
		w.heal()
		w.run(2*simDetect.Interval + calmDelay)
		for slot, owners := range w.owners {
			if owners > 1 {
				t.Fatalf("slot %d still has %d owners", slot, owners)
			}
		}
		w.nodes[0].blocked = false
		w.strict = true
		w.run(5 * time.Second)
	})
}

// TestANewcomerThatNeverHeardOfThisNode is invariant 1: n2 is started anew while nobody
// hears n0, and gossip does not know it either. n1, which n2 hears, does not serve. So n2
// takes everything without a verdict over n0, and n0, which is heard again, must not go on
// with what it had.
func TestANewcomerThatNeverHeardOfThisNode(t *testing.T) {
	forSeeds(t, 15, func(seed uint64, tracing bool) *world {
		w := newWorld(seed, tracing, 3, calmNet())
		w.layOut()
		w.nodes[1].revision = -1
		w.start(w.nodes[0])
		w.start(w.nodes[2])
		w.run(8 * time.Second)
		w.start(w.nodes[1])
		w.run(8 * time.Second)
		w.strict = true
		n0, n2 := w.nodes[0], w.nodes[2]
		w.cutGossip(n0)
		w.stop(n2, false)
		w.run(w.randomly(150 * ms))
		w.muteBeacons(n0)
		w.run(w.randomly(150 * ms))
		w.start(n2)
		w.run(500*ms + w.randomly(6*time.Second))
		for i := range w.nodes {
			w.cutBeacons(0, i, false)
		}
		w.run(500 * ms)
		clear(w.gossipCut)
		w.gossipAll()
		w.run(8 * time.Second)
		w.expect(n0.owns() > 0 && n2.owns() > 0, "n0 has %d buckets, n2 %d; %v", n0.owns(), n2.owns(), w.phases())
		return w
	})
}
