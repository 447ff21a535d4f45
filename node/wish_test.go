package node

import (
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// TestWishForANodeOfAnotherSpecEnds: its statements cannot be read for buckets,
// but what it has obeyed can.
// TestWishForWhoRestarts: it is listed, and can be told nothing until it is back.
func TestWishForWhoRestarts(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.says("b", func(s *Statement) { s.Phase = Restarting })
	d.step(PeerDead{Name: "b", Left: true})
	for name, want := range map[string]string{
		"b": "b is restarting; try again when `peervip status` shows it active",
		"c": "no node is named \"c\"; `peervip status` lists them",
	} {
		answers := effectsOf[Answer](d.step(Wished{Token: 1, Wish: Wish{Node: name, Want: WantDrain}}))
		if len(answers) != 1 || answers[0].Refused != want {
			t.Errorf("a wish for %s is answered %+v, want %s", name, answers, want)
		}
	}
}

func TestWishForANodeOfAnotherSpecEnds(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.step(PeerAlive{Incarnation: Incarnation{"x", 'x'}, SpecDigest: 7})
	d.says("x", func(s *Statement) { s.Obeyed = 5 << 32 })
	d.step(Wished{Token: 1, Wish: Wish{Node: "x", Want: WantDrain}})
	w := d.core.wishes[wishKey{"x", TopicDuty}]
	if w.Stamp <= 5<<32 {
		t.Errorf("a new wish has the stamp %d, and x has obeyed %d", w.Stamp, uint64(5<<32))
	}
	// The same, kept for another's operator.
	d = activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.step(PeerAlive{Incarnation: Incarnation{"x", 'x'}, SpecDigest: 7})
	d.says("x", func(*Statement) {})
	d.tells("b", Message{Wish: &w})
	if len(d.core.wishes) != 1 {
		t.Fatal("not kept")
	}
	d.says("x", func(s *Statement) { s.Obeyed = w.Stamp })
	if effects := d.wait(time.Second); len(d.core.wishes) > 0 || len(sent(effects, "x", wishOf)) > 0 {
		t.Errorf("obeyed, and still kept: %v", d.core.wishes)
	}
}

// TestStampsOfTwoOperatorsDiffer: of all the nodes of a large cluster no two may
// give one stamp, or the later of two wishes would be taken for the first.
func TestStampsOfTwoOperatorsDiffer(t *testing.T) {
	seen := map[uint64]bool{}
	for nonce := uint64(1); nonce <= 4096; nonce++ {
		seen[nextStamp(77<<32|5, nonce*0x9e3779b97f4a7c15)] = true
	}
	if len(seen) != 4096 {
		t.Errorf("%d different stamps of 4096 operators", len(seen))
	}
	for s := range seen {
		if s <= 77<<32|5 {
			t.Fatalf("the stamp %x is not above the last one", s)
		}
	}
}

// TestNodeLeavesWhileItIsAsked: nobody may be told that it will be told when it
// comes back.
func TestNodeLeavesWhileItIsAsked(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.step(Wished{Token: 3, Wish: Wish{Node: "b", Want: WantDrain}})
	got := effectsOf[Answer](d.step(PeerDead{Name: "b", Left: true}))
	if len(got) != 1 || got[0].Token != 3 || !strings.Contains(got[0].Refused, "left") {
		t.Errorf("answered %+v", got)
	}
}

// TestWishesDoNotPileUp: a peer that invents names must not fill the memory.
func TestWishesDoNotPileUp(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	for i := range 5000 {
		d.tells("b", Message{Wish: &Wish{Node: string(rune('A' + i)), Stamp: 1, Origin: "b", Want: WantDrain}})
	}
	if n := len(d.core.wishes); n > maxWishes {
		t.Errorf("%d wishes are kept", n)
	}
}

// TestOldWishIsNotObeyedAgain: a copy that was long on its way.
func TestOldWishIsNotObeyedAgain(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": setOf(16)})
	drain := Message{Wish: &Wish{Node: "a", Stamp: 1 << 32, Origin: "b", Want: WantDrain}}
	d.tells("b", drain)
	d.tells("c", Message{Wish: &Wish{Node: "a", Stamp: 2 << 32, Origin: "c", Want: WantResume}})
	got := sent(d.tells("b", drain), "b", verdictOf)
	if d.core.phase != Active {
		t.Errorf("the node is %s", d.core.phase)
	}
	if len(got) != 1 || !strings.Contains(got[0].Refused, "came in between") {
		t.Errorf("the verdict is %+v", got)
	}
}

// TestVerdictIsRepeated to its origin only, as long as it asks.
func TestVerdictIsRepeated(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": setOf(16)})
	m := Message{Wish: &Wish{Node: "a", Stamp: 1 << 32, Origin: "b", Want: WantWeight, Weight: 0}}
	for range 2 {
		got := sent(d.tells("b", m), "b", verdictOf)
		if len(got) != 1 || got[0].Stamp != 1<<32 || got[0].Refused != "weight 0: must be 1 to 1000" {
			t.Errorf("the verdict is %+v", got)
		}
	}
	if got := sent(d.tells("c", m), "c", verdictOf); len(got) > 0 {
		t.Errorf("c did not ask and is told %+v", got)
	}
}

// TestOneWishUndoesNoOther: of wishes of different topics that wait for a node each is obeyed,
// whatever comes first, and each operator hears the word on the own one.
func TestOneWishUndoesNoOther(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": setOf(16)})
	drain := Message{Wish: &Wish{Node: "a", Stamp: 1 << 32, Origin: "b", Want: WantDrain}}
	weight := Message{Wish: &Wish{Node: "a", Stamp: 2 << 32, Origin: "c", Want: WantWeight, Weight: 50}}
	for _, m := range []struct {
		from string
		Message
	}{{"c", weight}, {"b", drain}, {"b", drain}} {
		if got := sent(d.tells(m.from, m.Message), m.from, verdictOf); len(got) != 1 || got[0].Stamp != m.Wish.Stamp || got[0].Refused != "" {
			t.Errorf("the verdict on %+v is %+v", m.Wish, got)
		}
	}
	if !d.core.drained || d.core.wantWeight != 5 {
		t.Errorf("drained %t, weight %d", d.core.drained, d.core.wantWeight)
	}
	s := d.core.said
	if s.Obeyed != 2<<32 || s.Stamps[TopicDuty] != 1<<32 || s.Stamps[TopicWeight] != 2<<32 {
		t.Errorf("it has obeyed %d, %v", s.Obeyed, s.Stamps)
	}
	// Whoever keeps them forgets each when its own is dealt with.
	d.tells("b", Message{Wish: &Wish{Node: "c", Stamp: 5, Origin: "b", Want: WantDrain}})
	d.tells("b", Message{Wish: &Wish{Node: "c", Stamp: 6, Origin: "b", Want: WantWeight, Weight: 7}})
	d.says("c", func(s *Statement) { s.Obeyed, s.Stamps = 6, Stamps{TopicWeight: 6} })
	if kept := d.core.keptWishes("c"); len(kept) != 1 || kept[0].Want != WantDrain {
		t.Errorf("kept: %+v", kept)
	}
	// A node of an older version knows one stamp: the last.
	d.says("c", func(s *Statement) { s.Obeyed, s.Stamps = 6, nil })
	if kept := d.core.keptWishes("c"); len(kept) > 0 {
		t.Errorf("kept: %+v", kept)
	}
	// And leaves one: what was wished before that is over, of each topic.
	d = newDesk(t)
	d.step(Started{Obeyed: 7})
	if d.core.obeyed(TopicDuty) != 7 || d.core.obeyed(TopicWeight) != 7 {
		t.Errorf("of an older version's memory: %v", d.core.stamps)
	}
}
