package node

import (
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// TestOldStatementIsNoAgreement: b has had the bucket from c, under a view that
// this node never saw, and its statement of it is late. All known digests agree,
// and all were acknowledged long ago.
func TestOldStatementIsNoAgreement(t *testing.T) {
	d, asked := theirs(t)
	x := setOf(16, first(asked.Slots))
	d.says("c", func(s *Statement) { s.Claims.RemoveAll(x) }) // b has confirmed it
	effects := d.tells("c", Message{Refusal: &Refusal{ID: asked.ID, Reason: NotHeld, Slots: x}})
	if len(effectsOf[Commit](effects)) > 0 {
		t.Error("took what nobody was seen to claim on the strength of old statements")
	}
	b := d.said["b"]
	b.Version += 2 // b said more than has come
	d.acks("c")
	d.acks("b")
	if d.core.want.Has(first(x)) {
		t.Error("took it though b's acknowledgement told of a statement that has not come")
	}
	effects = d.says("b", func(s *Statement) { s.Claims = x.Clone() })
	if got := sent(effects, "b", requestOf); len(got) != 1 || !got[0].Slots.Equal(x) {
		t.Errorf("asked b for %v, want %v", got, x)
	}
}

// TestOrphanIsTakenInOneRoundTrip is the other side: when everybody has
// acknowledged that the buckets are looked for, and nobody has them, they are taken.
func TestOrphanIsTakenInOneRoundTrip(t *testing.T) {
	d, asked := theirs(t)
	x := setOf(16, first(asked.Slots))
	d.says("c", func(s *Statement) { s.Claims.RemoveAll(x) })
	effects := d.tells("c", Message{Refusal: &Refusal{ID: asked.ID, Reason: NotHeld, Slots: x}})
	if sent(effects, "b", deltaOf) == nil || sent(effects, "c", deltaOf) == nil {
		t.Fatal("the peers are not asked for their word")
	}
	d.acks("b")
	if d.core.want.Has(first(x)) {
		t.Fatal("taken before c has acknowledged")
	}
	effects = d.acks("c")
	if len(effectsOf[Commit](effects)) != 1 || !d.core.want.Has(first(x)) {
		t.Errorf("not taken in agreement: %v", effects)
	}
}

// TestPromiseToTheDeadIsNoOrphan as long as the holder shows it: to the holder the heir
// may be alive, and decline (simulator, mishaps among talkative flows, seed 1203).
func TestPromiseToTheDeadIsNoOrphan(t *testing.T) {
	d, asked := theirs(t)
	x := setOf(16, first(asked.Slots))
	d.says("c", func(s *Statement) {
		s.Claims.RemoveAll(x)
		s.Granted = []Promise{{To: KeyOf(d.incarnation("b")), ID: 3, Slots: x}}
	})
	d.tells("c", Message{Refusal: &Refusal{ID: asked.ID, Reason: NotHeld, Slots: x}})
	d.step(PeerDead{Name: "b"})
	d.agrees("c")
	if d.core.want.Has(first(x)) {
		t.Fatal("taken while c may still take it back")
	}
	d.says("c", func(s *Statement) { s.Granted = nil })
	d.agrees("c")
	if !d.core.want.Has(first(x)) {
		t.Error("not taken when c has forgotten the promise")
	}
}

// TestOrphanWaitsForOneView: everybody has acknowledged everything, but b acts on
// another view, by which the buckets may be its own. The wait for it is bounded.
func TestOrphanWaitsForOneView(t *testing.T) {
	d, asked := theirs(t)
	d.says("b", func(s *Statement) { s.View = 77 })
	d.says("c", func(s *Statement) { s.Claims.RemoveAll(asked.Slots) })
	d.tells("c", Message{Refusal: &Refusal{ID: asked.ID, Reason: NotHeld, Slots: asked.Slots}})
	d.acks("b")
	d.acks("c")
	d.wait(d.core.cfg.Timing.Agreement - 10*ms)
	if !d.core.want.Empty() {
		t.Fatalf("took %v", d.core.want)
	}
	effects := d.wait(20 * ms)
	if !d.core.want.Equal(asked.Slots) {
		t.Errorf("has %v after the wait, want %v", d.core.want, asked.Slots)
	}
	loud := false
	for _, n := range effectsOf[Notice](effects) {
		loud = loud || n.Act
	}
	if !loud {
		t.Error("nobody is told")
	}
}

// TestQuestion: slots are asked about when they come, and again when they come
// back; overdue are those that have been there all the time.
func TestQuestion(t *testing.T) {
	var q question
	step := func(at Time, slots hashring.Set, ask bool, overdue hashring.Set) {
		t.Helper()
		if got := q.update(slots.Clone(), at); got != ask {
			t.Errorf("at %v: ask %v", at, got)
		}
		if got := q.overdue(at, 10); !got.Equal(overdue) {
			t.Errorf("at %v: overdue %v, want %v", at, got, overdue)
		}
	}
	none := setOf(8)
	step(1, none, false, none)
	step(5, setOf(8, 1, 2), true, none)
	step(6, setOf(8, 1, 2), false, none)
	step(7, setOf(8, 1), false, none)
	step(8, setOf(8, 1, 2), true, none) // 2 is back: what was said of it is old
	step(9, setOf(8, 1, 2, 3), true, none)
	step(15, setOf(8, 1, 2, 3), false, setOf(8, 1))
	step(16, setOf(8, 2, 3), true, none) // nothing of the first is left: a new wait
	step(26, setOf(8, 2, 3), false, setOf(8, 2, 3))
	step(27, none, false, none)
	if q.open() {
		t.Error("still open")
	}
}

// TestDoubleClaimEndsInOneView: a double claim is settled by the view that both
// have, and each side comes to the opposite verdict.
func TestDoubleClaimEndsInOneView(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.commits(nil)
	mine := d.owned("a")
	x, y := first(mine), first(d.owned("b"))
	d.says("b", func(s *Statement) { s.Claims, s.View = setOf(16, x), 77 })
	d.acks("b")
	if d.core.want.Count() != mine.Count() {
		t.Fatal("decided before b has the same view")
	}
	d.agrees("b")
	if !d.core.want.Has(x) {
		t.Error("gave up what the common view gives to this node")
	}
	d.core.want.Add(y) // as after a split
	d.core.kernel.Add(y)
	d.says("b", func(s *Statement) { s.Claims = setOf(16, y) })
	d.agrees("b")
	if d.core.want.Has(y) {
		t.Error("kept what the common view gives to b")
	}
	if d.core.want.Count() != mine.Count() {
		t.Errorf("has %v, want %v", d.core.want, mine)
	}
	d.wait(time.Second)
}
