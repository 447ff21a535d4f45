package node

import (
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// TestOldNewsKeepsNobodyAlive: the news that a life of a peer is heard may wait in a queue
// while that life ends. Nothing ends it once more, so it must not be waited for.
func TestOldNewsKeepsNobodyAlive(t *testing.T) {
	for how, end := range map[string]Event{
		"it has restarted": PeerAlive{Incarnation: Incarnation{"b", 99}, SpecDigest: 1, SpecRevision: 1},
		"it has left":      PeerDead{Name: "b", Left: true},
	} {
		d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
		h := NewHerald(d.core.cfg.Incarnation, simDetect, simTick)
		b := d.incarnation("b")
		h.Know(d.now, b)
		for _, e := range effectsOf[Forget](d.step(end)) {
			h.Forget(e.Incarnation, e.Gone)
		}
		for _, e := range effectsOf[Verify](d.step(PeerStanding{Incarnation: b, Standing: Alive})) {
			h.Verify(e.Incarnation)
		}
		for _, ev := range h.Events(d.now) {
			d.step(ev)
		}
		if list := d.core.unlisted(); len(list) > 0 {
			t.Errorf("%s, and is held alive: %v", how, list)
		}
	}
	// Who is heard, and is no member yet, is verified too, and stays.
	h := NewHerald(Incarnation{"a", 1}, simDetect, simTick)
	h.Know(time.Second, Incarnation{"b", 2})
	h.Verify(Incarnation{"b", 2})
	for _, ev := range h.Events(time.Second) {
		if s, ok := ev.(PeerStanding); ok {
			t.Errorf("one that is known: %+v", s)
		}
	}
}

// What a node of another spec has is not known, and not none.
func TestWhatForeignNodesHaveIsUnknown(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.step(PeerAlive{Incarnation: Incarnation{"c", 7}, SpecDigest: 2, SpecRevision: 1})
	for _, n := range d.core.Snapshot().Nodes {
		if n.Unknown != (n.Name == "c") {
			t.Errorf("%s is unknown: %t", n.Name, n.Unknown)
		}
	}
}
