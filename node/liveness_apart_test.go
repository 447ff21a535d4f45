package node

import "testing"

// serving lets them say that they serve, and know it.
func (tb *liveTable) serving(names ...string) {
	for _, name := range names {
		v := tb.voice(name)
		v.phase, v.Liveness.serving = Active, true
	}
}

// TestWhoServesAndIsMetYields is invariant 1 where two serve that never knew of each other, as
// when one was started anew while they were split: each holds the other dead at once, and
// the one that has fewer with it yields.
func TestWhoServesAndIsMetYields(t *testing.T) {
	for _, c := range []struct {
		half, other []string
		yields      string
	}{
		{[]string{"a"}, []string{"b"}, "b"}, // by name
		{[]string{"b", "c"}, []string{"a"}, "a"},
	} {
		tb := metTable(t, c.half...)
		for _, name := range c.other {
			tb.join(Incarnation{name, 100})
		}
		tb.serving(append(c.half, c.other...)...)
		tb.rounds(4)
		for _, a := range c.half {
			for _, b := range c.other {
				if v, o := tb.voice(a), tb.voice(b); v.find(o.self).standing != Dead || o.find(v.self).standing != Dead {
					t.Errorf("%s holds %s %v, and %s it %v; want dead", a, b, v.find(o.self).standing, b, o.find(v.self).standing)
				}
			}
		}
		if len(tb.yields) != 1 || !tb.yields[c.yields] {
			t.Errorf("%v and %v: %v yield, want %s", c.half, c.other, tb.yields, c.yields)
		}
	}
}

// Who does not serve drives nobody out, and is alive when it is met.
func TestWhoDoesNotServeMeetsTheLiving(t *testing.T) {
	tb := metTable(t, "a", "b")
	tb.serving("a", "b")
	c := tb.join(Incarnation{"c", 100})
	c.phase = Joining
	tb.rounds(4)
	for _, name := range []string{"a", "b"} {
		if v := tb.voice(name); !v.Alive(c.self) || !c.Alive(v.self) {
			t.Errorf("%s and c do not hold each other alive", name)
		}
	}
	tb.serving("c")
	tb.rounds(4)
	if len(tb.yields) > 0 {
		t.Errorf("%v yield", tb.yields)
	}
}

// Who holds this node alive has met it before it served, though this node has forgotten it.
func TestWhoHoldsThisNodeAliveIsAlive(t *testing.T) {
	tb := metTable(t, "a", "b")
	tb.serving("a", "b")
	a, b := tb.voice("a"), tb.voice("b")
	a.drop(b.self)
	tb.rounds(4)
	if !a.Alive(b.self) || len(tb.yields) > 0 {
		t.Errorf("b is alive to a: %v; %v yield", a.Alive(b.self), tb.yields)
	}
}
