package node

import (
	"strings"
	"testing"
	"time"
)

// unreadable is a member of another version at 10.0.0.9, and its beacons as they are heard.
func unreadable(d *desk, serves bool) PeerUnreadable {
	d.step(StrangersHeard{List: []Stranger{{Address: address(9), Differs: DiffersFormat, Format: 9, Serves: serves}}})
	return PeerUnreadable{Name: "x", Address: address(9), Why: "x speaks formats 8 to 9"}
}

// TestMemberOfAnotherVersionIsNotAbsent: a node does not start alone beside a member that it
// does not understand, whether it hears its beacons or not, until an operator says so.
func TestMemberOfAnotherVersionIsNotAbsent(t *testing.T) {
	for _, heard := range []bool{true, false} {
		d := newDesk(t)
		ev := unreadable(d, false)
		if !heard {
			d.step(StrangersHeard{})
		}
		d.step(ev)
		d.step(SeedsTried{})
		d.wait(time.Minute)
		if why := d.core.mayServe(); d.core.phase != Joining || !strings.Contains(why, "x is a member, and this program does not understand it: x speaks formats 8 to 9") {
			t.Errorf("heard %v: it is %v, and says %q", heard, d.core.phase, why)
		}
		d.step(ServeDespite{Address: address(9)})
		d.wait(10 * time.Second)
		d.step(Attached{})
		if d.core.phase != Active {
			t.Errorf("despite it the node is %v: %s", d.core.phase, d.core.mayServe())
		}
	}
}

// TestMemberOfAnotherVersionThatGoes: when it is gone, or understood, it stops nobody.
func TestMemberOfAnotherVersionThatGoes(t *testing.T) {
	for name, ev := range map[string]Event{"gone": PeerDead{Name: "x"}, "left": PeerDead{Name: "x", Left: true}} {
		d := newDesk(t)
		d.step(unreadable(d, true))
		d.step(SeedsTried{})
		d.wait(time.Minute)
		d.step(StrangersHeard{})
		d.step(ev)
		d.wait(10 * time.Second)
		d.step(Attached{})
		if d.core.phase != Active {
			t.Errorf("%s: the node is %v: %s", name, d.core.phase, d.core.mayServe())
		}
	}
}

// TestServingMemberOfAnotherVersion: beside one that serves nobody begins to serve, though others
// that it understands serve; one that does not serve stops nobody then.
func TestServingMemberOfAnotherVersion(t *testing.T) {
	for _, serves := range []bool{true, false} {
		d := newDesk(t)
		d.alive("b")
		d.says("b", func(s *Statement) { s.Phase = Active; s.Claims = setOf(16, 1, 2) })
		d.acks("b")
		d.step(unreadable(d, serves))
		d.step(SeedsTried{})
		d.wait(10 * time.Second)
		d.step(Attached{})
		if why := d.core.mayServe(); serves != (d.core.phase == Joining) || serves && !strings.Contains(why, "x serves, and this program does not understand it") {
			t.Errorf("x serves: %v; the node is %v and says %q", serves, d.core.phase, why)
		}
	}
}

// TestWhoServesGoesOnBesideAnotherVersion: only beginning is forbidden.
func TestWhoServesGoesOnBesideAnotherVersion(t *testing.T) {
	d := activeDesk(t, nil)
	d.step(unreadable(d, true))
	d.wait(time.Minute)
	if d.core.phase != Active {
		t.Errorf("the node is %v", d.core.phase)
	}
}

// TestTwoVersionsThatShareNoFormat: nobody starts alone beside a cluster that it cannot read, and
// a node that restarts is not stopped by a newcomer that cannot be read.
func TestTwoVersionsThatShareNoFormat(t *testing.T) {
	scenario(t, 4, func(t *testing.T, w *world) {
		newcomer, other := w.nodes[3], w.nodes[0]
		w.step(newcomer, Leave{})
		w.run(3 * time.Second)
		newcomer.format = 1
		w.start(newcomer)
		w.run(time.Minute)
		if newcomer.core.phase != Joining {
			t.Errorf("beside a cluster that it cannot read a node is %v", newcomer.core.phase)
		}
		w.step(other, Leave{KeepFlows: true})
		w.run(2 * time.Second)
		w.start(other)
		w.run(10 * time.Second)
		if other.core.phase != Active || other.owns() == 0 {
			t.Errorf("beside a newcomer that cannot be read a node that restarts is %v with %d buckets", other.core.phase, other.owns())
		}
		w.stop(newcomer, true)
		newcomer.format = 0
		w.run(3 * time.Second)
		w.start(newcomer)
	})
}
