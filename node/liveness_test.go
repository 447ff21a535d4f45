package node

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// liveVoice is a node in a test: what it says of itself is up to the test.
type liveVoice struct {
	*Liveness
	phase Phase
}

// liveTable is a company of nodes who share a clock and speak every 20 ms.
type liveTable struct {
	t      *testing.T
	now    Time
	voices []*liveVoice
	// hears says who hears whom, by which mediums; nil: all, on the wire.
	hears   func(from, to *liveVoice) []Medium
	changes map[string][]string
	yields  map[string]bool
}

var liveDetect = NewDetect(20*mil, 10)

// seatTable makes a table of nodes by name.
func seatTable(t *testing.T, names ...string) *liveTable {
	tb := &liveTable{t: t, now: time.Hour, changes: map[string][]string{}, yields: map[string]bool{}}
	for i, name := range names {
		tb.join(Incarnation{name, uint64(i + 1)})
	}
	return tb
}

func (tb *liveTable) join(inc Incarnation) *liveVoice {
	v := &liveVoice{NewLiveness(inc, liveDetect), Active}
	tb.voices = append(tb.voices, v)
	return v
}

func (tb *liveTable) voice(name string) *liveVoice {
	i := slices.IndexFunc(tb.voices, func(v *liveVoice) bool { return v.self.Name == name })
	return tb.voices[i]
}

// leave takes a node's voice away.
func (tb *liveTable) leave(v *liveVoice) {
	tb.voices = slices.DeleteFunc(tb.voices, func(o *liveVoice) bool { return o == v })
}

func (v *liveVoice) beacon(now Time) *Beacon {
	proof, _ := v.WireProof(now)
	return &Beacon{Incarnation: v.self, Seq: SeqAt(now), Phase: v.phase, Weight: 10, WireProof: proof, Peers: v.AppendAcks(nil, now)}
}

// round lets each speak once, a millisecond apart, and 20 ms pass.
func (tb *liveTable) round() {
	begin := tb.now
	for _, from := range slices.Clone(tb.voices) {
		tb.now += mil
		b := from.beacon(tb.now)
		for _, to := range tb.voices {
			if to == from {
				continue
			}
			mediums := []Medium{Wire}
			if tb.hears != nil {
				mediums = tb.hears(from, to)
			}
			for _, m := range mediums {
				if to.Hear(tb.now, m, b).Yield {
					tb.yields[to.self.Name] = true
				}
			}
		}
	}
	tb.now = begin + 20*mil
	tb.tick()
}

func (tb *liveTable) tick() {
	for _, v := range tb.voices {
		for _, c := range v.Changes(tb.now) {
			tb.changes[v.self.Name] = append(tb.changes[v.self.Name], c.Name+" "+c.To.String())
		}
	}
}

func (tb *liveTable) rounds(n int) {
	for range n {
		tb.round()
	}
}

// expect compares the changes since the last call with those wanted.
func (tb *liveTable) expect(want map[string][]string) {
	tb.t.Helper()
	if diff := cmp.Diff(want, tb.changes); diff != "" {
		tb.t.Fatalf("changes (-want +got):\n%s", diff)
	}
	clear(tb.changes)
}

// metTable is a table whose nodes have all met.
func metTable(t *testing.T, names ...string) *liveTable {
	tb := seatTable(t, names...)
	tb.rounds(4)
	for _, v := range tb.voices {
		for _, o := range tb.voices {
			if o != v && !v.Alive(o.self) {
				t.Fatalf("%v does not hold %v alive", v.self, o.self)
			}
		}
	}
	clear(tb.changes)
	return tb
}

// hearFrom lets only those be heard.
func hearFrom(who ...string) func(from, to *liveVoice) []Medium {
	return func(from, to *liveVoice) []Medium {
		if slices.Contains(who, from.self.Name) {
			return []Medium{Wire}
		}
		return nil
	}
}

// hearOnly lets the pairs "ab" (b hears a) hear.
func hearOnly(pairs ...string) func(from, to *liveVoice) []Medium {
	return func(from, to *liveVoice) []Medium {
		if slices.Contains(pairs, from.self.Name+to.self.Name) {
			return []Medium{Wire}
		}
		return nil
	}
}

func wantKind(t *testing.T, h Hearing, want HearingKind) {
	t.Helper()
	if h.Kind != want {
		t.Fatalf("heard %v, want %v", h.Kind, want)
	}
}

func TestFirstMeetingIsAChallenge(t *testing.T) {
	tb := seatTable(t, "a", "b")
	a, b := tb.voices[0], tb.voices[1]
	wantKind(t, b.Hear(tb.now, Wire, a.beacon(tb.now)), HeardChallenge)
	if b.Alive(a.self) || len(b.Changes(tb.now)) != 0 {
		t.Fatal("a recording would be alive")
	}
	if ack := b.beacon(tb.now).Peers[0]; ack.Flags&AckHeard != 0 {
		t.Fatalf("a challenge is answered as a sign of life: %+v", ack)
	}
	tb.now += mil
	h := a.Hear(tb.now, Wire, b.beacon(tb.now))
	wantKind(t, h, HeardFresh)
	if !h.Believed || !a.Alive(b.self) {
		t.Fatal("an answer to the challenge proves nothing")
	}
	tb.now += mil
	wantKind(t, b.Hear(tb.now, Wire, a.beacon(tb.now)), HeardFresh)
}

// A recording is played again after the receiver has restarted: no beacon of it is fresh.
func TestReplayAfterTheReceiverRestarted(t *testing.T) {
	tb := seatTable(t, "a", "b")
	var records []*Beacon
	for range 100 {
		tb.round()
		records = append(records, tb.voice("a").beacon(tb.now-mil))
	}
	b := &liveVoice{NewLiveness(Incarnation{"b", 99}, liveDetect), Active}
	for _, r := range records {
		tb.now += 20 * mil
		wantKind(t, b.Hear(tb.now, Wire, r), HeardChallenge)
		if len(b.Changes(tb.now)) != 0 || b.Alive(r.Incarnation) || b.MarkUntil(tb.now) <= tb.now {
			t.Fatal("a recording is believed")
		}
	}
}

func TestRepeatedAndOvertakenBeacons(t *testing.T) {
	tb := metTable(t, "a", "b")
	a, b := tb.voices[0], tb.voices[1]
	first := a.beacon(tb.now)
	second := a.beacon(tb.now + 5*mil)
	tb.now += 6 * mil
	wantKind(t, b.Hear(tb.now, Wire, second), HeardFresh)
	wantKind(t, b.Hear(tb.now, Wire, second), HeardOld)
	wantKind(t, b.Hear(tb.now, Wire, first), HeardOld)
	if heard := b.Status(tb.now)[0].Heard; heard != [...]Time{0, Never} {
		t.Fatalf("heard %v ago", heard)
	}
	h := b.Hear(tb.now, Unicast, first)
	wantKind(t, h, HeardAgain)
	if h.Believed {
		t.Fatal("an overtaken beacon is believed")
	}
	wantKind(t, b.Hear(tb.now, Unicast, second), HeardAgain)
	if heard := b.Status(tb.now)[0].Heard; heard != [...]Time{0, 0} {
		t.Fatalf("heard %v ago", heard)
	}
	late := a.beacon(tb.now - liveDetect.D)
	wantKind(t, b.Hear(tb.now, Unicast, late), HeardOld)
}

// A beacon of this node itself that comes back is counted, and is nobody's sign of life.
func TestReflectedBeacon(t *testing.T) {
	a := seatTable(t, "a").voices[0]
	wantKind(t, a.Hear(time.Hour, Wire, a.beacon(time.Hour)), HeardOwn)
}

func TestDeathIsTimedFromTheLastBeacon(t *testing.T) {
	tb := metTable(t, "a", "b", "c")
	a := tb.voice("a")
	tb.leave(tb.voice("b"))
	last := a.find(Incarnation{"b", 2}).seenAt + a.slept
	for tb.now < last+liveDetect.D-20*mil {
		tb.round()
	}
	tb.expect(map[string][]string{})
	if at := a.Deadline(tb.now); at != last+liveDetect.D {
		t.Fatalf("deadline %v, want %v", at, last+liveDetect.D)
	}
	tb.now = last + liveDetect.D - 1
	tb.tick()
	tb.expect(map[string][]string{})
	tb.now++
	tb.tick()
	tb.expect(map[string][]string{"a": {"b dead"}, "c": {"b dead"}})
}

// Node i hears k and m, k hears j; m hears only i.
func TestNonTransitiveHearing(t *testing.T) {
	tb := seatTable(t, "i", "j", "k", "m")
	for _, v := range tb.voices {
		for _, o := range tb.voices {
			if o != v {
				v.Know(tb.now, o.self) // as gossip tells
			}
		}
	}
	links := hearOnly("ik", "ki", "kj", "jk", "im", "mi")
	tb.hears = links
	tb.rounds(6)
	m := tb.voice("m")
	if !m.Alive(tb.voice("i").self) || !m.Alive(tb.voice("k").self) || m.Alive(tb.voice("j").self) {
		t.Fatalf("m holds %+v", m.Status(tb.now))
	}
	clear(tb.changes)
	tb.rounds(100)
	tb.expect(map[string][]string{})
	for _, v := range tb.voices {
		if v.MarkUntil(tb.now) <= tb.now-20*mil+mil {
			t.Errorf("%v may not serve: %+v", v.self, v.Status(tb.now))
		}
	}
	// i no longer hears k, and nobody whom m hears does.
	tb.hears = hearOnly("kj", "jk", "im", "mi")
	tb.rounds(20)
	tb.expect(map[string][]string{
		"i": {"j dead", "k dead"}, "m": {"k dead"}, "j": {"i dead"}, "k": {"i dead", "m dead"},
	})
}

// What others have heard of a dead node keeps it alive for one step and no longer.
func TestHearsayEnds(t *testing.T) {
	tb := metTable(t, "a", "b", "c", "d")
	dead := tb.voice("d")
	died := tb.now
	// Only a has heard the last beacon.
	last := dead.beacon(tb.now)
	tb.leave(dead)
	tb.voice("a").Hear(tb.now, Wire, last)
	tb.rounds(12)
	tb.expect(map[string][]string{"a": {"d dead"}, "b": {"d dead"}, "c": {"d dead"}})
	tb.rounds(100)
	tb.expect(map[string][]string{})
	for _, v := range tb.voices {
		if seen := v.find(dead.self).seenAt + v.slept; seen > died+20*mil {
			t.Errorf("%v has seen a sign of life %v after the death", v.self, seen-died)
		}
	}
}

func TestReturnTakesASteadySecond(t *testing.T) {
	tb := metTable(t, "a", "b")
	tb.hears = hearFrom("a")
	tb.rounds(20)
	tb.expect(map[string][]string{"a": {"b dead"}})
	tb.hears = nil
	tb.rounds(40)
	tb.hears = hearFrom("a") // a gap begins it anew
	tb.rounds(5)
	tb.hears = nil
	tb.rounds(49)
	tb.expect(map[string][]string{})
	if by := tb.voice("a").Returning(tb.now); !cmp.Equal(by, []Incarnation{{"b", 2}}) {
		t.Fatalf("returning: %v", by)
	}
	tb.rounds(3)
	tb.expect(map[string][]string{"a": {"b alive"}})
	if by := tb.voice("a").Returning(tb.now); by != nil {
		t.Fatalf("returning: %v", by)
	}
}

// A node that did not run has not seen the silence of others.
func TestStallIsNoSilence(t *testing.T) {
	tb := metTable(t, "a", "b")
	a := tb.voice("a")
	tb.now += 5 * time.Second
	if changes := a.Changes(tb.now); len(changes) != 0 {
		t.Fatalf("after a stall: %v", changes)
	}
	if a.MarkUntil(tb.now) > tb.now {
		t.Fatal("after a stall the peers' silence passes for their absence")
	}
	tb.leave(tb.voice("b"))
	tb.rounds(11)
	tb.expect(map[string][]string{"a": {"b dead"}})
}

func TestForgive(t *testing.T) {
	tb := metTable(t, "a", "b", "c")
	a := tb.voice("a")
	tb.hears = hearOnly("bc", "cb")
	tb.rounds(20)
	tb.expect(map[string][]string{"a": {"b dead", "c dead"}, "b": {"a dead"}, "c": {"a dead"}})
	tb.hears = hearOnly("ab", "ba")
	tb.rounds(3)
	a.Forgive(tb.now)
	tb.tick()
	tb.expect(map[string][]string{"a": {"b alive", "c alive"}}) // c through b
}

// TestForgottenWhileItSpeaks: nobody but its own beacons ends who is alive.
func TestForgottenWhileItSpeaks(t *testing.T) {
	tb := metTable(t, "a", "b")
	a, b := tb.voice("a"), tb.voice("b")
	a.Forget(b.self, false)
	tb.rounds(3)
	if !a.Alive(b.self) {
		t.Fatal("b speaks, and was forgotten")
	}
	tb.leave(b)
	tb.rounds(11)
	tb.expect(map[string][]string{"a": {"b dead"}})
}

// TestGoneIsNotMetAnew: beacons that come after a goodbye are none of a new neighbour,
// and the lease waits for nobody who is gone, even if no beacon had the time to say so.
func TestGoneIsNotMetAnew(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		tb := metTable(t, "a", "b", "c")
		a, b := tb.voice("a"), tb.voice("b")
		if !elsewhere {
			b.phase = Leaving
		}
		tb.rounds(1)
		a.Forget(b.self, elsewhere)
		tb.rounds(5)
		tb.expect(map[string][]string{})
		if a.Alive(b.self) {
			t.Fatal("b has left, and is alive")
		}
		tb.leave(b)
		for range 9 {
			tb.rounds(1)
			if a.MarkUntil(tb.now) <= tb.now {
				t.Fatal("the lease waits for b, which has left")
			}
		}
		tb.rounds(11)
		tb.expect(map[string][]string{"a": {"b unheard"}, "c": {"b dead"}}) // c was never told that it left
		if n := len(a.Status(tb.now)); n != 1 {
			t.Errorf("a knows %d neighbours: b leaves a trace", n)
		}
	}
}

// TestDeadAndForgottenIsToldSo: gossip may forget somebody who was only asleep.
func TestDeadAndForgottenIsToldSo(t *testing.T) {
	tb := metTable(t, "a", "b")
	a, b := tb.voice("a"), tb.voice("b")
	tb.hears = hearOnly()
	tb.rounds(12)
	tb.expect(map[string][]string{"a": {"b dead"}, "b": {"a dead"}})
	a.Forget(b.self, false)
	for range 50 {
		tb.rounds(10)
	}
	if got := a.beacon(tb.now).about(b.key); got.Flags&AckDead == 0 {
		t.Errorf("10 s after it was forgotten a says of b %v", got.Flags)
	}
	for range 300 {
		tb.rounds(10)
	}
	if n := len(a.Status(tb.now)); n != 0 {
		t.Error("b, which is no member any more, is remembered for ever")
	}
}

// TestMembersHavePlaces: whoever replays the beacons of dead incarnations takes all
// places at the table, but for those of members.
func TestMembersHavePlaces(t *testing.T) {
	tb := seatTable(t, "a")
	a := tb.voices[0]
	for i := range MaxBeaconPeers + 10 {
		a.Hear(tb.now, Wire, &Beacon{Incarnation: Incarnation{fmt.Sprint("old", i), 1}, Seq: 7})
	}
	wantKind(t, a.Hear(tb.now, Wire, &Beacon{Incarnation: Incarnation{"b", 1}, Seq: 7}), HeardCrowded)
	a.Know(tb.now, Incarnation{"b", 1})
	wantKind(t, a.Hear(tb.now, Wire, &Beacon{Incarnation: Incarnation{"b", 1}, Seq: 7}), HeardChallenge)
	for i := range MaxBeaconPeers + 10 {
		a.Hear(tb.now, Wire, &Beacon{Incarnation: Incarnation{fmt.Sprint("older", i), 1}, Seq: 7})
	}
	wantKind(t, a.Hear(tb.now, Wire, &Beacon{Incarnation: Incarnation{"b", 1}, Seq: 8}), HeardChallenge)
	for i := range MaxBeaconPeers + 10 { // and not among each other
		a.Know(tb.now, Incarnation{fmt.Sprint("member", i), 1})
	}
	wantKind(t, a.Hear(tb.now, Wire, &Beacon{Incarnation: Incarnation{"b", 1}, Seq: 9}), HeardChallenge)
}

func TestTooManyToKnow(t *testing.T) {
	tb := seatTable(t, "a")
	a := tb.voices[0]
	a.Know(tb.now, Incarnation{"first", 1})
	for i := range MaxBeaconPeers - 1 {
		a.Know(tb.now, Incarnation{"x", uint64(i)})
	}
	strange := &Beacon{Incarnation: Incarnation{"y", 1}, Seq: 7}
	wantKind(t, a.Hear(tb.now, Wire, strange), HeardChallenge) // a silent one makes room
	if n := len(a.Status(tb.now)); n != MaxBeaconPeers {
		t.Fatalf("%d neighbours", n)
	}
	for i := range 100 {
		a.Hear(tb.now, Wire, &Beacon{Incarnation: Incarnation{"z", uint64(i)}, Seq: 7})
	}
	wantKind(t, a.Hear(tb.now, Wire, &Beacon{Incarnation: Incarnation{"q", 1}, Seq: 7}), HeardCrowded)
	if b := a.beacon(tb.now); !b.valid() {
		t.Fatal("a beacon that cannot be sent")
	}
	for range 20 { // they pass
		tb.now += 20 * mil
		a.Changes(tb.now)
	}
	wantKind(t, a.Hear(tb.now, Wire, &Beacon{Incarnation: Incarnation{"q", 1}, Seq: 7}), HeardChallenge)
}

// A flood, of which something always waits to be read, hides no death: what came before
// is known to have been heard.
func TestAFloodHidesNoDeath(t *testing.T) {
	detect := NewDetect(20*time.Millisecond, 10)
	for _, lag := range []time.Duration{0, time.Millisecond, 15 * time.Millisecond} {
		peer := Incarnation{Name: "n3", Nonce: 3}
		herald := NewHerald(Incarnation{Name: "n1", Nonce: 1}, detect, 4*time.Millisecond)
		herald.Know(1, peer)
		var mine Beacon
		now := Time(time.Second)
		step := func(heard bool) (dead bool) {
			herald.Say(now, Bulletin{Phase: Active, Weight: 10})
			herald.AttendUntil(now, now-lag)
			herald.Beacon(now, &mine)
			if heard {
				herald.Hear(now, Wire, &Beacon{Incarnation: peer, Seq: SeqAt(now), Phase: Active, Weight: 10,
					Peers: []PeerAck{{Key: KeyOf(Incarnation{Name: "n1", Nonce: 1}), Seq: mine.Seq, Flags: AckHeard | AckAlive}}})
			}
			for _, e := range herald.Events(now) {
				if s, ok := e.(PeerStanding); ok && s.Standing == Dead {
					dead = true
				}
			}
			return dead
		}
		for ; now < Time(4*time.Second); now += detect.Interval {
			if step(true) {
				t.Fatalf("lag %v: held dead while it lives", lag)
			}
		}
		died := now - detect.Interval
		for !step(false) {
			if now += detect.Interval; now > died+Time(time.Minute) {
				t.Fatalf("lag %v: not held dead within a minute", lag)
			}
		}
		if took := now - died; took < detect.D || took > detect.D+lag+2*detect.Interval {
			t.Errorf("lag %v: held dead after %v, D is %v", lag, took, detect.D)
		}
	}
}
