package node

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peervip/peervip/hashring"
)

func wholly(c *Config) {
	lingering(c)
	c.Services[0].LingerAll = true
}

func listAskOf(m *Message) *ListAsk { return m.ListAsk }
func listsOf(m *Message) *Lists     { return m.Lists }

// flowIn is a flow of the slot. What distinguishes it is the number.
func flowIn(slot Slot, number uint16) Flow {
	return Flow{
		Protocol: 17, Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(slot)}), number),
		VIP: netip.MustParseAddrPort("192.0.2.100:443"),
	}
}

// flowsIn is one flow of each slot.
func flowsIn(slots hashring.Set, number uint16) (all []SlotFlows) {
	for slot := range slots.All() {
		all = append(all, SlotFlows{slot, FlowList{flowIn(slot, number)}})
	}
	return all
}

// theCommit is the one commit among the effects.
func theCommit(t *testing.T, effects []Effect) Commit {
	t.Helper()
	commits := effectsOf[Commit](effects)
	if len(commits) != 1 {
		t.Fatalf("%d commits, want one", len(commits))
	}
	return commits[0]
}

// yields lets "b" ask for what is its own, up to where the flows are to be listed.
func (d *desk) yields() hashring.Set {
	d.t.Helper()
	asked := d.owned("b")
	if got := states(d.tells("b", Message{Request: &Request{ID: 7, Slots: asked}})); got[Yield] != asked.Count() {
		d.t.Fatalf("the holder commits %v, want all to yield", got)
	}
	effects := d.commits(nil)
	list := effectsOf[ListFlows](effects)
	if len(list) != 1 || !list[0].Slots.Equal(asked) || list[0].Most != MaxListed {
		d.t.Fatalf("to be listed: %+v", list)
	}
	if s := d.core.said; len(sent(effects, "b", grantOf)) > 0 || len(s.Granted) > 0 || len(s.Lists) > 0 {
		d.t.Fatal("granted before there is a list")
	}
	if claims := d.core.said.Claims; !claims.Has(first(asked)) {
		d.t.Fatal("a slot that is listed is shown as nobody's")
	}
	return asked
}

// lists lets "b" have what is its own, but for the flows listed.
func (d *desk) lists() hashring.Set {
	d.t.Helper()
	given := d.yields()
	commit := theCommit(d.t, d.step(FlowsListed{Slots: flowsIn(given, 1)}))
	if len(commit.List) != given.Count() || len(commit.Unlist) > 0 {
		d.t.Fatalf("listed %v", commit.List)
	}
	grants := sent(d.commits(nil), "b", grantOf)
	if len(grants) != 1 || !grants[0].Slots.Equal(given) || len(grants[0].Lists) != 1 {
		d.t.Fatalf("granted %+v", grants)
	}
	return given
}

// TestHolderListsBeforeItGrants, and shows that it does, and tells who asks.
func TestHolderListsBeforeItGrants(t *testing.T) {
	d := holderDesk(t, wholly)
	given := d.lists()
	s := d.core.said
	if len(s.Lists) != 1 || !s.Lists[0].Slots.Equal(given) || !s.Linger.Equal(given) || len(s.Granted) != 1 {
		t.Fatalf("said %+v", s)
	}
	two := setOf(16)
	for slot := range given.All() {
		if two.Count() < 2 {
			two.Add(slot)
		}
	}
	answer := sent(d.tells("b", Message{ListAsk: &ListAsk{ID: s.Lists[0].ID, Slots: two}}), "b", listsOf)
	if diff := cmp.Diff([]*Lists{{ID: s.Lists[0].ID, Slots: flowsIn(two, 1)}}, answer, compareAddrs); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if got := sent(d.tells("b", Message{ListAsk: &ListAsk{ID: 12345, Slots: two}}), "b", listsOf); len(got) > 0 {
		t.Errorf("told %+v of a list that there is not", got)
	}
	d.looks(d.core.cfg.newSet())
	d.commits(nil)
	if s := d.core.said; len(s.Lists) > 0 || len(d.core.lists.mine) > 0 || len(d.core.lists.kernel) > 0 {
		t.Errorf("after the last flow: said %+v, kept %+v", s.Lists, d.core.lists.mine)
	}
}

// TestFlowsThatCannotBeListedMoveAtOnce, and so do those for which there is no room.
func TestFlowsThatCannotBeListedMoveAtOnce(t *testing.T) {
	for name, answer := range map[string]FlowsListed{
		"it fails": {Err: errors.New("no conntrack")},
		"no room":  {Beyond: 5},
		"none":     {},
	} {
		d := holderDesk(t, wholly)
		given := d.yields()
		effects := d.step(answer)
		if commit := theCommit(t, effects); len(commit.List) > 0 || states(effects)[Linger] != given.Count() {
			t.Errorf("%s: %+v", name, commit)
		}
		if told := len(effectsOf[Notice](effects)) > 0; told != (name != "none") {
			t.Errorf("%s: said so: %t", name, told)
		}
		if grants := sent(d.commits(nil), "b", grantOf); len(grants) != 1 || len(grants[0].Lists) > 0 {
			t.Errorf("%s: granted %+v", name, grants)
		}
	}
}

// TestNoListOutsideAHandoff: whoever has the buckets of a node that was started again,
// or has given up, knows of no list (pitfall 29).
func TestNoListOutsideAHandoff(t *testing.T) {
	d := holderDesk(t, wholly)
	effects := d.step(WireChanged{Reason: "carrier lost"})
	if got := states(effects); got[Linger] != 16 || len(effectsOf[ListFlows](effects)) > 0 {
		t.Errorf("a node that gives up commits %v", got)
	}
	d.commits(nil)
	if d.core.lists.open || len(d.core.said.Lists) > 0 {
		t.Error("it lists flows")
	}

	d = holderDesk(t, wholly)
	given := d.lists()
	if commit := theCommit(t, d.step(WireChanged{Reason: "carrier lost"})); len(commit.Unlist) != given.Count() || len(commit.List) > 0 {
		t.Errorf("a node that gives up keeps what it has listed: %+v", commit)
	}
}

// TestHeirWaitsForLists before its kernel accepts anything.
func TestHeirWaitsForLists(t *testing.T) {
	d, asked := theirs(t, wholly)
	d.says("c", func(s *Statement) { s.Claims.RemoveAll(asked.Slots); s.Linger = asked.Slots.Clone() })
	one := setOf(16, first(asked.Slots))
	listing := Listing{ID: 5, Slots: one}
	grant := Message{Grant: &Grant{ID: asked.ID, Version: 9, Slots: asked.Slots, Lists: []Keeping{{d.incarnation("c"), 9, listing}}}}
	effects := d.tells("c", grant)
	if commit := theCommit(t, effects); len(commit.Changes) != asked.Slots.Count()-1 {
		t.Errorf("takes %v, want all but %s", commit.Changes, one)
	}
	if ask := sent(effects, "c", listAskOf); len(ask) != 1 || ask[0].ID != 5 || !ask[0].Slots.Equal(one) {
		t.Fatalf("asks %+v", ask)
	}
	d.commits(nil)
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
	commit := theCommit(t, d.tells("c", Message{Lists: &Lists{ID: 5, Slots: flowsIn(one, 1)}}))
	if len(commit.Changes) != 1 || commit.Changes[0].State != Adopt || len(commit.List) != 1 || commit.List[0] != flowIn(first(one), 1) {
		t.Errorf("takes %+v", commit)
	}
	d.commits(nil)

	// The list ends with its keeper's word, though another lingers on.
	d.says("b", func(s *Statement) { s.Linger = one.Clone() })
	commit = theCommit(t, d.says("c", func(s *Statement) { s.Version, s.Linger = 20, setOf(16) }))
	for _, ch := range commit.Changes {
		if ch.Bucket == first(one) && ch.State != Adopt {
			t.Errorf("at the end of the list: %+v", commit)
		}
	}
	if len(commit.Unlist) != 1 || commit.Unlist[0] != flowIn(first(one), 1) || len(commit.List) > 0 {
		t.Errorf("at the end of the list: unlisted %v, listed %v", commit.Unlist, commit.List)
	}
}

// TestHeirDeclinesWithoutLists when it has waited for long enough.
func TestHeirDeclinesWithoutLists(t *testing.T) {
	d, asked := theirs(t, wholly)
	grant := Message{Grant: &Grant{
		ID: asked.ID, Version: 9, Slots: asked.Slots, Lists: []Keeping{{d.incarnation("c"), 9, Listing{5, asked.Slots}}},
	}}
	d.tells("c", grant)
	cancels := sent(d.wait(d.core.cfg.Timing.Agreement+ms), "c", cancelOf)
	if len(cancels) != 1 || !cancels[0].Slots.Equal(asked.Slots) || d.core.want.Intersects(asked.Slots) {
		t.Errorf("declined %+v", cancels)
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
	if got := effectsOf[Commit](d.tells("b", Message{Lists: &Lists{ID: 3, Slots: flowsIn(asked.Slots, 1)}})); len(got) > 0 {
		t.Fatal("takes the buckets with one list of two")
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
	d.commits(nil)
	found := flowsIn(asked.Slots, 1)
	for i, s := range found {
		found[i].Flows = append(s.Flows, flowIn(s.Slot, 2), flowIn(s.Slot, 3))
	}
	commit = theCommit(t, d.step(FlowsListed{Slots: found}))
	if len(commit.List) != asked.Slots.Count() || commit.List[0].Client.Port() != 3 {
		t.Errorf("keeps %v", commit.List)
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
}

// TestOrphansAreTakenWithLists: the adopter has died, the keeper lives.
func TestOrphansAreTakenWithLists(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": everything(16), "c": setOf(16)}, wholly)
	d.says("c", func(s *Statement) {
		s.Linger, s.Lists = everything(16), []Listing{{4, everything(16)}}
	})
	d.step(PeerDead{Name: "b"})
	effects := d.agrees("c")
	if ask := sent(effects, "c", listAskOf); len(ask) != 1 || !ask[0].Slots.Equal(d.core.want) || d.core.open != nil {
		t.Fatalf("asks %+v, commits %+v", ask, d.core.open)
	}
	mine := d.core.want.Clone()
	commit := theCommit(t, d.tells("c", Message{Lists: &Lists{ID: 4, Slots: flowsIn(mine, 1)}}))
	if len(commit.List) != mine.Count() || len(commit.Changes) != mine.Count() || commit.Changes[0].State != Adopt {
		t.Errorf("takes %+v", commit)
	}
}

// TestOrphansAreTakenWithoutListsInTheEnd, and the lists are honoured when they come.
func TestOrphansAreTakenWithoutListsInTheEnd(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": everything(16), "c": setOf(16)}, wholly)
	d.says("c", func(s *Statement) {
		s.Linger, s.Lists = everything(16), []Listing{{4, everything(16)}}
	})
	d.step(PeerDead{Name: "b"})
	d.agrees("c")
	mine := d.core.want.Clone()
	if commit := theCommit(t, d.wait(d.core.cfg.Timing.Agreement+ms)); len(commit.Changes) != mine.Count() || len(commit.List) > 0 {
		t.Errorf("takes %+v", commit)
	}
	d.commits(nil)
	commit := theCommit(t, d.tells("c", Message{Lists: &Lists{ID: 4, Slots: flowsIn(mine, 1)}}))
	if len(commit.List) != mine.Count() || commit.Changes[0].State != Adopt {
		t.Errorf("then lists %+v", commit)
	}
}

// TestListsAreVoidAfterADeath that was none: others may have the flows, so there is no
// lease before the kernel has given them up.
func TestListsAreVoidAfterADeath(t *testing.T) {
	for name, then := range map[string]func(d *desk){
		"active":  func(*desk) {},
		"leaving": func(d *desk) { d.step(Leave{}) },
		"drained": func(d *desk) {
			d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
			d.agrees("b")
			d.tells("b", Message{Request: &Request{ID: 8, Slots: d.core.want.Clone()}})
			d.commits(nil)
			d.step(FlowsListed{})
			d.commits(nil)
		},
		"listing": func(d *desk) {
			d.tells("b", Message{Cancel: &Cancel{ID: 7, Slots: d.owned("b")}})
			d.commits(nil)
			d.tells("b", Message{Request: &Request{ID: 8, Slots: d.owned("b")}})
			d.commits(nil)
			if d.core.lists.kernelYield.Empty() {
				d.t.Fatal("the kernel does not yield")
			}
		},
	} {
		d := holderDesk(t, wholly)
		given := d.lists()
		then(d)
		effects := d.step(HeldDead{Epoch: 1, By: "b"})
		if d.core.Bulletin().Lease {
			t.Errorf("%s: wants the lease while the kernel keeps flows by a list", name)
		}
		for d.core.open != nil {
			effects = append(effects, d.commits(nil)...)
		}
		if len(d.core.lists.kernel) > 0 || len(d.core.said.Lists) > 0 || !d.core.lingering.Intersects(given) {
			t.Errorf("%s: keeps %+v, says %+v, lingers on %s", name, d.core.lists.kernel, d.core.said.Lists, d.core.lingering)
		}
		if !d.core.Bulletin().Lease {
			t.Errorf("%s: wants no lease for what lingers", name)
		}
		// An answer that comes too late lists nothing.
		d.step(FlowsListed{Slots: flowsIn(given, 1)})
		if len(d.core.lists.mine) > 0 {
			t.Errorf("%s: a late answer is a list", name)
		}
	}
}

// TestRefusedListIsTakenBack: the bucket must not wait for a kernel that has no room.
func TestRefusedListIsTakenBack(t *testing.T) {
	d := holderDesk(t, wholly)
	given := d.yields()
	d.step(FlowsListed{Slots: flowsIn(given, 1)})
	effects := d.commits(errors.New("no room"))
	if r := sent(effects, "b", refusalOf); len(r) != 1 || r[0].Reason != CommitFailed {
		t.Errorf("refused %+v", r)
	}
	commit := theCommit(t, d.wait(d.core.cfg.Timing.Retry+ms))
	if len(commit.List) > 0 || commit.Changes[0].State != Own || len(commit.Changes) != given.Count() {
		t.Errorf("then commits %+v", commit)
	}
	d.commits(nil)
	if len(d.core.lists.mine) > 0 {
		t.Error("keeps the list")
	}
}

// TestHeirDiesWhileFlowsAreListed: nobody else has the bucket, so it is taken back.
func TestHeirDiesWhileFlowsAreListed(t *testing.T) {
	d := holderDesk(t, wholly)
	given := d.yields()
	d.alive("c") // without whom no orphan is taken
	d.says("c", func(*Statement) {})
	if got := states(d.step(PeerDead{Name: "b"})); got[Own] != given.Count() {
		t.Errorf("commits %v", got)
	}
	if got := effectsOf[Commit](d.step(FlowsListed{Slots: flowsIn(given, 1)})); len(got) > 0 {
		t.Errorf("the list that comes then makes it commit %+v", got)
	}
}

// TestListsAreBounded: what a node keeps at a time, and one message.
func TestListsAreBounded(t *testing.T) {
	d := holderDesk(t, wholly)
	given := d.yields()
	many := flowsIn(given, 1)
	for i := range many {
		for n := range uint16(1000) {
			many[i].Flows = append(many[i].Flows, flowIn(many[i].Slot, n+2))
		}
	}
	d.step(FlowsListed{Slots: many})
	d.commits(nil)
	parts := sent(d.tells("b", Message{ListAsk: &ListAsk{ID: d.core.said.Lists[0].ID, Slots: given}}), "b", listsOf)
	flows, slots := 0, 0
	for _, p := range parts {
		n := 0
		for _, s := range p.Slots {
			n += len(s.Flows)
			slots++
		}
		if flows += n; n > listsPart {
			t.Errorf("%d flows in one message", n)
		}
	}
	if want := 1001 * given.Count(); flows != want || slots != given.Count() {
		t.Errorf("told %d flows of %d slots, want %d of %d", flows, slots, want, given.Count())
	}
	d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
	d.agrees("b")
	effects := d.tells("b", Message{Request: &Request{ID: 9, Slots: d.core.want.Clone()}})
	effects = append(effects, d.commits(nil)...)
	if list := effectsOf[ListFlows](effects); len(list) != 1 || list[0].Most != MaxListed-flows {
		t.Errorf("then lists %+v, want %d at most", list, MaxListed-flows)
	}
}

func TestFlowListsSurviveTheWire(t *testing.T) {
	list := FlowList{
		flowIn(3, 1),
		{Protocol: 50, Client: netip.MustParseAddrPort("[2001:db8::1]:0"), VIP: netip.MustParseAddrPort("[2001:db8::2]:0")},
	}
	text, err := list.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var got FlowList
	if err := got.UnmarshalText(text); err != nil || !slices.Equal(list, got) {
		t.Errorf("came back as %v, %v", got, err)
	}
	for _, bad := range []string{"!", "EQ", "EQQ", "EQUKAAAB", string(text[:len(text)-1])} {
		if err := got.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was taken for %v", bad, got)
		}
	}
	if _, err := (FlowList{{Protocol: 17}}).MarshalText(); err == nil {
		t.Error("a flow without addresses was written")
	}
}
