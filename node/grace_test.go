package node

import (
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// giveAll hands all buckets of a holderDesk to b, and has b confirm.
func giveAll(d *desk) {
	d.t.Helper()
	d.tells("b", Message{Request: &Request{ID: 7, Slots: d.all()}})
	d.commits(nil)
	d.says("b", func(s *Statement) { s.Claims = d.all() })
	d.tells("b", Message{Confirm: &Confirm{ID: 7, Slots: d.all()}})
}

// cutIn lets time pass while all flows live on, and returns which slots were cut in it.
func cutIn(d *desk, span Time) hashring.Set {
	d.t.Helper()
	cut := d.core.cfg.newSet()
	for end := d.now + span; d.now < end; {
		effects := d.wait(min(100*time.Millisecond, end-d.now))
		if d.core.flowLook.open {
			effects = append(effects, d.step(FlowsFound{Live: d.core.lingering.Clone()})...)
		}
		for _, commit := range effectsOf[Commit](effects) {
			cut.AddAll(commit.Cut)
			d.commits(nil)
		}
	}
	return cut
}

func drainFor(grace Time) Wished {
	return Wished{Token: 1, Wish: Wish{Node: "a", Want: WantDrain, Grace: &grace}}
}

// The operator's grace replaces the spec's time, is remembered, and goes with the drain.
func TestDrainWithAGraceOfItsOwn(t *testing.T) {
	d := holderDesk(t)
	saves := effectsOf[Save](d.step(drainFor(10 * time.Second)))
	if len(saves) != 1 || saves[0].Grace == nil || *saves[0].Grace != 10*time.Second {
		t.Fatalf("saved %+v", saves)
	}
	giveAll(d)
	if cut := cutIn(d, 9*time.Second); !cut.Empty() {
		t.Fatalf("before its time it cut %s", cut)
	}
	// Said again with another time, from now on.
	d.step(drainFor(30 * time.Second))
	if cut := cutIn(d, 29*time.Second); !cut.Empty() {
		t.Fatalf("before its new time it cut %s", cut)
	}
	if cut := cutIn(d, 2*time.Second); !cut.Equal(d.all()) {
		t.Fatalf("after its new time it cut %s", cut)
	}
	if saves = effectsOf[Save](d.step(Wished{Wish: Wish{Node: "a", Want: WantResume}})); len(saves) != 1 || saves[0].Grace != nil {
		t.Errorf("resumed, it saved %+v", saves)
	}
	if d.core.grace() != d.core.cfg.DrainTimeout {
		t.Errorf("after the drain flows have %v", d.core.grace())
	}
}

// A restart in the middle of a drain: its grace counts again from when the node serves.
func TestGraceOverARestart(t *testing.T) {
	grace := 10 * time.Second
	d := newDesk(t, func(cfg *Config) { cfg.DrainTimeout, cfg.Services[0].Linger = time.Minute, true })
	d.step(Started{Drained: true, Grace: &grace})
	d.alive("b")
	d.says("b", func(s *Statement) {})
	d.acks("b")
	d.step(SeedsTried{})
	d.wait(6 * time.Second)
	d.step(Attached{})
	if !d.core.drained || !d.core.phase.Serving() || d.core.cutBy != d.now+grace {
		t.Errorf("%s, and cuts in %v", d.core.phase, d.core.cutBy-d.now)
	}
	// A file that was damaged into nonsense does not bring it down.
	grace = -1
	d = newDesk(t)
	if d.step(Started{Drained: true, Grace: &grace}); d.core.grace() != d.core.cfg.DrainTimeout {
		t.Errorf("flows have %v", d.core.grace())
	}
}

func TestGraceOutOfBounds(t *testing.T) {
	for _, grace := range []Time{-time.Second, MaxGrace + 1, 1<<63 - 1} {
		d := holderDesk(t)
		answers := effectsOf[Answer](d.step(drainFor(grace)))
		if len(answers) != 1 || !strings.Contains(answers[0].Refused, "a grace of") || d.core.phase != Active {
			t.Errorf("%v: answered %+v, and is %s", grace, answers, d.core.phase)
		}
	}
}

// A node that is told to leave while it drains has no more time than the drain had.
func TestLeaveInADrainKeepsItsDeadline(t *testing.T) {
	d := holderDesk(t)
	d.step(drainFor(10 * time.Second))
	giveAll(d)
	cutIn(d, 5*time.Second)
	d.step(Leave{})
	if cut := cutIn(d, 6*time.Second); !cut.Equal(d.all()) {
		t.Errorf("it cut %s", cut)
	}
}

// leave --now: everything is handed over first, so that who comes back at once meets
// the heir; then the flows are ended, and the node has left.
func TestLeaveNow(t *testing.T) {
	d := holderDesk(t)
	d.step(Leave{Now: true})
	d.tells("b", Message{Request: &Request{ID: 7, Slots: d.all()}})
	d.commits(nil)
	if cut := cutIn(d, 5*time.Second); !cut.Empty() {
		t.Fatalf("before b has confirmed it cut %s", cut)
	}
	d.says("b", func(s *Statement) { s.Claims = d.all() })
	effects := d.tells("b", Message{Confirm: &Confirm{ID: 7, Slots: d.all()}})
	commits := effectsOf[Commit](effects)
	if len(commits) != 1 || !commits[0].Cut.Equal(d.all()) {
		t.Fatalf("then it does %v", effects)
	}
	if stops := effectsOf[Stop](append(d.commits(nil), d.acks("b")...)); len(stops) != 1 {
		t.Error("and it does not stop")
	}
}

// An heir that never confirms does not keep such a leave for longer than any.
func TestLeaveNowWithoutAnAnswer(t *testing.T) {
	d := holderDesk(t)
	d.step(Leave{Now: true})
	d.tells("b", Message{Request: &Request{ID: 7, Slots: d.all()}})
	d.commits(nil)
	if cut := cutIn(d, d.core.cfg.Timing.LeaveBy+time.Second); !cut.Equal(d.all()) {
		t.Errorf("it cut %s", cut)
	}
	if !d.core.stopped {
		t.Error("it does not stop")
	}
}

// A leave that waits, and a restart that hands over, are cut short.
func TestLeaveNowCutsAnotherLeaveShort(t *testing.T) {
	for _, before := range []Leave{{}, {KeepFlows: true}} {
		d := holderDesk(t)
		d.step(before)
		d.tells("b", Message{Request: &Request{ID: 7, Slots: d.all()}})
		d.commits(nil)
		if cut := cutIn(d, time.Second); !cut.Empty() {
			t.Fatalf("%+v cut %s", before, cut)
		}
		d.step(Leave{Now: true})
		d.says("b", func(s *Statement) { s.Claims = d.all() })
		effects := d.tells("b", Message{Confirm: &Confirm{ID: 7, Slots: d.all()}})
		if commits := effectsOf[Commit](effects); len(commits) != 1 || !commits[0].Cut.Equal(d.all()) {
			t.Errorf("after %+v it does %v", before, effects)
		}
	}
}

// What a node waits for is known when it has counted since it began to, here and at
// the peers.
func TestWhatIsWaitedFor(t *testing.T) {
	d := holderDesk(t)
	waiting := func(name string) *Waiting {
		for _, n := range d.core.Snapshot().Nodes {
			if n.Name == name {
				return n.Waiting
			}
		}
		return nil
	}
	d.step(FlowsCounted{Counts: []int{9}, Waiting: 9})
	if w := waiting("a"); w != nil {
		t.Errorf("it serves, and waits for %+v", w)
	}
	d.step(drainFor(time.Minute))
	if w := waiting("a"); w != nil {
		t.Errorf("an old count is told: %+v", w)
	}
	effects := d.step(FlowsCounted{Counts: []int{9}, Waiting: 3})
	if w := waiting("a"); w == nil || *w != (Waiting{3, time.Minute}) {
		t.Errorf("it waits for %+v", w)
	}
	told := sent(effects, "b", func(m *Message) *Flows { return m.Flows })
	if len(told) != 1 || told[0].Waiting == nil || *told[0].Waiting != 3 || told[0].Left != time.Minute {
		t.Errorf("it told %+v", told)
	}
	d.tells("b", Message{Flows: told[0]})
	if w := waiting("b"); w != nil {
		t.Errorf("b serves, and waits for %+v", w)
	}
	d.says("b", func(s *Statement) { s.Phase = Leaving })
	d.wait(10 * time.Second)
	if w := waiting("b"); w == nil || *w != (Waiting{3, 50 * time.Second}) {
		t.Errorf("b waits for %+v", w)
	}
	slots, listed := d.core.Lingering()
	if !slots.Equal(d.all()) || !listed.Empty() {
		t.Errorf("waits for flows in %s, by lists in %s", slots, listed)
	}
}
