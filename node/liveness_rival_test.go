package node

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Two machines with one name alternate; the newer is refused, and
// nothing changes for the older.
func TestClonedMachines(t *testing.T) {
	tb := metTable(t, "a", "b")
	a, b := tb.voice("a"), tb.voice("b")
	clone := tb.join(Incarnation{"b", 77})
	clone.phase = Joining
	tb.rounds(100)
	if len(tb.changes["a"]) != 0 || !a.Alive(b.self) || a.Alive(clone.self) {
		t.Fatalf("changes of a: %v", tb.changes["a"])
	}
	if !tb.mayMark("a") || !tb.mayMark("b") || a.Denied(tb.now) != nil || b.Denied(tb.now) != nil {
		t.Fatal("the older ones are disturbed")
	}
	if by := clone.Denied(tb.now); !cmp.Equal(by, []Incarnation{{"a", 1}}) {
		t.Fatalf("the newer is refused by %v", by)
	}
	wantKind(t, a.Hear(tb.now+mil, Wire, clone.beacon(tb.now)), HeardClone)
	wantKind(t, b.Hear(tb.now+mil, Wire, clone.beacon(tb.now)), HeardClone)
	status := a.Status(tb.now)
	if len(status) != 2 || status[0].Clone || !status[1].Clone || status[1].Standing != Refused {
		t.Fatalf("status %+v", status)
	}
	// The older machine is switched off: now the name is free.
	tb.leave(b)
	tb.rounds(11)
	tb.expect(map[string][]string{"a": {"b dead", "b alive"}, "b": {"a alive"}})
	if !a.Alive(clone.self) || a.find(b.self) != nil {
		t.Fatalf("status %+v", a.Status(tb.now))
	}
	// It comes back, and is the newer now.
	tb.voices = append(tb.voices, b)
	tb.rounds(20)
	if !a.Alive(clone.self) || a.Alive(b.self) {
		t.Fatalf("status %+v", a.Status(tb.now))
	}
}

// A crash and a restart within the detection time: the new incarnation waits until
// the old one is dead, and is no clone.
func TestQuickRestart(t *testing.T) {
	tb := metTable(t, "a", "b", "c")
	a := tb.voice("a")
	old := tb.voice("b")
	tb.leave(old)
	tb.rounds(2)
	again := tb.join(Incarnation{"b", 77})
	again.phase = Joining
	for tb.now += 5 * mil; !a.Alive(again.self); tb.round() {
		if a.find(again.self) != nil && a.find(again.self).clone {
			t.Fatal("a restart is taken for a clone")
		}
		if tb.now > old.now+300*mil {
			t.Fatal("the old incarnation does not die")
		}
	}
	if diff := cmp.Diff([]string{"b dead", "b alive"}, tb.changes["a"]); diff != "" {
		t.Fatalf("changes (-want +got):\n%s", diff)
	}
	if !a.Alive(again.self) || len(a.Status(tb.now)) != 2 {
		t.Fatalf("status %+v", a.Status(tb.now))
	}
}

func TestRestartIsTold(t *testing.T) {
	tb := metTable(t, "a", "b")
	a := tb.voice("a")
	tb.leave(tb.voice("b"))
	tb.rounds(20)
	again := NewLiveness(Incarnation{"b", 77}, liveDetect)
	again.Hear(tb.now, Wire, a.beacon(tb.now))
	v := &liveVoice{again, Joining}
	wantKind(t, a.Hear(tb.now+mil, Wire, v.beacon(tb.now+mil)), HeardRestarted)
}

// A recording of an earlier life of a neighbour takes nothing from the present one.
func TestRecordingOfAnEarlierLife(t *testing.T) {
	tb := metTable(t, "a", "b")
	a := tb.voice("a")
	old := &Beacon{Incarnation: Incarnation{"b", 55}, Seq: 1, Phase: Active, Weight: 10}
	for range 50 {
		old.Seq++
		wantKind(t, a.Hear(tb.now, Wire, old), HeardChallenge)
		tb.round()
	}
	tb.expect(map[string][]string{})
	if !tb.mayMark("a") || !a.Alive(Incarnation{"b", 2}) {
		t.Fatal("a recording has an effect")
	}
}

// This node's own name in another mouth: its own last life is silent, another
// machine is not.
func TestOwnNameElsewhere(t *testing.T) {
	tb := seatTable(t, "a")
	a := tb.voices[0]
	record := &Beacon{Incarnation: Incarnation{"a", 55}, Seq: 9, Phase: Active, Weight: 10}
	wantKind(t, a.Hear(tb.now, Wire, record), HeardChallenge)
	twin := tb.join(Incarnation{"a", 56})
	tb.rounds(3)
	wantKind(t, a.Hear(tb.now+mil, Wire, twin.beacon(tb.now)), HeardClone)
	if a.Alive(twin.self) || len(tb.changes) != 0 {
		t.Fatalf("changes %v", tb.changes)
	}
}

// Gossip tells of a node that only others hear.
func TestKnownThroughAnother(t *testing.T) {
	tb := metTable(t, "a", "b")
	a, b := tb.voice("a"), tb.voice("b")
	c := tb.join(Incarnation{"c", 3})
	tb.hears = hearOnly("ab", "ba", "cb", "bc")
	tb.rounds(10)
	if a.Alive(c.self) {
		t.Fatal("a name that nobody told")
	}
	a.Know(tb.now, c.self)
	c.Know(tb.now, a.self)
	tb.rounds(10)
	tb.expect(map[string][]string{"a": {"c alive"}, "b": {"c alive"}, "c": {"b alive", "a alive"}})
	if !tb.mayMark("a") || !tb.mayMark("c") {
		t.Fatalf("a: %+v\nc: %+v", a.Status(tb.now), c.Status(tb.now))
	}
	// b goes: the two lose each other.
	tb.leave(b)
	tb.rounds(20)
	tb.expect(map[string][]string{"a": {"b dead", "c dead"}, "c": {"a dead", "b dead"}})
}

// What gossip knows stays, though it is silent; what only passed by goes.
func TestKnownStays(t *testing.T) {
	a := seatTable(t, "a").voices[0]
	now := Time(time.Hour)
	a.Know(now, Incarnation{"b", 2})
	a.Hear(now, Wire, &Beacon{Incarnation: Incarnation{"c", 3}, Seq: 5})
	for range 20 {
		now += 20 * mil
		if changes := a.Changes(now); len(changes) != 0 {
			t.Fatalf("changes %v", changes)
		}
	}
	status := a.Status(now)
	if len(status) != 1 || status[0].Name != "b" || status[0].Standing != Unheard || status[0].Seen != Never {
		t.Fatalf("status %+v", status)
	}
}
