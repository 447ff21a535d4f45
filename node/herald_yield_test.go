package node

import (
	"testing"
	"time"
)

// What was decided before the core knows that this node was held dead gives it no lease,
// though the one that held it dead holds it alive again before the core has heard of it.
func TestEpochVoidsWhatWasDecidedBefore(t *testing.T) {
	self, peer := Incarnation{"b", 1}, Incarnation{"a", 2} // whose name goes first
	h := NewHerald(self, liveDetect, 4*mil)
	now := Time(time.Second)
	var mine Beacon
	turn := func(flags AckFlags) Heed {
		now += 20 * mil
		h.Say(now, Bulletin{Phase: Active, Weight: 10, Lease: true}) // of epoch 0
		h.Attend(now, true)
		h.Beacon(now, &mine)
		now += mil
		return h.Hear(now, Wire, &Beacon{Incarnation: peer, Seq: SeqAt(now), Phase: Active, Weight: 10,
			Peers: []PeerAck{{Key: KeyOf(self), Seq: mine.Seq, Flags: flags}}})
	}
	const well = AckHeard | AckAlive | AckServing
	for range 20 {
		turn(well)
		h.Events(now)
		if _, ok := h.ArmBy(now); ok {
			h.Armed(now, now)
		}
	}
	if h.leaseUntil <= now {
		t.Fatal("no lease")
	}
	if heed := turn(AckHeard | AckDead | AckServing); !heed.Drop || h.leaseUntil > 0 {
		t.Fatalf("held dead, and the lease is kept: %+v", heed)
	}
	for range 5 {
		if turn(well); h.leaseUntil > 0 || h.needsLease(now) {
			t.Fatal("a lease is prolonged")
		}
		if by, ok := h.ArmBy(now); ok {
			t.Fatalf("a lease may be armed by %v", by)
		}
	}
	h.Say(now, Bulletin{Phase: Active, Weight: 10, Lease: true, Epoch: h.epoch}) // the core knows
	if _, ok := h.ArmBy(now); !ok {
		t.Error("what was decided since gives no lease")
	}
}

// Two halves meet, and for a moment each holds itself the larger: one of them has just found
// another node. The one that has no lease arms none while the other serves and holds it
// dead.
func TestNoLeaseWhileOneThatServesHoldsThisNodeDead(t *testing.T) {
	tb := metTable(t, "a", "b", "c")
	tb.hears = hearOnly()
	tb.rounds(20)
	a, b, c := tb.voice("a"), tb.voice("b"), tb.voice("c")
	small := b.beacon(tb.now) // it says that b is alone, as a is, whose name goes first
	tb.now += mil
	if a.Hear(tb.now, Wire, small).Yield {
		t.Fatal("a yields to b")
	}
	b.turn(b.find(c.self), Alive)
	tb.now += mil
	if b.Hear(tb.now, Wire, a.beacon(tb.now)).Yield {
		t.Fatal("b yields to a")
	}
	if b.proofUntil(tb.now, liveDetect.D) <= tb.now {
		t.Fatal("a has heard b: what else than its verdict could keep b from a lease?")
	}
	if b.MayArm(tb.now) {
		t.Error("b may arm a lease while a serves and holds it dead")
	}
	tb.now += 20 * mil // and a hears that b is more
	if !a.Hear(tb.now, Wire, b.beacon(tb.now)).Yield {
		t.Error("a does not yield")
	}
}
