package node

import (
	"testing"
	"time"
)

// TestLastWordsOfALeaver: a node that has handed everything over says for two intervals
// that it hears nobody, in the phase that it is in, and then nothing more.
func TestLastWordsOfALeaver(t *testing.T) {
	detect := NewDetect(20*time.Millisecond, 10)
	a := NewHerald(Incarnation{"a", 1}, detect, simTick)
	b := NewHerald(Incarnation{"b", 2}, detect, simTick)
	var fromA, fromB Beacon
	now := Time(time.Second)
	exchange := func() (aSpoke bool) {
		now += detect.Interval
		a.Say(now, Bulletin{Phase: Restarting, Weight: 10, Claims: 7})
		b.Say(now, Bulletin{Phase: Active, Weight: 10, Lease: true})
		for _, h := range []*Herald{a, b} {
			h.Attend(now, true)
		}
		if _, aSpoke = a.Beacon(now, &fromA); aSpoke {
			b.Hear(now, Wire, &fromA)
		}
		if _, ok := b.Beacon(now, &fromB); ok {
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
	a.Retire(now)
	if to := a.AppendUnicast(nil, now); len(to) != 1 {
		t.Errorf("its last words go by unicast to %v too", to)
	}
	spoke := 0
	for range 20 {
		if exchange() {
			spoke++
			if fromA.Phase != Restarting || fromA.Claims != 7 || len(fromA.Peers) > 0 || fromA.WireProof {
				t.Errorf("its last words: %+v", fromA)
			}
		}
		if s := b.Status(now); !s.Held || s.Lapses.Count > 0 {
			t.Fatalf("b waits for who has left: %+v", s)
		}
	}
	if spoke < 1 || spoke > 2 {
		t.Errorf("%d last words", spoke)
	}
}

// TestCutOffCountsFromTheAddress: before the VIP is up nothing that comes on the wire is
// heard, and that says nothing of the wire.
func TestCutOffCountsFromTheAddress(t *testing.T) {
	detect := NewDetect(20*time.Millisecond, 10)
	h := NewHerald(Incarnation{"a", 1}, detect, simTick)
	now := Time(time.Second)
	var mine Beacon
	hear := func(span Time) (cut bool) {
		for end := now + span; now < end; {
			now += detect.Interval
			h.Say(now, Bulletin{Phase: Joining, Weight: 10})
			h.Attend(now, true)
			h.Beacon(now, &mine)
			h.Hear(now, Unicast, &Beacon{Incarnation: Incarnation{"b", 2}, Seq: SeqAt(now), Phase: Active, WireProof: true,
				Peers: []PeerAck{{Key: KeyOf(h.self), Seq: mine.Seq, Flags: AckHeard | AckAlive}}})
			h.Events(now)
			cut = cut || h.heralded.CutOff
		}
		return cut
	}
	if hear(2 * time.Second) {
		t.Error("cut off before the address was up")
	}
	h.Attached(now)
	if hear(detect.D - detect.Interval) {
		t.Error("cut off in less than D after that")
	}
	if !hear(3 * detect.Interval) {
		t.Error("not cut off at all")
	}
}

// TestCutOffIsWarnedOfWhenItLasts: buckets move at once, and the warning comes when it has
// lasted for another detection time.
func TestCutOffIsWarnedOfWhenItLasts(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.Silence = 200 * ms })
	warned := func(effects []Effect) (n int) {
		for _, e := range effectsOf[Notice](effects) {
			if e.Act {
				n++
			}
		}
		return n
	}
	if n := warned(append(d.step(Heralded{Lease: true, CutOff: true}), d.wait(150*ms)...)); n != 0 {
		t.Errorf("%d warnings in less than a detection time", n)
	}
	if effects := append(d.step(Heralded{Lease: true}), d.wait(time.Second)...); len(effectsOf[Notice](effects)) != 0 {
		t.Error("told of what has passed")
	}
	if n := warned(append(d.step(Heralded{Lease: true, CutOff: true}), d.wait(time.Second)...)); n != 1 {
		t.Errorf("%d warnings", n)
	}
	if len(effectsOf[Notice](d.step(Heralded{Lease: true}))) != 1 {
		t.Error("not told that it is over")
	}
}
