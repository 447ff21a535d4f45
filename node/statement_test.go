package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peervip/peervip/hashring"
)

func drawSlots(t *rapid.T, label string) hashring.Set {
	s := hashring.NewSet(80)
	for _, i := range rapid.SliceOfN(rapid.IntRange(0, 79), 0, 20).Draw(t, label) {
		s.Add(i)
	}
	return s
}

func drawStatement(t *rapid.T, version uint64) *Statement {
	s := &Statement{
		Incarnation: Incarnation{"b", 7}, Version: version, Phase: rapid.SampledFrom([]Phase{Active, Draining}).Draw(t, "phase"),
		Weight: rapid.IntRange(1, 100).Draw(t, "weight"), View: rapid.Uint64().Draw(t, "view"),
		Claims: drawSlots(t, "claims"),
	}
	for id := range uint64(4) {
		if slots := drawSlots(t, "promised"); !slots.Empty() {
			s.Granted = append(s.Granted, Promise{To: PeerKey(8 + id/3), ID: id, Slots: slots})
		}
	}
	return s
}

// TestDeltasMakeTheStatement: what a delta makes of the old statement is the new
// one, and a whole statement needs no old one. Neither changes what it is made of.
func TestDeltasMakeTheStatement(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, next := drawStatement(t, 3), drawStatement(t, 4)
		before, after := old.Claims.Clone(), next.Claims.Clone()
		change, whole := next.delta(old), next.delta(nil)
		if got, ok := change.apply(old); !ok || !cmp.Equal(got, next) {
			t.Fatalf("the change of the old statement: %v\n%s", ok, cmp.Diff(next, got))
		}
		for _, known := range []*Statement{nil, old, next} {
			if got, ok := whole.apply(known); !ok || !cmp.Equal(got, next) {
				t.Fatalf("the whole of it: %v\n%s", ok, cmp.Diff(next, got))
			}
		}
		if !old.Claims.Equal(before) || !next.Claims.Equal(after) {
			t.Fatal("the statements themselves were changed")
		}
	})
}

// TestDeltaFitsItsOwnStatementOnly: of another version, or another life, it is
// refused, and the whole is asked for.
func TestDeltaFitsItsOwnStatementOnly(t *testing.T) {
	old := &Statement{Incarnation: Incarnation{"b", 7}, Version: 3, Claims: setOf(16, 1)}
	next := &Statement{Incarnation: Incarnation{"b", 7}, Version: 4, Claims: setOf(16, 2)}
	d := next.delta(old)
	reborn := *old
	reborn.Nonce = 8
	older := *old
	older.Version = 2
	for name, known := range map[string]*Statement{"nothing": nil, "an older one": &older, "a newer one": next, "another life's": &reborn} {
		if got, ok := d.apply(known); ok {
			t.Errorf("applied to %s it makes %+v", name, got)
		}
	}
}

func TestSameBut(t *testing.T) {
	base := func() *Statement {
		return &Statement{
			Incarnation: Incarnation{"b", 7}, Version: 3, Phase: Active, Weight: 10, Unfit: []int{1}, View: 5, Obeyed: 6,
			Claims: setOf(16, 1), Granted: []Promise{{To: KeyOf(Incarnation{"c", 8}), ID: 5, Slots: setOf(16, 2)}},
		}
	}
	other := base()
	other.Version++
	if !base().sameBut(other) {
		t.Error("a version is a difference")
	}
	for name, change := range map[string]func(*Statement){
		"nonce":   func(s *Statement) { s.Nonce++ },
		"phase":   func(s *Statement) { s.Phase = Draining },
		"weight":  func(s *Statement) { s.Weight++ },
		"unfit":   func(s *Statement) { s.Unfit = nil },
		"view":    func(s *Statement) { s.View++ },
		"obeyed":  func(s *Statement) { s.Obeyed++ },
		"claims":  func(s *Statement) { s.Claims = setOf(16) },
		"promise": func(s *Statement) { s.Granted = nil },
		"heir":    func(s *Statement) { s.Granted[0].To++ },
		"id":      func(s *Statement) { s.Granted[0].ID++ },
		"slots":   func(s *Statement) { s.Granted[0].Slots = setOf(16, 3) },
	} {
		other := base()
		change(other)
		if base().sameBut(other) {
			t.Errorf("another %s is no difference", name)
		}
	}
}

func TestTenths(t *testing.T) {
	for weight, want := range map[int]int{
		-100: 1, 0: 1, 1: 1, 14: 1, 15: 2, 94: 9, 95: 10, 100: 10, 104: 10, 105: 11, 1000: 100, 5000: 100,
	} {
		if got := Tenths(weight); got != want {
			t.Errorf("the weight %d is %d tenths, want %d", weight, got, want)
		}
	}
}
