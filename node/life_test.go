package node

import (
	"errors"
	"strings"
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
	d.step(Attached{})
	if d.core.phase != Drained || !d.core.want.Empty() {
		t.Errorf("after a restart: %s, with %d buckets", d.core.phase, d.core.want.Count())
	}
	saves = effectsOf[Save](d.step(Wished{Wish: Wish{Node: "a", Want: WantResume}}))
	if d.core.phase != Active || d.core.want.Count() != 16 || len(saves) != 1 || saves[0].Drained || saves[0].Forced {
		t.Errorf("resumed: %s, with %d buckets, saved %+v", d.core.phase, d.core.want.Count(), saves)
	}
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

// TestUnfitNodeIsRelievedByTheUnfit: of a node that is cut off, or that drains, others take
// over though nobody is fit; and by force a node drains though nobody can.
func TestUnfitNodeIsRelievedByTheUnfit(t *testing.T) {
	for name, change := range map[string]func(*Statement){
		"cut off":            func(s *Statement) { s.CutOff = true },
		"cut off and fit":    func(s *Statement) { s.CutOff, s.Unfit = true, nil },
		"drains":             func(s *Statement) { s.Phase = Draining },
		"as well off":        nil,
		"drains, and is fit": func(s *Statement) { s.Phase, s.Unfit = Draining, nil },
	} {
		d := activeDesk(t, map[string]hashring.Set{"b": everything(16)})
		d.step(HealthChanged{Service: 0, Reason: "broken"})
		effects := d.says("b", func(s *Statement) {
			if s.Unfit = []int{0}; change != nil {
				change(s)
			}
		})
		effects = append(effects, d.agrees("b")...)
		effects = append(effects, d.wait(10*time.Second)...)
		asks := len(sent(effects, "b", requestOf)) > 0
		if want := name != "as well off" && name != "drains, and is fit"; asks != want {
			t.Errorf("b %s: it is asked for its buckets: %t", name, asks)
		}
	}
	d := activeDesk(t, map[string]hashring.Set{})
	d.commits(nil)
	d.step(HealthChanged{Service: 0, Reason: "broken"})
	d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain, Force: true}})
	if d.core.phase != Drained {
		t.Errorf("drained by force, and alone: %s", d.core.phase)
	}
}

// TestGivingUpWhileTaking: what a commit that is open takes is claimed no more, so the
// lease waits until the kernel has let it go again.
func TestGivingUpWhileTaking(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{})
	if !d.core.openTakes {
		t.Fatal("takes nothing")
	}
	d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain, Force: true}})
	d.wait(d.core.cfg.Timing.LeaveBy)
	if d.core.said.Claims.Empty() && d.core.Bulletin().Lease {
		t.Error("claims nothing, takes 16 buckets, and wants the lease")
	}
	d.commits(nil)
	for d.core.open != nil {
		d.commits(nil)
	}
	if d.core.disowned {
		t.Error("has let go of all, and waits for it")
	}
}

// TestANewerSpecThatNeverServesIsNotWaitedFor: one whose address is in use,
// or whose interface is down, keeps the others from serving for a moment only.
func TestANewerSpecThatNeverServesIsNotWaitedFor(t *testing.T) {
	d := newDesk(t)
	d.step(PeerAlive{Incarnation: d.incarnation("b"), SpecDigest: 2, SpecRevision: 2})
	d.says("b", func(s *Statement) { s.Phase = Joining })
	d.step(SeedsTried{})
	d.step(Attached{})
	d.wait(d.core.cfg.Timing.Alone - 100*ms)
	if d.core.phase != Joining {
		t.Fatalf("the node is %s before b has had its time", d.core.phase)
	}
	d.wait(200 * ms)
	d.step(Attached{})
	if d.core.phase != Active {
		t.Errorf("the node is %s: %s", d.core.phase, d.core.mayServe())
	}
	d.says("b", func(s *Statement) { s.Phase = Active })
	if d.core.phase != Joining {
		t.Errorf("b serves after all; this node is %s", d.core.phase)
	}
}

// TestLeaveDoesNotWaitForHeirsThatNeverAsk longer than LeaveBy.
func TestLeaveDoesNotWaitForHeirsThatNeverAsk(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.commits(nil)
	d.step(Leave{})
	if got := effectsOf[Stop](d.wait(d.core.cfg.Timing.LeaveBy - 10*ms)); len(got) > 0 || d.core.want.Empty() {
		t.Error("did not wait for b at all")
	}
	d.wait(100 * ms)
	if got := effectsOf[Stop](append(d.commits(nil), d.wait(d.core.cfg.Timing.Agreement+10*ms)...)); len(got) != 1 {
		t.Error("still waits for b, which neither asks nor acknowledges")
	}
}

// TestRestartWithoutAWireIsQuick: whoever has lost its wire, or its address, can tell
// nobody that it restarts, and does not wait for anybody to have heard it.
func TestRestartWithoutAWireIsQuick(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.commits(nil)
	d.step(WireChanged{Reason: "address 192.0.2.11 is gone from this host"})
	d.step(Leave{KeepFlows: true})
	got := append(d.commits(nil), d.wait(d.core.cfg.Timing.Agreement+time.Second)...)
	if stops := effectsOf[Stop](got); len(stops) != 1 || !stops[0].KeepFlows {
		t.Errorf("it stops %d times within a second, want once", len(stops))
	}
}

// TestDrainingNodeIsTheLastResort: a node that drains and has nothing left is not
// drained while only others that drain could take over from each other.
func TestDrainingNodeIsTheLastResort(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": everything(16)})
	d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
	d.says("b", func(s *Statement) { s.Phase = Draining })
	d.wait(time.Second)
	if d.core.phase != Drained {
		t.Fatalf("the node is %s: b was active when it had nothing to give", d.core.phase)
	}
	d = newDesk(t)
	d.step(Started{Drained: true}) // and the same after a restart, when b drains already
	d.alive("b")
	d.says("b", func(s *Statement) { s.Phase, s.Claims = Draining, everything(16) })
	d.acks("b")
	d.step(SeedsTried{})
	d.step(Attached{})
	d.wait(time.Second)
	if d.core.phase != Draining {
		t.Fatalf("the node is %s", d.core.phase)
	}
	d.step(PeerDead{Name: "b"})
	d.commits(nil)
	if d.core.kernel.Count() != 16 {
		t.Errorf("b is dead, and %d buckets are served", d.core.kernel.Count())
	}
}

// TestVoluntaryChangesComeSlowly: so that views come to rest whatever operators,
// and checks, do.
func TestVoluntaryChangesComeSlowly(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	views := map[uint64]bool{}
	for i := range 20 {
		d.step(Wished{Wish: Wish{Node: "a", Want: WantWeight, Weight: 50 + 10*i}})
		d.step(HealthChanged{Service: 0, Fit: i%2 == 0, Reason: "flapping"})
		d.wait(time.Second)
		views[d.core.view.Digest()] = true
	}
	if n := len(views); n < 3 || n > 8 { // what got better each 5 s, and each time what got worse after it
		t.Errorf("%d views within 20 s", n)
	}
	d.wait(6 * time.Second)
	if d.core.weight != 24 || !d.core.unfit[0] {
		t.Errorf("in the end the weight is %d tenths and unfit %v, want what was said last", d.core.weight, d.core.unfit[0])
	}
}

// TestLeavingNodeTakesNoOrders but remembers them for its next start.
func TestLeavingNodeTakesNoOrders(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.commits(nil)
	d.step(Leave{})
	for _, want := range []WishKind{WantDrain, WantResume} {
		got := effectsOf[Answer](d.step(Wished{Wish: Wish{Node: "a", Want: want}}))
		if len(got) != 1 || !strings.Contains(got[0].Refused, "a is leaving") || d.core.phase != Leaving {
			t.Errorf("%s: %+v, and it is %s", want, got, d.core.phase)
		}
	}
}

// TestSilentPeerIsToldEverMoreRarely: alive by gossip, and it answers nothing.
func TestSilentPeerIsToldEverMoreRarely(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.commits(nil)
	d.wait(time.Minute)
	d.step(Wished{Wish: Wish{Node: "a", Want: WantWeight, Weight: 200}})
	if n := len(sent(d.wait(400*ms), "b", deltaOf)); n < 4 {
		t.Errorf("%d repetitions within the time of agreement", n)
	}
	if n := len(sent(d.wait(time.Minute), "b", deltaOf)); n < 30 || n > 90 {
		t.Errorf("%d repetitions within a minute", n)
	}
	d.agrees("b")
	if n := len(sent(d.wait(time.Minute), "b", deltaOf)); n > 0 {
		t.Errorf("%d repetitions of what b has acknowledged", n)
	}
}
