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

// yields lets "b" have what is its own, up to where the flows are to be listed.
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
	toCome := []Listing{{listToCome, asked}}
	if diff := cmp.Diff(toCome, d.core.said.Lists); diff != "" {
		d.t.Fatalf("said (-want +got):\n%s", diff)
	}
	grants := sent(effects, "b", grantOf)
	if len(grants) != 1 || !grants[0].Slots.Equal(asked) {
		d.t.Fatalf("granted %+v", grants)
	}
	keeping := []Keeping{{d.core.cfg.Incarnation, d.core.said.Version, toCome[0]}}
	if diff := cmp.Diff(keeping, grants[0].Lists); diff != "" {
		d.t.Fatalf("the grant's lists (-want +got):\n%s", diff)
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
	d.commits(nil)
	return given
}

// TestHolderListsAfterItHasYielded, and shows that it does, and tells who asks.
func TestHolderListsAfterItHasYielded(t *testing.T) {
	d := holderDesk(t, wholly)
	given := d.lists()
	s := d.core.said
	if len(s.Lists) != 1 || s.Lists[0].ID == listToCome || !s.Lists[0].Slots.Equal(given) || !s.Linger.Equal(given) {
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
	for _, id := range []uint64{listToCome, 12345} {
		if got := sent(d.tells("b", Message{ListAsk: &ListAsk{ID: id, Slots: two}}), "b", listsOf); len(got) > 0 {
			t.Errorf("told %+v of a list that there is not", got)
		}
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
		if d.commits(nil); len(d.core.said.Lists) > 0 {
			t.Errorf("%s: says that it keeps %+v", name, d.core.said.Lists)
		}
	}
}

// TestNoListOutsideAHandoff: whoever has the buckets of a node that was started again,
// or has given up, knows of no list.
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

// TestOnlyListedDatagramsLinger: a look counts flows without connections where the kernel
// goes by a list. Elsewhere their packets are dropped, and a server that goes on sending
// would have a bucket linger for ever.
func TestOnlyListedDatagramsLinger(t *testing.T) {
	d := holderDesk(t, wholly)
	given := d.lists()
	listed := func() hashring.Set {
		t.Helper()
		d.step(FlowsFound{Live: given}) // one that is under way
		for range 1000 {
			if found := effectsOf[FindFlows](d.wait(50 * ms)); len(found) > 0 {
				d.step(FlowsFound{Live: given})
				return found[0].Listed
			}
		}
		t.Fatal("nobody looks for flows")
		panic("not reached")
	}
	if got := listed(); !got.Equal(given) {
		t.Errorf("listed: %s, want %s", got, given)
	}
	d.step(HeldDead{Epoch: 1, By: "b"})
	for d.core.open != nil {
		d.commits(nil)
	}
	if got := listed(); !got.Empty() {
		t.Errorf("listed when the lists are void: %s", got)
	}
}

// TestRefusalEndsAVoid: a commit that was open when lists were given up may be refused,
// and none may follow. The kernel keeps nothing by lists then, and the node may serve.
func TestRefusalEndsAVoid(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{}, lingering, wholly)
	if d.core.open == nil {
		t.Fatal("nothing is being committed")
	}
	d.step(WireChanged{Reason: "no carrier"})
	if d.core.Bulletin().Lease {
		t.Error("wants the lease without a wire")
	}
	d.commits(errors.New("no memory"))
	if d.core.open != nil {
		t.Fatalf("commits %+v", d.core.open)
	}
	if d.core.lists.void {
		t.Error("still waits for the kernel to give up lists that it never had")
	}
}

// TestRefusedListIsGivenUp: the kernel may have no room, and the heir waits.
func TestRefusedListIsGivenUp(t *testing.T) {
	d := holderDesk(t, wholly)
	given := d.yields()
	d.step(FlowsListed{Slots: flowsIn(given, 1)})
	d.commits(errors.New("no room"))
	commit := theCommit(t, d.wait(d.core.cfg.Timing.Retry+ms))
	if len(commit.List) > 0 || commit.Changes[0].State != Linger || len(commit.Changes) != given.Count() {
		t.Errorf("then commits %+v", commit)
	}
	if d.commits(nil); len(d.core.lists.mine) > 0 || len(d.core.said.Lists) > 0 {
		t.Error("keeps the list")
	}
}

// TestHeirDiesWhileFlowsAreListed: the holder has its buckets again, and no list.
func TestHeirDiesWhileFlowsAreListed(t *testing.T) {
	d := holderDesk(t, wholly)
	given := d.yields()
	if got := states(d.step(PeerDead{Name: "b"})); got[Own] != given.Count() {
		t.Errorf("commits %v", got)
	}
	if got := effectsOf[Commit](d.step(FlowsListed{Slots: flowsIn(given, 1)})); len(got) > 0 {
		t.Errorf("the list that comes then makes it commit %+v", got)
	}
	if d.commits(nil); len(d.core.said.Lists) > 0 || len(d.core.lists.mine) > 0 {
		t.Errorf("keeps %+v", d.core.lists.mine)
	}
}

// TestBucketComesHomeWarily: it comes back, and goes away again, before the list of
// its last holder is there. What this node kept it keeps.
func TestBucketComesHomeWarily(t *testing.T) {
	d := holderDesk(t, wholly)
	given := d.lists()
	d.tells("b", Message{Confirm: &Confirm{ID: 7, Slots: given}})
	kept := d.core.said.Lists
	asked := sent(d.says("b", func(s *Statement) { s.Claims, s.Phase = given.Clone(), Draining }), "b", requestOf)
	if len(asked) != 1 {
		t.Fatalf("asked %+v", asked)
	}
	back := asked[0].Slots
	d.says("b", func(s *Statement) {
		s.Claims.RemoveAll(back)
		s.Linger, s.Lists = back.Clone(), []Listing{{listToCome, back}}
	})
	commit := theCommit(t, d.tells("b", Message{Grant: &Grant{ID: asked[0].ID, Version: d.said["b"].Version, Slots: back}}))
	if commit.Changes[0].State != Wary || len(commit.List) != back.Count() || commit.List[0] != flowIn(first(back), 1) {
		t.Fatalf("takes %+v", commit)
	}
	d.commits(nil)
	if diff := cmp.Diff(kept, d.core.said.Lists); diff != "" {
		t.Errorf("said (-before +now):\n%s", diff)
	}
	d.says("b", func(s *Statement) { s.Phase = Active })
	d.agrees("b")
	commit = theCommit(t, d.tells("b", Message{Request: &Request{ID: 9, Slots: back}}))
	if commit.Changes[0].State != Linger || len(commit.List) != back.Count() {
		t.Fatalf("gives %+v", commit)
	}
	d.commits(nil)
	if diff := cmp.Diff(kept, d.core.said.Lists); diff != "" || d.core.lists.open {
		t.Errorf("said (-before +now):\n%s", diff)
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

// TestListOfOneBucketFitsAMessage, and that a datagram, where gossip does not reach.
func TestListOfOneBucketFitsAMessage(t *testing.T) {
	d := holderDesk(t, wholly)
	given := d.yields()
	slot := first(given)
	var many FlowList
	for n := range uint16(listsPart + 5) {
		many = append(many, flowIn(slot, n))
	}
	effects := d.step(FlowsListed{Slots: []SlotFlows{{slot, many}}})
	if n := len(theCommit(t, effects).List); n != listsPart || len(effectsOf[Notice](effects)) != 1 {
		t.Errorf("listed %d flows, want %d and a notice", n, listsPart)
	}
	d.commits(nil)
	parts := sent(d.tells("b", Message{ListAsk: &ListAsk{ID: d.core.said.Lists[0].ID, Slots: given}}), "b", listsOf)
	if len(parts) != 1 {
		t.Fatalf("%d parts", len(parts))
	}
	m := Message{From: d.incarnation("a"), Lists: parts[0]}
	if n := len(m.Encode()); n > 60000 {
		t.Errorf("a message of %d bytes", n)
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
