package node

import (
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// beaconDesk is a node with a lease beside b and c, both alive by their own beacons. What
// c claims nobody has when c dies.
func beaconDesk(t *testing.T) *desk {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": everything(16)})
	d.core.cfg.Silence = 200 * ms
	d.step(Heralded{Lease: true})
	for _, name := range []string{"b", "c"} {
		d.step(PeerStanding{Incarnation: d.incarnation(name), Standing: Alive})
		d.step(PeerSpoke{Incarnation: d.incarnation(name), Bulletin: Bulletin{Phase: Active, Weight: 10, Claims: d.said[name].Version}})
	}
	d.wait(2 * time.Second)
	d.calm("b", "c")
	return d
}

// TestWhoIsAliveByHearsayIsNotTakenFrom in silence: what it has got since it last spoke is
// not known. If it gives its word, through a third, it stops nobody.
func TestWhoIsAliveByHearsayIsNotTakenFrom(t *testing.T) {
	for _, c := range []struct {
		hearsay, agrees, taken bool
	}{{true, false, false}, {true, true, true}, {false, false, true}} {
		d := beaconDesk(t)
		d.step(PeerStanding{Incarnation: d.incarnation("b"), Standing: Alive, Hearsay: c.hearsay})
		d.step(PeerStanding{Incarnation: d.incarnation("c"), Standing: Dead})
		if c.agrees {
			d.agrees("b")
		}
		d.wait(2 * d.core.cfg.Timing.Agreement)
		if taken := !d.core.want.Empty(); taken != c.taken {
			t.Errorf("%+v: orphans are taken: %t", c, taken)
		}
	}
}

// TestWhoJoinsIsNotWaitedFor, when its own beacons have said so for D, and what was under way
// with it is over.
func TestWhoJoinsIsNotWaitedFor(t *testing.T) {
	d := beaconDesk(t)
	b := d.incarnation("b")
	d.step(PeerSpoke{Incarnation: b, Bulletin: Bulletin{Phase: Joining, Weight: 10, Claims: d.said["b"].Version + 2}})
	d.step(PeerStanding{Incarnation: d.incarnation("c"), Standing: Dead})
	d.wait(100 * ms)
	if !d.core.want.Empty() {
		t.Fatal("b has said for less than D that it joins, and may have a lease")
	}
	d.wait(150 * ms)
	if d.core.want.Count() != 16 {
		t.Errorf("%d of 16 orphans are taken", d.core.want.Count())
	}
	if !d.core.lingeredByOthers().Equal(d.core.lingers) {
		t.Error("the flows of b are not left alone, and what it has is not known")
	}
	// It serves again: what it says counts, though it came by message.
	d.says("b", func(s *Statement) { s.Version += 3; s.Phase = Active })
	if p := d.core.peers["b"]; p.idle && d.core.joins(p) {
		t.Error("b serves, and is taken for one that joins")
	}
}

// TestJoinerIsHeededBeforeItServes: somebody who serves must have acknowledged that it joins, and
// each of them has its time to.
func TestJoinerIsHeededBeforeItServes(t *testing.T) {
	d := newDesk(t)
	for _, name := range []string{"b", "c"} {
		d.alive(name)
		d.says(name, func(*Statement) {})
	}
	d.step(SeedsTried{})
	d.wait(20 * time.Second)
	if d.core.unheeded() == "" {
		t.Error("it would serve though nobody has heard a word of it")
	}
	d.acks("b")
	if why := d.core.unheeded(); why != "" {
		t.Errorf("c has had its time, and it waits: %s", why)
	}
	d = newDesk(t)
	for _, name := range []string{"b", "c"} {
		d.alive(name)
		d.says(name, func(*Statement) {})
	}
	d.step(SeedsTried{})
	d.acks("b")
	if d.core.unheeded() == "" {
		t.Error("it does not wait for c")
	}
	d.acks("c")
	if why := d.core.unheeded(); why != "" {
		t.Errorf("all have answered, and it waits: %s", why)
	}
}
