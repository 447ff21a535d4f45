package node

import (
	"testing"
	"time"
)

// lapses is how often the node's lease ran out since it was first armed.
func (n *simNode) lapses() uint64 { return n.herald.lapses.Count }

// mute lets nothing of a node arrive, on any medium, while it hears all others.
func (w *world) muteNode(n *simNode) {
	for i := range w.nodes {
		w.cut[[2]int{n.index, i}] = true
	}
}

// TestLateBeaconArmsNothing, as the protocol sees it (the kernel's side is
// in package nft): a node whose process stood still sends its next beacon when the
// others have taken over. It has no lease then, and gets none before it has given up
// what it had.
func TestLateBeaconArmsNothing(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.stall(w.nodes[0], 500*ms)
		w.run(450 * ms)
		if n := w.nodes[1].owns() + w.nodes[2].owns(); n != w.buckets || w.nodes[0].leased {
			t.Fatalf("after 450 ms of silence the others have %d of %d buckets; lease of n0: %v", n, w.buckets, w.nodes[0].leased)
		}
		w.run(5 * time.Second)
		if w.nodes[0].owns() == 0 || !w.noticed("holds this node dead") {
			t.Errorf("n0 is back with %d buckets", w.nodes[0].owns())
		}
	})
}

// TestStallBetweenGrantAndCommit: the heir stands still when it has the
// grant, is held dead, and its commit happens after all.
func TestStallBetweenGrantAndCommit(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.intercept = func(from, to *simNode, m *Message) fate {
			if m.Grant != nil && to.name == "n1" && w.now >= to.stalled {
				core := to.core
				to.slow = 30 * ms
				w.at(5*ms, func() {
					if to.core == core {
						w.stall(to, time.Second)
					}
				})
			}
			return fate{}
		}
		w.wish(w.nodes[2], Wish{Node: "n0", Want: WantDrain})
		w.run(100 * ms)
		w.intercept = nil
		w.run(3 * time.Second)
		w.nodes[1].slow = 0
		w.run(3 * time.Second)
	})
}

// TestSentIsNotHeard: what a node sends never arrives, though it leaves
// its kernel, lease mark and all. It hears that it is dead.
func TestSentIsNotHeard(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.muteNode(w.nodes[0])
		w.run(simDetect.D + 50*ms)
		if n := w.nodes[1].owns() + w.nodes[2].owns(); n != w.buckets {
			t.Errorf("the others have %d of %d buckets", n, w.buckets)
		}
		if w.nodes[1].lapses()+w.nodes[2].lapses() > 0 {
			t.Error("a lease of the others ran out")
		}
		w.run(2 * time.Second)
		if w.nodes[0].owns() > 0 {
			t.Errorf("n0, which nobody hears, has %d buckets", w.nodes[0].owns())
		}
		w.heal()
	})
}

// TestDeathPausesNobody: the death of a node costs nobody else the
// lease.
func TestDeathPausesNobody(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.stop(w.nodes[2], false)
		w.run(3 * time.Second)
		for _, n := range w.nodes[:2] {
			if n.lapses() > 0 || !n.leased {
				t.Errorf("%s: %d lapses, lease %v", n.name, n.lapses(), n.leased)
			}
		}
		w.start(w.nodes[2])
	})
}

// TestDeafOnTheWire: a node gets the clients' packets and no beacon, as
// behind a firewall or by rp_filter. The second medium keeps it alive, it has no
// wire-proof, and the others relieve it by handoff; nobody's lease runs out.
func TestDeafOnTheWire(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		for i := range w.nodes {
			w.wireCut[[2]int{i, 0}] = true
		}
		w.run(3 * time.Second)
		if n := w.nodes[0]; n.owns() > 0 || !n.core.heralded.CutOff {
			t.Errorf("n0 has %d buckets, cut off %v", n.owns(), n.core.heralded.CutOff)
		}
		for _, n := range w.nodes {
			if n.lapses() > 0 {
				t.Errorf("%s: the lease ran out %d times", n.name, n.lapses())
			}
		}
		clear(w.wireCut)
		w.run(3 * time.Second)
		if n := w.nodes[0]; n.owns() == 0 {
			t.Error("n0 is heard again and has no buckets")
		}
	})
}

// TestDeafOnBothMedia: the shell finds out by the kernel's counters, silences the node
// and takes the wire from it. To the others that is a death like any other, and it
// does not stop them.
func TestDeafOnBothMedia(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		n0 := w.nodes[0]
		for i := range w.nodes {
			w.wireCut[[2]int{i, 0}] = true
			w.unicastCut[[2]int{i, 0}] = true
		}
		w.run(simDetect.D / 2)
		n0.herald.Mute(true)
		w.kick(n0)
		w.setLease(n0, 0)
		w.step(n0, WireChanged{Reason: "this host drops beacons"})
		w.run(2 * simDetect.D)
		if n := w.nodes[1].owns() + w.nodes[2].owns(); n != w.buckets {
			t.Errorf("the others have %d of %d buckets", n, w.buckets)
		}
		w.run(2 * time.Second)
		clear(w.wireCut)
		clear(w.unicastCut)
		n0.herald.Mute(false)
		w.step(n0, WireChanged{OK: true, Forwards: true})
	})
}

// TestAddressGone: a node without its address can still send and hear frames to the
// cluster MAC, and nothing else: nobody would hear that it has given up its buckets.
// It says nothing, and its buckets go to the others.
func TestAddressGone(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		n0 := w.nodes[0]
		for i := range w.nodes {
			for _, link := range [][2]int{{i, 0}, {0, i}} {
				w.gossipCut[link], w.unicastCut[link] = true, true
			}
		}
		w.step(n0, WireChanged{Reason: "the address is gone"})
		w.run(2 * simDetect.D)
		if n := w.nodes[1].owns() + w.nodes[2].owns(); n != w.buckets {
			t.Errorf("the others have %d of %d buckets", n, w.buckets)
		}
		w.run(2 * time.Second)
		clear(w.gossipCut)
		clear(w.unicastCut)
		w.step(n0, WireChanged{OK: true, Forwards: true})
	})
}

// TestAllDeaf: no beacon passes on the wire, between any two. Nobody
// concludes that it is alone, nobody is excluded, nothing moves.
func TestAllDeaf(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		for a := range w.nodes {
			for b := range w.nodes {
				w.wireCut[[2]int{a, b}] = true
			}
		}
		takes := w.takes
		w.run(5 * time.Second)
		if w.takes != takes {
			t.Errorf("%d buckets have moved", w.takes-takes)
		}
		for _, n := range w.nodes {
			if n.core.heralded.CutOff || n.lapses() > 0 {
				t.Errorf("%s: cut off %v, %d lapses", n.name, n.core.heralded.CutOff, n.lapses())
			}
		}
		clear(w.wireCut)
	})
}

// TestTwoWhoCannotHearEachOther: two nodes hear each other on no medium, and
// the third hears both: nobody is dead.
func TestTwoWhoCannotHearEachOther(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		for _, link := range [][2]int{{0, 1}, {1, 0}} {
			w.wireCut[link], w.unicastCut[link] = true, true
		}
		w.gapLimit = simDetect.D // what a third passes on comes an interval later: now and then too late for a mark
		takes := w.takes
		w.run(5 * time.Second)
		if w.takes != takes || w.noticed("is silent or dead") {
			t.Errorf("%d buckets have moved", w.takes-takes)
		}
		clear(w.wireCut)
		clear(w.unicastCut)
	})
}

// TestBeaconsLiveAndTheCoreHangs: the thread that sends beacons runs, the
// core is deadlocked. Without its word there are no beacons, so that the others take
// over, after the lease has run out.
func TestBeaconsLiveAndTheCoreHangs(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.nodes[0].blocked = true
		w.run(2*simDetect.D + 100*ms)
		if n := w.nodes[1].owns() + w.nodes[2].owns(); n != w.buckets {
			t.Errorf("the others have %d of %d buckets", n, w.buckets)
		}
		w.nodes[0].blocked = false
	})
}

// TestShortDeathResetsNobody: a node stands still for less than a second,
// as in a live migration. It is held dead, and its flows, and those of the others,
// live on.
func TestShortDeathResetsNobody(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.clients(5*ms, time.Second)
		w.run(time.Second)
		w.strictFlows = true
		flows := w.countFlows()
		w.stall(w.nodes[0], 400*ms)
		w.run(600 * ms)
		if !w.noticed("n0 is silent or dead") {
			t.Error("nobody noticed")
		}
		w.run(1500 * ms)
		if w.resets > 0 || flows == 0 {
			t.Errorf("%d of %d flows were reset", w.resets, flows)
		}
		w.run(10 * time.Second) // their ends
		w.strictFlows = false
	})
}

// TestCrashAndRestartWithinASecond: the next life finds the flows, and in between
// nobody resets them.
func TestCrashAndRestartWithinASecond(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.clients(5*ms, time.Second)
		w.run(time.Second)
		w.strictFlows = true
		w.stop(w.nodes[0], false)
		w.run(600 * ms)
		w.start(w.nodes[0])
		w.run(3 * time.Second)
		if w.resets > 0 {
			t.Errorf("%d flows were reset", w.resets)
		}
		w.run(10 * time.Second)
		w.strictFlows = false
	})
}

// TestRestartKeepsFlows: a node that says that it restarts is waited for, and gives
// its buckets away before.
func TestRestartKeepsFlows(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.clients(5*ms, time.Second)
		w.run(time.Second)
		w.strictFlows = true
		w.step(w.nodes[0], Leave{KeepFlows: true})
		w.run(3 * time.Second)
		if w.nodes[0].core != nil {
			t.Fatalf("n0 is still %s", w.nodes[0].core.phase)
		}
		w.start(w.nodes[0])
		w.run(3 * time.Second)
		if w.resets > 0 {
			t.Errorf("%d flows were reset", w.resets)
		}
		if w.nodes[0].owns() == 0 {
			t.Error("n0 is back and has nothing")
		}
		w.run(10 * time.Second)
		w.strictFlows = false
	})
}

// TestRestartThatNeverComes: what its flows were is let go after a while.
func TestRestartThatNeverComes(t *testing.T) {
	scenario(t, 2, func(t *testing.T, w *world) {
		w.clients(5*ms, time.Second)
		w.run(time.Second)
		w.step(w.nodes[0], Leave{KeepFlows: true})
		w.run(2 * time.Second)
		if w.nodes[1].core.kernelAdopt.Empty() {
			t.Error("n1 adopts nothing while n0 restarts")
		}
		w.run(w.periods().Restart)
		if n := w.nodes[1].core.kernelAdopt.Count(); n > 0 {
			t.Errorf("n1 still adopts %d buckets", n)
		}
	})
}

// TestGossipCutAndTheWireWhole: what is owned stands. Weight, phase and health travel in
// beacons, and messages take the beacons' way, so that even a drain goes on.
func TestGossipCutAndTheWireWhole(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		takes := w.takes
		w.cutGossip(w.nodes[0])
		w.run(4 * time.Second)
		if w.takes != takes || w.noticed("n0 is silent or dead") {
			t.Errorf("%d buckets have moved", w.takes-takes)
		}
		w.gapLimit = 100 * ms
		w.wish(w.nodes[0], Wish{Node: "n0", Want: WantDrain})
		w.run(2 * time.Second)
		if n := w.nodes[0].owns(); n > 0 {
			t.Errorf("n0 is drained and has %d buckets", n)
		}
		w.wish(w.nodes[0], Wish{Node: "n0", Want: WantResume})
		w.run(2 * time.Second)
		w.heal()
	})
}

// TestGossipCutAndADeath: the others of a node whose gossip is cut still agree on who
// takes over from a dead one.
func TestGossipCutAndADeath(t *testing.T) {
	scenario(t, 4, func(t *testing.T, w *world) {
		w.cutGossip(w.nodes[0])
		w.run(4 * time.Second)
		w.gapLimit = 0
		w.stop(w.nodes[3], false)
		w.run(2 * time.Second)
		if n := w.unowned(); n > 0 {
			t.Errorf("%d buckets have no owner", n)
		}
		w.heal()
	})
}

// TestHealOfASplit: two nodes that hear each other on no medium both serve; when they
// hear each other again, the bound of invariant 1 is an interval and a commit.
func TestHealOfASplit(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit, w.strict = 0, false
		w.partition(0)
		w.run(3 * time.Second)
		if n := w.nodes[0].owns() + w.nodes[1].owns() + w.nodes[2].owns(); n != 2*w.buckets {
			t.Errorf("the halves have %d buckets, want %d twice", n, w.buckets)
		}
		w.heal()
		w.run(2*simDetect.Interval + calmDelay)
		for slot, owners := range w.owners {
			if owners > 1 {
				t.Fatalf("slot %d still has %d owners", slot, owners)
			}
		}
		w.strict = true
		w.run(5 * time.Second)
	})
}

func (w *world) countFlows() (n int) {
	for _, flows := range w.flows {
		n += len(flows)
	}
	return n
}
