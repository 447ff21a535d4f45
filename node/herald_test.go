package node

import (
	"testing"
	"time"
)

// A node that falls silent because it is deaf says so first, so that nobody's lease
// waits for its word; then it says nothing until it hears again.
func TestLastWordsOfADeafNode(t *testing.T) {
	detect := NewDetect(20*time.Millisecond, 10)
	a := NewHerald(Incarnation{"a", 1}, detect, simTick)
	b := NewHerald(Incarnation{"b", 2}, detect, simTick)
	var fromA, fromB Beacon
	now := Time(time.Second)
	exchange := func() (aSpoke bool) {
		now += detect.Interval
		for _, h := range []*Herald{a, b} {
			h.Say(now, Bulletin{Phase: Active, Weight: 10, Lease: true})
			h.Attend(now, true)
		}
		if _, aSpoke = a.Beacon(now, &fromA); aSpoke {
			b.Hear(now, Wire, &fromA)
		}
		if _, ok := b.Beacon(now, &fromB); ok && !a.muted {
			a.Hear(now, Wire, &fromB)
		}
		if _, ok := b.ArmBy(now); ok {
			b.Armed(now, now)
		}
		return aSpoke
	}
	for range 100 {
		exchange()
	}
	if s := b.Status(now); !s.Held || s.Neighbours[0].Standing != Alive {
		t.Fatalf("%+v", s)
	}
	a.Mute(true)
	if !exchange() || fromA.Phase != Joining || len(fromA.Peers) > 0 || fromA.WireProof {
		t.Errorf("its last words: %+v", fromA)
	}
	for range 10 {
		exchange()
		if s := b.Status(now); !s.Held {
			t.Fatalf("b waits for a deaf node: %+v", s)
		}
	}
	if exchange() {
		t.Error("it is not silent")
	}
	a.Mute(false)
	if !exchange() || fromA.Phase != Active {
		t.Errorf("it hears again, and says: %+v", fromA)
	}
}
