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
	now, phase := Time(time.Second), Joining // they meet before they serve
	exchange := func() (aSpoke bool) {
		now += detect.Interval
		for _, h := range []*Herald{a, b} {
			h.Say(now, Bulletin{Phase: phase, Weight: 10, Lease: true})
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
	for range 5 {
		exchange()
	}
	phase = Active
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

// What somebody says who was silent for a while is told anew, though it is what he said
// before: of one who is no member the core has forgotten it.
func TestWhatTheReturnedSayIsToldAnew(t *testing.T) {
	detect := NewDetect(20*time.Millisecond, 10)
	a := NewHerald(Incarnation{"a", 1}, detect, simTick)
	x := NewHerald(Incarnation{"x", 2}, detect, simTick)
	var fromA, fromX Beacon
	var told []Event
	now := Time(time.Second)
	exchange := func(span Time, silent bool) {
		for end := now + span; now < end; {
			now += detect.Interval
			for h, phase := range map[*Herald]Phase{a: Active, x: Joining} {
				h.Say(now, Bulletin{Phase: phase, Weight: 10, Claims: 3})
				h.Attend(now, true)
			}
			if _, ok := a.Beacon(now, &fromA); ok && !silent {
				x.Hear(now, Wire, &fromA)
			}
			if _, ok := x.Beacon(now, &fromX); ok && !silent {
				a.Hear(now, Wire, &fromX)
			}
			told = append(told, a.Events(now)...)
		}
	}
	exchange(time.Second, false)
	exchange(300*time.Millisecond, true)
	told = nil
	exchange(2*time.Second, false)
	returned := false
	for _, ev := range told {
		switch ev := ev.(type) {
		case PeerStanding:
			returned = returned || ev.Standing == Alive
		case PeerSpoke:
			if returned && ev.Bulletin.Phase == Joining && ev.Bulletin.Claims == 3 {
				return
			}
		}
	}
	t.Errorf("x has returned (%t), and was told of: %+v", returned, told)
}
