package node

import (
	"slices"
	"strings"
	"testing"

	"github.com/peervip/peervip/hashring"
)

// TestHeirIsWaryWithoutLists: it takes TCP at once, and the rest when it knows what
// others keep.
func TestHeirIsWaryWithoutLists(t *testing.T) {
	d, asked := theirs(t, wholly)
	one := setOf(16, first(asked.Slots))
	d.says("c", func(s *Statement) {
		s.Claims.RemoveAll(asked.Slots)
		s.Version, s.Linger = 8, asked.Slots.Clone()
	})
	effects := d.tells("c", Message{Grant: &Grant{
		ID: asked.ID, Version: 9, Slots: asked.Slots, Lists: []Keeping{{d.incarnation("c"), 9, Listing{listToCome, one}}},
	}})
	if got := states(effects); got[Wary] != 1 || got[Adopt] != asked.Slots.Count()-1 || len(sent(effects, "c", listAskOf)) > 0 {
		t.Fatalf("commits %v", got)
	}
	if c := sent(d.commits(nil), "c", confirmOf); len(c) != 1 || !c[0].Slots.Equal(asked.Slots) || d.core.kernelState(first(one)) != Wary {
		t.Errorf("confirms %+v", c)
	}

	if got := effectsOf[Commit](d.tells("c", Message{Lists: &Lists{ID: listToCome, Slots: flowsIn(one, 1)}})); len(got) > 0 {
		t.Fatalf("took %+v after a list that cannot be", got)
	}

	// The list is there.
	effects = d.says("c", func(s *Statement) { s.Lists = []Listing{{5, one}} })
	if ask := sent(effects, "c", listAskOf); len(ask) != 1 || ask[0].ID != 5 || !ask[0].Slots.Equal(one) {
		t.Fatalf("asks %+v", ask)
	}
	if got := sent(d.wait(60*ms), "c", listAskOf); len(got) != 1 {
		t.Errorf("asks %d times more, want once", len(got))
	}
	for _, m := range []*Lists{
		{ID: 6, Slots: flowsIn(one, 1)},            // of another list
		{ID: 5, Slots: flowsIn(setOf(100, 99), 1)}, // of no slot
		{ID: 5, Slots: flowsIn(d.owned("c"), 1)},   // not asked for
	} {
		if got := effectsOf[Commit](d.tells("c", Message{Lists: m})); len(got) > 0 {
			t.Fatalf("took %+v after %+v", got, m)
		}
	}
	if d.wait(d.core.cfg.Timing.Alone); !slices.ContainsFunc(d.core.Snapshot().Problems, func(p string) bool {
		return strings.Contains(p, "of 1 bucket datagrams are not answered here")
	}) {
		t.Errorf("problems %q", d.core.Snapshot().Problems)
	}
	commit := theCommit(t, d.tells("c", Message{Lists: &Lists{ID: 5, Slots: flowsIn(one, 1)}}))
	if len(commit.Changes) != 1 || commit.Changes[0].State != Adopt || len(commit.List) != 1 || commit.List[0] != flowIn(first(one), 1) {
		t.Errorf("takes %+v", commit)
	}
	d.commits(nil)
	if why := d.core.listProblem(); why != "" {
		t.Errorf("all lists are there, and %s", why)
	}

	// The list ends with its keeper's word, though another lingers on.
	d.says("b", func(s *Statement) { s.Linger = one.Clone() })
	commit = theCommit(t, d.says("c", func(s *Statement) { s.Linger, s.Lists = setOf(16), nil }))
	for _, ch := range commit.Changes {
		if ch.Bucket == first(one) && ch.State != Adopt {
			t.Errorf("at the end of the list: %+v", commit)
		}
	}
	if len(commit.Unlist) != 1 || commit.Unlist[0] != flowIn(first(one), 1) || len(commit.List) > 0 {
		t.Errorf("at the end of the list: unlisted %v, listed %v", commit.Unlist, commit.List)
	}
}

// TestGrantNamesKeepersWhoseStatementsAreLate: the holder has adopted buckets on
// which another lingers, and gives them on. The heir asks that one, of whose list it
// has not heard, and then the holder forgets nothing of it either.
func TestGrantNamesKeepersWhoseStatementsAreLate(t *testing.T) {
	d, asked := theirs(t, wholly)
	ofB, ofC := Keeping{d.incarnation("b"), 7, Listing{3, asked.Slots}}, Keeping{d.incarnation("c"), 9, Listing{5, asked.Slots}}
	effects := d.tells("c", Message{Grant: &Grant{ID: asked.ID, Version: 9, Slots: asked.Slots, Lists: []Keeping{ofB, ofC}}})
	for _, k := range []Keeping{ofB, ofC} {
		if ask := sent(effects, k.Keeper.Name, listAskOf); len(ask) != 1 || ask[0].ID != k.ID {
			t.Fatalf("asks %s for %+v", k.Keeper.Name, ask)
		}
	}
	if got := states(effects); got[Wary] != asked.Slots.Count() {
		t.Fatalf("commits %v", got)
	}
	d.commits(nil)
	if got := effectsOf[Commit](d.tells("b", Message{Lists: &Lists{ID: 3, Slots: flowsIn(asked.Slots, 1)}})); len(got) > 0 {
		t.Fatal("adopts with one list of two")
	}
	commit := theCommit(t, d.tells("c", Message{Lists: &Lists{ID: 5, Slots: flowsIn(asked.Slots, 2)}}))
	if len(commit.List) != 2*asked.Slots.Count() || commit.Changes[0].State != Adopt {
		t.Fatalf("takes %+v", commit)
	}
	d.commits(nil)

	// And gives them on, with a list of its own, but without what is b's or c's.
	d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
	d.agrees("b")
	d.agrees("c")
	commit = theCommit(t, d.tells("b", Message{Request: &Request{ID: 7, Slots: asked.Slots}}))
	if got := commit.Changes[0].State; got != Yield || len(commit.List) != 2*asked.Slots.Count() {
		t.Fatalf("%s, and lists %d flows", got, len(commit.List))
	}
	grants := sent(d.commits(nil), "b", grantOf)
	if len(grants) != 1 {
		t.Fatalf("%d grants", len(grants))
	}
	var keepers []string
	for _, k := range grants[0].Lists {
		keepers = append(keepers, k.Keeper.Name)
	}
	if !slices.Equal(keepers, []string{"a", "b", "c"}) {
		t.Errorf("a grant that names %v as keepers", keepers)
	}
	found := flowsIn(asked.Slots, 1)
	for i, s := range found {
		found[i].Flows = append(s.Flows, flowIn(s.Slot, 2), flowIn(s.Slot, 3))
	}
	commit = theCommit(t, d.step(FlowsListed{Slots: found}))
	if len(commit.List) != asked.Slots.Count() || commit.List[0].Client.Port() != 3 {
		t.Errorf("keeps %v", commit.List)
	}
}

// TestOrphansAreTakenWarily: the adopter has died, the keeper lives.
func TestOrphansAreTakenWarily(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": everything(16), "c": setOf(16)}, wholly)
	d.says("c", func(s *Statement) {
		s.Linger, s.Lists = everything(16), []Listing{{4, everything(16)}}
	})
	d.step(PeerDead{Name: "b"})
	effects := d.agrees("c")
	mine := d.core.want.Clone()
	if ask := sent(effects, "c", listAskOf); len(ask) != 1 || !ask[0].Slots.Equal(mine) {
		t.Fatalf("asks %+v", ask)
	}
	if got := states(effects); got[Wary] != mine.Count() || len(got) != 1 {
		t.Fatalf("commits %v", got)
	}
	d.commits(nil)
	commit := theCommit(t, d.tells("c", Message{Lists: &Lists{ID: 4, Slots: flowsIn(mine, 1)}}))
	if len(commit.List) != mine.Count() || len(commit.Changes) != mine.Count() || commit.Changes[0].State != Adopt {
		t.Errorf("then commits %+v", commit)
	}
	d.commits(nil)

	// And when the keeper dies too, its flows are everybody's.
	commit = theCommit(t, d.step(PeerDead{Name: "c"}))
	if len(commit.Unlist) != mine.Count() || commit.Changes[0].State != Own {
		t.Errorf("at the keeper's death commits %+v", commit)
	}
}
