package node

import (
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// TestWhoIsMournedIsToldToTheNewAlone: what one tells of the dead to another could go in
// circles for ever; so only who has begun lately takes it, and it ends.
func TestWhoIsMournedIsToldToTheNewAlone(t *testing.T) {
	timing := promptTiming()
	for name, age := range map[string]Time{"new": 0, "old": timing.Restart} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, func(cfg *Config) { cfg.Services[0].Linger = true })
			d.alive("b")
			d.wait(age)
			s := Statement{Incarnation: d.incarnation("b"), Version: 1, Phase: Active, Weight: 10, Claims: d.all(), Linger: d.core.cfg.newSet()}
			gone := Adopted{Of: Incarnation{"c", 7}, Slots: setOf(16, 3), Left: 10 * timing.Restart}
			d.tells("b", Message{Delta: &Delta{Statement: s, Mourned: []Adopted{gone}}})
			if takes := d.core.lingeredByOthers().Has(3); takes != (age == 0) {
				t.Errorf("it leaves the flows of c alone: %v", takes)
			}
			d.wait(timing.Restart)
			if d.core.lingeredByOthers().Has(3) {
				t.Error("it leaves the flows of c alone for longer than a restart takes")
			}
		})
	}
}

// TestWhoServesIsNotToldWhoIsMourned: it has seen them go. So a statement grows by the
// mourned only while somebody is new.
func TestWhoServesIsNotToldWhoIsMourned(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16, 1), "c": setOf(16, 2)}, func(cfg *Config) { cfg.Services[0].Linger = true })
	d.core.mourn(d.core.peers["b"], time.Second)
	told := func(to string) int {
		list := sent(d.tells(to, Message{Ack: &Ack{Nonce: d.core.cfg.Nonce, Lost: true}}), to, deltaOf)
		if len(list) != 1 {
			t.Fatalf("%d statements were sent to %s", len(list), to)
		}
		return len(list[0].Mourned)
	}
	if n := told("c"); n != 0 {
		t.Errorf("c, which serves, is told of %d", n)
	}
	d.says("c", func(s *Statement) { s.Phase = Joining })
	if n := told("c"); n != 1 {
		t.Errorf("c, which joins, is told of %d", n)
	}
}

// TestAdoptedByAGrantUntilItsStatementComes: invariant 5, the adoption that a grant tells
// of ends with the statement that it names, or the death of whom it is about.
func TestAdoptedByAGrantUntilItsStatementComes(t *testing.T) {
	for _, ends := range []string{"with its statement", "with its death", "it is dead already", "it is back"} {
		t.Run(ends, func(t *testing.T) {
			d := activeDesk(t, map[string]hashring.Set{"b": setOf(16, 1), "c": setOf(16, 2)}, func(cfg *Config) { cfg.Services[0].Linger = true })
			of := d.incarnation("c")
			switch ends {
			case "it is dead already":
				of = Incarnation{"d", 9}
			case "it is back":
				of.Nonce++
			}
			d.core.adoptFrom([]Adopted{{Of: of, Slots: setOf(16, 5, 6), Version: d.said["c"].Version + 2}}, setOf(16, 5))
			if left := d.core.lingeredByOthers(); left.Has(6) || left.Has(5) != (ends != "it is back") {
				t.Fatalf("it leaves %s alone", left)
			}
			switch ends {
			case "with its statement":
				d.says("c", func(s *Statement) {})
				if !d.core.lingeredByOthers().Has(5) {
					t.Error("an older statement has ended it")
				}
				d.says("c", func(s *Statement) {})
			case "with its death":
				d.step(PeerDead{Name: "c"})
				d.wait(time.Second)
			case "it is dead already":
				d.wait(d.core.cfg.Timing.Mourn)
			}
			if d.core.lingeredByOthers().Has(5) {
				t.Error("it goes on leaving the slot alone")
			}
		})
	}
}
