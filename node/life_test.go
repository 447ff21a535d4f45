package node

import (
	"errors"
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// TestSlowAttachLeavesNothingToSpinOn: the address failed to come up once, and the
// second try takes long.
func TestSlowAttachLeavesNothingToSpinOn(t *testing.T) {
	d := newDesk(t)
	d.step(SeedsTried{})
	d.wait(6 * time.Second)
	d.step(Attached{Err: errors.New("a conflict")})
	if got := effectsOf[Attach](d.wait(10 * time.Second)); len(got) != 1 {
		t.Fatalf("%d further tries, want one that is still under way", len(got))
	}
	d.step(Attached{})
	if d.core.phase != Active {
		t.Errorf("the node is %s", d.core.phase)
	}
}

// TestLeaveEndsThoughTheKernelRefuses: invariant 5. The process's end takes the
// tables with it.
func TestLeaveEndsThoughTheKernelRefuses(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{})
	d.commits(nil)
	effects := d.step(Leave{})
	for end := d.now + time.Minute; len(effectsOf[Stop](effects)) == 0; {
		if d.now >= end {
			t.Fatal("still here after a minute")
		}
		if d.core.open != nil {
			effects = d.commits(errors.New("no memory"))
		} else {
			effects = d.wait(100 * ms)
		}
	}
}

// TestLeaveHandsOverToUnfitNodes: when nobody else is fit buckets stay where they
// are, but not with a node that leaves.
func TestLeaveHandsOverToUnfitNodes(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": everything(16)})
	d.step(HealthChanged{Service: 0, Reason: "broken"})
	d.says("b", func(s *Statement) { s.Unfit = []int{0} })
	d.wait(time.Second)
	if len(d.core.requests) > 0 {
		t.Fatal("nobody is fit and buckets were asked for")
	}
	effects := d.says("b", func(s *Statement) { s.Phase = Leaving })
	if got := sent(effects, "b", requestOf); len(got) != 1 || !got[0].Slots.Equal(d.all()) {
		t.Errorf("b leaves; asked it for %v, want everything", got)
	}
}

// TestLeaveHandsOverToDrainingNodes: the same when all others are draining.
func TestLeaveHandsOverToDrainingNodes(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.commits(nil)
	d.says("b", func(s *Statement) { s.Phase = Draining })
	d.agrees("b")
	d.wait(time.Second)
	d.commits(nil)
	if !d.core.want.Equal(d.all()) {
		t.Fatalf("holds %v", d.core.want)
	}
	d.step(Leave{})
	if d.core.want.Empty() {
		t.Error("gave everything up though b can ask for it")
	}
	d.tells("b", Message{Request: &Request{ID: 3, Slots: d.all()}})
	if got := sent(d.commits(nil), "b", grantOf); len(got) != 1 || !got[0].Slots.Equal(d.all()) {
		t.Errorf("granted %v, want everything", got)
	}
}

// TestForcedDrainGivesToUnfitNodes: with --force the last fit node drains, and
// the buckets go to whoever is active.
func TestForcedDrainGivesToUnfitNodes(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.commits(nil)
	d.says("b", func(s *Statement) { s.Unfit = []int{0} })
	d.wait(time.Second)
	d.commits(nil)
	answers := effectsOf[Answer](d.step(Wished{Token: 1, Wish: Wish{Node: "a", Want: WantDrain}}))
	if len(answers) != 1 || answers[0].Refused == "" {
		t.Fatalf("draining the last fit node: %+v, want a refusal", answers)
	}
	effects := d.step(Wished{Token: 2, Wish: Wish{Node: "a", Want: WantDrain, Force: true}})
	if a := effectsOf[Answer](effects); len(a) != 1 || a[0].Refused != "" {
		t.Fatalf("with --force: %+v", a)
	}
	d.tells("b", Message{Request: &Request{ID: 3, Slots: d.core.want.Clone()}})
	if got := sent(d.commits(nil), "b", grantOf); len(got) != 1 {
		t.Error("b asked, and got nothing")
	}
	// And the heir's side of it.
	d = activeDesk(t, map[string]hashring.Set{"b": everything(16)})
	d.step(HealthChanged{Service: 0, Reason: "broken"})
	effects = d.says("b", func(s *Statement) { s.Phase = Drained })
	if got := sent(effects, "b", requestOf); len(got) != 1 || !got[0].Slots.Equal(d.all()) {
		t.Errorf("b is drained by force; asked it for %v, want everything", got)
	}
}

// TestForcedDrainLastsOverARestart: a lone node that was drained by force stays
// silent, until it is resumed.
func TestForcedDrainLastsOverARestart(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{})
	d.commits(nil)
	effects := d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain, Force: true}})
	saves := effectsOf[Save](effects)
	if len(saves) != 1 || !saves[0].Drained || !saves[0].Forced {
		t.Fatalf("saved %+v", saves)
	}
	d = newDesk(t)
	d.step(Started{Drained: true, Forced: true, Obeyed: saves[0].Obeyed})
	d.step(SeedsTried{})
	d.wait(6 * time.Second)
	effects = d.step(Attached{})
	if d.core.phase != Drained || !d.core.want.Empty() {
		t.Errorf("after a restart: %s, with %d buckets", d.core.phase, d.core.want.Count())
	}
	saves = effectsOf[Save](d.step(Wished{Wish: Wish{Node: "a", Want: WantResume}}))
	if d.core.phase != Active || d.core.want.Count() != 16 || len(saves) != 1 || saves[0].Drained || saves[0].Forced {
		t.Errorf("resumed: %s, with %d buckets, saved %+v", d.core.phase, d.core.want.Count(), saves)
	}
	_ = effects
}

// TestGoodbyeAfterTheNewsOfIt: gossip says that a peer is dead, and then that it
// had left: it is no dead node to worry about.
func TestGoodbyeAfterTheNewsOfIt(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.step(PeerDead{Name: "b"})
	d.step(PeerDead{Name: "b", Left: true})
	if s := d.core.Snapshot(); len(s.Nodes) != 1 {
		t.Errorf("still listed: %+v", s.Nodes)
	}
}

// TestPeerChangesItsSpec: gossip tells of another spec under the same nonce.
func TestPeerChangesItsSpec(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.step(PeerAlive{Incarnation: d.incarnation("b"), SpecDigest: 2, SpecRevision: 2})
	d.says("b", func(*Statement) {})
	if d.core.phase != Joining {
		t.Errorf("b serves with a spec of a higher revision; this node is %s", d.core.phase)
	}
}
