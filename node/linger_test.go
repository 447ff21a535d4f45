package node

import (
	"errors"
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

func lingering(c *Config) {
	c.Services[0].Linger = true
	c.DrainTimeout = time.Minute
}

// holderDesk returns node "a" that holds all buckets and has been joined by "b".
func holderDesk(t *testing.T, configure ...func(*Config)) *desk {
	t.Helper()
	d := activeDesk(t, map[string]hashring.Set{}, append([]func(*Config){lingering}, configure...)...)
	d.commits(nil)
	d.alive("b")
	d.says("b", func(*Statement) {})
	d.agrees("b")
	return d
}

// gives lets "b" ask for what is its own, and returns what it is granted.
func (d *desk) gives() hashring.Set {
	d.t.Helper()
	d.tells("b", Message{Request: &Request{ID: 7, Slots: d.owned("b")}})
	grants := sent(d.commits(nil), "b", grantOf)
	if len(grants) != 1 || !grants[0].Slots.Equal(d.owned("b")) {
		d.t.Fatalf("granted %v, want %s", grants, d.owned("b"))
	}
	return grants[0].Slots
}

// looks waits for the next look for flows and answers it.
func (d *desk) looks(live hashring.Set) []Effect {
	d.t.Helper()
	for end := d.now + 10*time.Second; !d.core.flowLook.open; {
		if d.now >= end {
			d.t.Fatal("nobody looks for flows")
		}
		d.wait(50 * ms)
	}
	return d.step(FlowsFound{Live: live})
}

// states counts the changes of a commit by state.
func states(effects []Effect) map[State]int {
	count := map[State]int{}
	for _, c := range effectsOf[Commit](effects) {
		for _, ch := range c.Changes {
			count[ch.State]++
		}
	}
	return count
}

// TestGrantedBucketsLingerUntilTheirFlowsEnd, and the peers are told so.
func TestGrantedBucketsLingerUntilTheirFlowsEnd(t *testing.T) {
	d := holderDesk(t)
	given := d.gives()
	if !d.core.said.Linger.Equal(given) || d.core.said.Claims.Intersects(given) {
		t.Fatalf("said: linger %s, claims %s; want %s to linger", d.core.said.Linger, d.core.said.Claims, given)
	}
	one := setOf(16, first(given))
	if got := states(d.looks(one)); got[None] != given.Count()-1 {
		t.Fatalf("after a look that found one flow: %v", got)
	}
	d.commits(nil)
	if !d.core.said.Linger.Equal(one) {
		t.Errorf("said: linger %s, want %s", d.core.said.Linger, one)
	}
	if got := states(d.looks(d.core.cfg.newSet())); got[None] != 1 {
		t.Errorf("after the last flow: %v", got)
	}
	d.commits(nil)
	if !d.core.said.Linger.Empty() {
		t.Errorf("said: linger %s", d.core.said.Linger)
	}
}

// TestServiceWithoutLingerMovesAtOnce.
func TestServiceWithoutLingerMovesAtOnce(t *testing.T) {
	d := holderDesk(t, func(c *Config) { c.Services[0].Linger = false })
	given := d.gives()
	if !d.core.said.Linger.Empty() || d.core.kernelState(first(given)) != None {
		t.Errorf("linger %s, in the kernel %s", d.core.said.Linger, d.core.kernelState(first(given)))
	}
}

// TestFailedLookEndsNothing.
func TestFailedLookEndsNothing(t *testing.T) {
	d := holderDesk(t)
	given := d.gives()
	for !d.core.flowLook.open {
		d.wait(50 * ms)
	}
	d.step(FlowsFound{Live: d.core.cfg.newSet(), Err: errors.New("no conntrack")})
	if !d.core.lingering.Equal(given) {
		t.Errorf("after a look that failed %s lingers, want %s", d.core.lingering, given)
	}
	if got := states(d.looks(d.core.cfg.newSet())); got[None] != given.Count() {
		t.Errorf("after the next look: %v", got)
	}
}

// TestAdoptEndsWithTheLinger: what is adopted becomes the heir's own
// when its old owner lingers no more, or is another incarnation, or is dead.
func TestAdoptEndsWithTheLinger(t *testing.T) {
	for name, end := range map[string]func(d *desk){
		"the linger ends": func(d *desk) {
			d.says("b", func(s *Statement) { s.Linger = d.core.cfg.newSet() })
		},
		"the old owner dies": func(d *desk) { d.step(PeerDead{Name: "b"}) },
		"the old owner restarts": func(d *desk) {
			d.step(PeerAlive{Incarnation: Incarnation{"b", 99}, SpecDigest: 1, SpecRevision: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			all := setOf(16, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
			d := activeDesk(t, map[string]hashring.Set{"b": all}, lingering)
			asked := d.owned("a")
			for id := range d.core.requests {
				d.says("b", func(s *Statement) {
					s.Claims.RemoveAll(asked)
					s.Linger.AddAll(asked)
				})
				d.tells("b", Message{Grant: &Grant{ID: id, Version: d.said["b"].Version, Slots: asked}})
			}
			d.commits(nil)
			if got := d.core.kernelState(first(asked)); got != Adopt {
				t.Fatalf("a bucket that its old owner lingers on is %s", got)
			}
			end(d)
			d.commits(nil)
			if got := d.core.kernelState(first(asked)); got != Own {
				t.Errorf("after the end it is %s", got)
			}
		})
	}
}

// TestOwnBecomesAdoptWhenAPeerLingers: a node that was down for a moment comes
// back to its connections.
func TestOwnBecomesAdoptWhenAPeerLingers(t *testing.T) {
	d := holderDesk(t)
	d.says("b", func(s *Statement) { s.Linger.Add(3) })
	d.commits(nil)
	if got := d.core.kernelState(3); got != Adopt {
		t.Errorf("bucket 3 is %s", got)
	}
	if got := d.core.kernelState(4); got != Own {
		t.Errorf("bucket 4 is %s", got)
	}
}

// TestBucketComesHome from linger to own, whatever lives in it.
func TestBucketComesHome(t *testing.T) {
	d := holderDesk(t)
	given := d.gives()
	d.tells("b", Message{Cancel: &Cancel{ID: 7, Slots: given}})
	d.commits(nil)
	if got := d.core.kernelState(first(given)); got != Own || !d.core.lingering.Empty() {
		t.Errorf("a bucket that was declined is %s; %s lingers", got, d.core.lingering)
	}
}

// TestDeadlineOfALinger: it cuts the flows of a node that drains, and
// those of a node that has only been joined by another never.
func TestDeadlineOfALinger(t *testing.T) {
	for _, drains := range []bool{false, true} {
		d := holderDesk(t)
		if drains {
			d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
		}
		given := d.owned("b")
		d.tells("b", Message{Request: &Request{ID: 7, Slots: given}})
		d.commits(nil)
		cut := d.core.cfg.newSet()
		for range 100 {
			effects := d.wait(time.Second)
			if d.core.flowLook.open {
				effects = append(effects, d.step(FlowsFound{Live: given})...)
			}
			for _, commit := range effectsOf[Commit](effects) {
				cut.AddAll(commit.Cut)
				d.commits(nil)
			}
		}
		switch {
		case !drains && !cut.Empty():
			t.Errorf("a join cut the flows of %s", cut)
		case drains && !cut.Equal(given):
			t.Errorf("the drain's deadline cut %s, want %s", cut, given)
		}
	}
}

// TestLeaverThatSeesNobodyForAMoment: its carrier was away. The
// flows that it waits for go on.
func TestLeaverThatSeesNobodyForAMoment(t *testing.T) {
	d := holderDesk(t)
	d.step(Leave{})
	d.tells("b", Message{Request: &Request{ID: 7, Slots: d.all()}})
	d.commits(nil)
	d.says("b", func(s *Statement) { s.Claims = d.all() })
	d.tells("b", Message{Confirm: &Confirm{ID: 7, Slots: d.all()}})
	d.looks(d.all())
	d.step(WireChanged{Reason: "no carrier"})
	if d.step(PeerDead{Name: "b"}); d.core.lingering.Count() != 16 {
		t.Fatalf("without a wire %d of 16 buckets linger", d.core.lingering.Count())
	}
}

// TestLeaverWaitsForWhoRestarts: the only other node is back soon, and serves.
func TestLeaverWaitsForWhoRestarts(t *testing.T) {
	d := holderDesk(t)
	d.step(Leave{})
	d.tells("b", Message{Request: &Request{ID: 7, Slots: d.all()}})
	d.commits(nil)
	d.says("b", func(s *Statement) { s.Claims = d.all() })
	d.tells("b", Message{Confirm: &Confirm{ID: 7, Slots: d.all()}})
	d.looks(d.all())
	d.says("b", func(s *Statement) { s.Phase, s.Claims = Restarting, d.core.cfg.newSet() })
	if d.step(PeerDead{Name: "b", Left: true}); d.core.lingering.Count() != 16 {
		t.Fatalf("while b restarts %d of 16 buckets linger", d.core.lingering.Count())
	}
	d.wait(d.core.cfg.Timing.Restart + time.Second)
	if !d.core.lingering.Empty() {
		t.Errorf("b does not come back, and %s linger", d.core.lingering)
	}
}

// TestDeadlineOfWhatIsGivenLate: a node that drains, and had to serve until
// the deadline was over, gives its flows their time when it is relieved.
func TestDeadlineOfWhatIsGivenLate(t *testing.T) {
	d := holderDesk(t)
	d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
	d.step(PeerDead{Name: "b"})
	d.wait(2 * time.Minute)
	d.alive("b")
	d.says("b", func(*Statement) {})
	d.agrees("b")
	effects := d.tells("b", Message{Request: &Request{ID: 9, Slots: d.all()}})
	if got := states(effects); got[Linger] != 16 {
		t.Errorf("given up after the deadline: %v", got)
	}
	for _, commit := range effectsOf[Commit](effects) {
		if !commit.Cut.Empty() {
			t.Errorf("cuts %s", commit.Cut)
		}
	}
}

// TestResumeBeforeTheCut: what was to be cut goes on when the node serves again.
func TestResumeBeforeTheCut(t *testing.T) {
	d := holderDesk(t)
	d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
	given := d.owned("b")
	d.tells("b", Message{Request: &Request{ID: 7, Slots: given}})
	d.commits(nil)
	d.core.commitAfter = d.now + 10*time.Minute // the kernel refuses
	for range 70 {
		d.wait(time.Second)
		if d.core.flowLook.open {
			d.step(FlowsFound{Live: given})
		}
	}
	if d.core.cutting.Empty() {
		t.Fatal("nothing is to be cut")
	}
	d.step(Wished{Wish: Wish{Node: "a", Want: WantResume}})
	if !d.core.cutting.Empty() || !d.core.lingering.Equal(given) {
		t.Errorf("resumed, and %s are still cut; %s linger", d.core.cutting, d.core.lingering)
	}
}

// TestDeadlineGoesWithItsDrain: a drain that is taken back before the node
// serves leaves none behind, and one that a restart goes on with has one again.
func TestDeadlineGoesWithItsDrain(t *testing.T) {
	for _, resumed := range []bool{true, false} {
		d := newDesk(t, lingering)
		if resumed {
			d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
			d.step(Wished{Wish: Wish{Node: "a", Want: WantResume}})
		} else {
			d.step(Started{Drained: true})
		}
		d.alive("b")
		d.says("b", func(s *Statement) { s.Claims = everything(16) })
		d.acks("b")
		d.step(SeedsTried{})
		d.step(Attached{})
		if d.core.phase == Joining {
			t.Fatalf("the node joins: %s", d.core.mayServe())
		}
		switch by := d.core.cutBy; {
		case resumed && by != 0:
			t.Errorf("the node is %s, and flows are cut at %v", d.core.phase, by)
		case !resumed && by != d.now+time.Minute:
			t.Errorf("the node is %s, and flows are cut at %v, want %v", d.core.phase, by, d.now+time.Minute)
		}
	}
}

// TestFlowsOfAnEarlierLife go on after a crash, and before the node serves.
func TestFlowsOfAnEarlierLife(t *testing.T) {
	cfg := Config{
		Incarnation: Incarnation{"a", 1}, Weight: 100, Buckets: 16, Services: []Service{{Name: "web", Linger: true}},
		SpecDigest: 1, SpecRevision: 1, Timing: DefaultTiming(200 * ms),
	}
	d := &desk{t: t, core: New(cfg), now: time.Second, said: map[string]*Statement{}}
	asked := effectsOf[FindFlows](d.step(Started{}))
	if len(asked) != 1 || asked[0].Slots.Count() != 16 {
		t.Fatalf("a node that starts looks for flows of %v", asked)
	}
	effects := d.step(FlowsFound{Live: setOf(16, 2, 5)})
	if got := states(effects); got[Linger] != 2 {
		t.Fatalf("the kernel is told %v", got)
	}
	d.commits(nil)
	if d.core.phase != Joining || !d.core.said.Linger.Equal(setOf(16, 2, 5)) {
		t.Errorf("the node is %s and says that %s linger", d.core.phase, d.core.said.Linger)
	}
}
