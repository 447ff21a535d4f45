package node

import "testing"

// TestEpoch (invariant 1): a peer holds this node dead, and alive again, before the core has
// heard of the first. What the core decided before gives no right to a lease: the peer
// may have taken the buckets in between.
func TestEpoch(t *testing.T) {
	detect := NewDetect(20*ms, 10)
	self, peer := Incarnation{"b", 1}, Incarnation{"a", 2} // of two that hold each other dead the lower name stays
	h := NewHerald(self, detect, 4*ms)
	now := 1000 * ms
	var mine Beacon
	turn := func(epoch uint64, flags AckFlags) Heed {
		now += 20 * ms
		h.Say(now, Bulletin{Phase: Active, Weight: 10, Lease: true, Epoch: epoch})
		h.Attend(now, true)
		h.Beacon(now, &mine)
		now += ms
		return h.Hear(now, Wire, &Beacon{
			Incarnation: peer, Format: 1, Lowest: 1, Highest: 1, Seq: SeqAt(now), Phase: Active, Weight: 10,
			Peers: []PeerAck{{Key: KeyOf(self), Seq: mine.Seq, Flags: flags}},
		})
	}
	arms := func() bool {
		_, ok := h.ArmBy(now)
		return ok
	}
	for range 20 {
		turn(0, AckHeard|AckAlive|AckServing)
		h.Events(now)
		if arms() {
			h.Armed(now, now)
		}
	}
	if h.leaseUntil <= now {
		t.Fatal("it has no lease: the test is pointless")
	}
	if heed := turn(0, AckHeard|AckDead|AckServing); !heed.Drop || h.leaseUntil > 0 {
		t.Fatalf("held dead, and keeps its lease: %+v", heed)
	}
	for range 100 {
		if turn(0, AckHeard|AckAlive|AckServing); arms() {
			t.Fatal("a lease may be armed for what the core decided before it heard that this node was held dead")
		}
	}
	for range 100 {
		turn(h.epoch, AckHeard|AckAlive|AckServing)
	}
	if !arms() {
		t.Error("the core has heard of it, and no lease may be armed")
	}
}
