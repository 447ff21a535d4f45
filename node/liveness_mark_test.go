package node

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// mayMark reports whether a beacon that the node sends now would have the mark.
func (tb *liveTable) mayMark(name string) bool { return tb.voice(name).MarkUntil(tb.now) > tb.now }

// Without peers the mark needs nobody, but a sender whose core hangs gets no more
// than D of it.
func TestMarkWithoutPeers(t *testing.T) {
	a := seatTable(t, "a").voices[0]
	if until := a.MarkUntil(time.Hour); until != time.Hour+liveDetect.D {
		t.Fatalf("until %v", until)
	}
	if !a.MayArm(time.Hour) {
		t.Fatal("a single node may not serve")
	}
}

// The timing of one acknowledgement: sent, heard, told.
func TestMarkNeedsARecentAcknowledgement(t *testing.T) {
	tb := metTable(t, "a", "b")
	a, b := tb.voice("a"), tb.voice("b")
	sent := tb.now
	b.Hear(tb.now+mil, Wire, a.beacon(sent))
	a.Hear(tb.now+2*mil, Wire, b.beacon(tb.now+mil))
	if until := a.MarkUntil(tb.now + 2*mil); until != sent+liveDetect.A {
		t.Fatalf("mark until %v after the acknowledged beacon, want %v", until-sent, liveDetect.A)
	}
}

// A survivor's marks stop for a moment, but never for so long that its
// lease runs out.
func TestSilentPeerPausesNobody(t *testing.T) {
	for _, detect := range []Detect{liveDetect, NewDetect(5*mil, 8), NewDetect(20*mil, 40)} {
		row := liveRow{name: "power-off", nodes: 3, then: func(w *liveWorld) { w.nodes[0].kill() }}
		for seed := range uint64(5) {
			if w := row.run(t, seed, detect); w.pauses > 0 {
				t.Errorf("%v: seed %d: %d pauses of up to %v", detect, seed, w.pauses, w.longest)
			}
		}
	}
}

// Sent is not heard, and who hears us not at all stops us, as long as
// it speaks.
func TestDeafPeerStopsTheMark(t *testing.T) {
	tb := metTable(t, "a", "b")
	tb.hears = hearFrom("b")
	begin := tb.now
	for tb.mayMark("a") {
		tb.round()
	}
	if tb.now-begin > liveDetect.A {
		t.Fatalf("the mark goes on for %v", tb.now-begin)
	}
	for range 100 {
		tb.round()
		if tb.mayMark("a") || tb.voice("a").MayArm(tb.now) {
			t.Fatal("a node that its peer does not hear may serve")
		}
	}
	// b has taken over, and says so; a knows b for alive, by its voice.
	tb.expect(map[string][]string{"b": {"a dead"}})
	if !tb.yields["a"] || tb.yields["b"] {
		t.Fatalf("yields: %v", tb.yields)
	}
	if s := tb.voice("a").Status(tb.now)[0]; !s.Waits || !s.HoldsDead || s.Acked < time.Second {
		t.Fatalf("status %+v", s)
	}
}

// A newcomer that is deaf stops nobody.
func TestDeafNewcomerStopsNobody(t *testing.T) {
	tb := metTable(t, "a", "b")
	tb.join(Incarnation{"c", 3}).phase = Joining
	tb.hears = hearOnly("ab", "ba", "ca", "cb")
	for range 50 {
		tb.round()
		if !tb.mayMark("a") || !tb.mayMark("b") {
			t.Fatal("stopped")
		}
	}
	tb.expect(map[string][]string{})
}

// Each way in which one learns of the other through a third.
func TestAcknowledgementThroughAnother(t *testing.T) {
	for name, links := range map[string][]string{
		"b is deaf to a":    {"ac", "ca", "bc", "cb", "ba"},
		"a is deaf to b":    {"ac", "ca", "bc", "cb", "ab"},
		"a and b are apart": {"ac", "ca", "bc", "cb"},
	} {
		tb := metTable(t, "a", "b", "c")
		tb.hears = hearOnly(links...)
		lapsed := map[string]Time{}
		for range 200 {
			tb.round()
			for _, v := range tb.voices {
				if tb.mayMark(v.self.Name) {
					lapsed[v.self.Name] = tb.now
				} else if tb.now-lapsed[v.self.Name] > liveDetect.L {
					t.Errorf("%s: the lease of %s runs out", name, v.self.Name)
					return
				}
			}
		}
		tb.expect(map[string][]string{})
	}
}

// What is said of a beacon that the messenger had not sent yet proves nothing.
func TestAcknowledgementsAreMatchedByNumber(t *testing.T) {
	n := &neighbour{}
	for i := range Seq(12) {
		n.said[n.next%len(n.said)] = utterance{seq: 100 + 10*i, mine: 1000 + i}
		n.next++
	}
	for _, c := range []struct{ seq, want Seq }{
		{99, 0}, {139, 0}, {140, 1004}, {149, 1004}, {150, 1005}, {210, 1011}, {1 << 40, 1011},
	} {
		if got := n.told(c.seq); got != c.want {
			t.Errorf("by beacon %d it had told of %d, want %d", c.seq, got, c.want)
		}
	}
}

// A verdict reaches whom it is about through others too: c holds a dead, a does not
// hear c, and b, who hears both, says so.
func TestDoubtIsHandedOn(t *testing.T) {
	tb := metTable(t, "a", "b", "c")
	tb.hears = hearOnly("ab", "ba", "cb") // c hears nobody
	tb.rounds(20)
	tb.expect(map[string][]string{"c": {"a dead", "b dead"}})
	tb.hears = hearOnly("ab", "ba", "cb", "bc") // and now b, and a through b
	tb.rounds(20)
	if tb.mayMark("a") || tb.voice("a").MayArm(tb.now) {
		t.Fatal("a may serve though c holds it dead")
	}
	tb.rounds(60)
	tb.expect(map[string][]string{"c": {"a alive", "b alive"}})
	tb.rounds(4)
	if !tb.voice("a").MayArm(tb.now) {
		t.Fatal("a may not serve again")
	}
}

func TestHeldDeadYields(t *testing.T) {
	tb := metTable(t, "a", "b", "c")
	a := tb.voice("a")
	// a stalls, with a clock that runs; the others find it dead.
	tb.leave(a)
	tb.rounds(20)
	tb.expect(map[string][]string{"b": {"a dead"}, "c": {"a dead"}})
	h := a.Hear(tb.now, Wire, tb.voice("b").beacon(tb.now))
	if !h.Yield || a.MarkUntil(tb.now) != 0 || a.MayArm(tb.now) {
		t.Fatalf("%+v, mark until %v", h, a.MarkUntil(tb.now))
	}
	if by := a.Denied(tb.now); !cmp.Equal(by, []Incarnation{{"b", 2}}) {
		t.Fatalf("denied by %v", by)
	}
	// One that does not serve has no say.
	tb.voice("b").phase, tb.voice("c").phase = Joining, Joining
	tb.now += 20 * mil
	if h := a.Hear(tb.now, Wire, tb.voice("b").beacon(tb.now)); h.Yield || a.Denied(tb.now) != nil {
		t.Fatalf("yields to a joiner: %+v", h)
	}
}

// When a split heals, each half holds the other dead. One of them stays.
func TestHealedSplit(t *testing.T) {
	for _, c := range []struct {
		names, apart []string
		want         []string // who yields
	}{
		{[]string{"a", "b"}, []string{"b"}, []string{"b"}},
		{[]string{"a", "b", "c"}, []string{"a"}, []string{"a"}},
		{[]string{"a", "b", "c"}, []string{"c"}, []string{"c"}},
		{[]string{"a", "b", "c", "d"}, []string{"a", "d"}, []string{"b", "c", "d"}},
	} {
		tb := metTable(t, c.names...)
		tb.hears = func(from, to *liveVoice) []Medium {
			if slices.Contains(c.apart, from.self.Name) != slices.Contains(c.apart, to.self.Name) {
				return nil
			}
			return []Medium{Wire}
		}
		tb.rounds(30)
		for _, v := range tb.voices {
			if tb.yields[v.self.Name] || v.MarkUntil(tb.now) <= tb.now-20*mil {
				t.Fatalf("%v: %v does not serve its half", c.names, v.self)
			}
		}
		tb.hears = nil
		tb.rounds(2)
		var yields []string
		for _, v := range tb.voices {
			if tb.yields[v.self.Name] {
				yields = append(yields, v.self.Name)
				v.phase = Joining
				v.Forgive(tb.now)
			}
		}
		if !slices.Equal(yields, c.want) {
			t.Errorf("%v, %v apart: %v yield, want %v", c.names, c.apart, yields, c.want)
		}
		tb.rounds(3)
		for _, v := range tb.voices {
			if v.phase == Active && !v.MayArm(tb.now) {
				t.Errorf("%v, %v apart: %v may not serve: %+v", c.names, c.apart, v.self, v.Status(tb.now))
			}
		}
	}
}

// If a split heals in one direction only, who hears gives way: the other cannot.
func TestHalfHealedSplit(t *testing.T) {
	tb := metTable(t, "a", "b")
	tb.hears = hearOnly()
	tb.rounds(20)
	tb.hears = hearOnly("ba")
	for range 4 {
		tb.round()
	}
	if tb.mayMark("a") {
		t.Fatal("a goes on, though b neither hears it nor stops")
	}
	tb.rounds(10)
	if !tb.yields["a"] {
		t.Fatal("a does not yield")
	}
}

func TestUrgent(t *testing.T) {
	for _, c := range []struct {
		tried, until Time
		want         bool
	}{
		{39, 1000, false}, {40, 1000, true}, {40, 100, false}, {90, 0, false},
	} {
		now := 100 * mil
		if got := liveDetect.Urgent(now, now-c.tried*mil, c.until*mil); got != c.want {
			t.Errorf("tried %d ms ago, mark until %d ms: %v", c.tried, c.until, got)
		}
	}
}

// clocksApart is by how much one clock may be quicker than another.
const clocksApart = 0.05

// TestClocksApart: D by the quickest clock is no shorter than all that a lease may last,
// by the slowest, after the last beacon of its holder that was heard.
func TestClocksApart(t *testing.T) {
	for interval := 5 * mil; interval <= 10*time.Second; interval *= 2 {
		for misses := 8; misses <= 1000; misses += 31 {
			d := NewDetect(interval, misses)
			if lasts := float64(d.A + d.L + d.MaxLate()); lasts*(1+clocksApart) >= float64(d.D) {
				t.Fatalf("%v x %d: a lease may last %v of %v", interval, misses, Time(lasts), d.D)
			}
		}
	}
}

func TestTimingLeavesRoom(t *testing.T) {
	for interval := 5 * mil; interval <= 10*time.Second; interval *= 2 {
		for misses := 8; misses <= 1000; misses += 31 {
			d := NewDetect(interval, misses)
			if d.A+d.L >= d.D || d.quiet() < d.A || d.quiet() >= d.D || d.L < 2*interval {
				t.Fatalf("%v x %d: %+v, quiet %v", interval, misses, d, d.quiet())
			}
		}
	}
}

// TestSilentAfterItMissedThisNode: the last that b has said was that it had not heard a for
// longer than A. Its silence for quiet() does not mean that it is dead: it may be about to
// take over, and be heard again.
func TestSilentAfterItMissedThisNode(t *testing.T) {
	tb := metTable(t, "a", "b")
	a, b := tb.voice("a"), tb.voice("b")
	tb.hears = hearOnly("ba")
	tb.rounds(8) // b has not heard a for 160 ms
	tb.leave(b)
	last := a.find(b.self).seenAt + a.slept
	for tb.now < last+liveDetect.D-20*mil {
		if tb.round(); tb.mayMark("a") {
			t.Fatalf("a goes on %v after b was heard last, who held it nearly dead", tb.now-last)
		}
	}
	tb.rounds(3)
	tb.expect(map[string][]string{"a": {"b dead"}})
	if !tb.voice("a").MayArm(tb.now) {
		t.Error("b is dead, and a may not serve")
	}
}
