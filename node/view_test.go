package node

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/peervip/peervip/hashring"
)

func drawMember(t *rapid.T, name string) Member {
	unfit := rapid.SliceOfNDistinct(rapid.IntRange(0, 3), 0, 3, rapid.ID).Draw(t, "unfit")
	slices.Sort(unfit)
	return Member{
		Incarnation: Incarnation{name, rapid.Uint64Range(1, 3).Draw(t, "nonce")},
		Weight:      rapid.IntRange(1, 100).Draw(t, "weight"),
		Phase:       rapid.SampledFrom([]Phase{Active, Active, Draining, Drained}).Draw(t, "phase"),
		Unfit:       unfit,
	}
}

func drawMembers(t *rapid.T) []Member {
	var list []Member
	for i := range rapid.IntRange(0, 6).Draw(t, "members") {
		list = append(list, drawMember(t, fmt.Sprintf("n%d", i)))
	}
	return list
}

// TestViewIsItsMembersInAnyOrder: who they are decides, not in which order they
// were heard of.
func TestViewIsItsMembersInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		v := NewView(members)
		if w := NewView(rapid.Permutation(members).Draw(t, "order")); w.Digest() != v.Digest() {
			t.Fatalf("digests %x and %x", v.Digest(), w.Digest())
		}
		for _, m := range members {
			if !v.Has(m.Name) {
				t.Fatalf("%s is missing", m.Name)
			}
		}
		if v.Has("x") || len(v.Members()) != len(members) {
			t.Fatalf("members %v of %v", v.Members(), members)
		}
	})
}

// TestEqualDigestsPlaceAlike is what agreement rests on; and every change that
// could move a bucket must show in the digest.
func TestEqualDigestsPlaceAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		other := slices.Clone(members)
		if len(other) > 0 {
			i := rapid.IntRange(0, len(other)-1).Draw(t, "who")
			other[i] = drawMember(t, other[i].Name)
		}
		v, w := NewView(members), NewView(other)
		if v.Digest() != w.Digest() {
			return
		}
		a, b := v.place(hashring.NewPlacer(32), 4), w.place(hashring.NewPlacer(32), 4)
		for service := range a {
			if a[service].rank != b[service].rank || !a[service].table.Equal(b[service].table) {
				t.Fatalf("%+v and %+v have one digest and place service %d differently", members, other, service)
			}
		}
	})
}

func TestDigestShowsEveryChange(t *testing.T) {
	base := []Member{
		{Incarnation: Incarnation{"a", 1}, Weight: 10, Phase: Active},
		{Incarnation: Incarnation{"b", 2}, Weight: 20, Phase: Active, Unfit: []int{1}},
	}
	seen := map[uint64]string{NewView(base).Digest(): "none"}
	for name, change := range map[string]func([]Member) []Member{
		"a name":       func(m []Member) []Member { m[0].Name = "c"; return m },
		"a nonce":      func(m []Member) []Member { m[0].Nonce = 9; return m },
		"a weight":     func(m []Member) []Member { m[0].Weight = 11; return m },
		"weights":      func(m []Member) []Member { m[0].Weight, m[1].Weight = 20, 10; return m },
		"draining":     func(m []Member) []Member { m[0].Phase = Draining; return m },
		"drained":      func(m []Member) []Member { m[0].Phase = Drained; return m },
		"unfit":        func(m []Member) []Member { m[0].Unfit = []int{1}; return m },
		"more unfit":   func(m []Member) []Member { m[1].Unfit = []int{1, 2}; return m },
		"another's":    func(m []Member) []Member { m[0].Unfit, m[1].Unfit = m[1].Unfit, nil; return m },
		"one less":     func(m []Member) []Member { return m[:1] },
		"nobody":       func(m []Member) []Member { return nil },
		"names merged": func(m []Member) []Member { m[0].Name = "ab"; return m[:1] },
	} {
		d := NewView(change(slices.Clone(base))).Digest()
		if seen[d] != "" {
			t.Errorf("the changes %q and %q have one digest", name, seen[d])
		}
		seen[d] = name
	}
}

// TestPlaceIsForTheBestRank: fit nodes only, or the unfit, or those that drain, or
// nobody; by service.
func TestPlaceIsForTheBestRank(t *testing.T) {
	member := func(name string, phase Phase, unfit ...int) Member {
		return Member{Incarnation: Incarnation{name, 1}, Weight: 10, Phase: phase, Unfit: unfit}
	}
	for _, c := range []struct {
		members []Member
		rank    rank
		owners  []string // of service 0; of service 1, all members are fit
	}{
		{nil, rankNever, []string{""}},
		{[]Member{member("a", Drained)}, rankNever, []string{""}},
		{[]Member{member("a", Drained), member("b", Draining)}, rankHolding, []string{"b"}},
		{[]Member{member("a", Draining), member("b", Draining, 0)}, rankHolding, []string{"a", "b"}},
		{[]Member{member("a", Draining), member("b", Active, 0)}, rankUnfit, []string{"b"}},
		{[]Member{member("a", Active, 0), member("b", Active, 0), member("c", Drained)}, rankUnfit, []string{"a", "b"}},
		{[]Member{member("a", Active), member("b", Active, 0), member("c", Draining)}, rankFit, []string{"a"}},
		{[]Member{member("a", Active), member("b", Active), member("c", Active, 0)}, rankFit, []string{"a", "b"}},
	} {
		pl := NewView(c.members).place(hashring.NewPlacer(64), 2)
		owners := map[string]bool{}
		for b := range 64 {
			owners[pl[0].table.Owner(b)] = true
		}
		if got := sortedKeys(owners); pl[0].rank != c.rank || !slices.Equal(got, c.owners) {
			t.Errorf("%+v: rank %d, owners %q; want %d, %q", c.members, pl[0].rank, got, c.rank, c.owners)
		}
	}
}

// TestOnlyTheUnfitNodesBucketsMove: fitness and drain leave the base alone, so a
// client meets the same node on every port where that node is fit.
func TestOnlyTheUnfitNodesBucketsMove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := []Member{}
		for i := range rapid.IntRange(2, 6).Draw(t, "members") {
			members = append(members, Member{
				Incarnation: Incarnation{fmt.Sprintf("n%d", i), 1}, Weight: rapid.IntRange(1, 100).Draw(t, "weight"), Phase: Active,
			})
		}
		before := NewView(members).place(hashring.NewPlacer(128), 1)[0].table
		out := rapid.IntRange(0, len(members)-1).Draw(t, "out")
		if rapid.Bool().Draw(t, "drained") {
			members[out].Phase = Drained
		} else {
			members[out].Unfit = []int{0}
		}
		after := NewView(members).place(hashring.NewPlacer(128), 1)[0].table
		for b := range 128 {
			was, is := before.Owner(b), after.Owner(b)
			if was != is && was != members[out].Name || is == members[out].Name {
				t.Fatalf("bucket %d went from %s to %s when %s went out", b, was, is, members[out].Name)
			}
		}
	})
}

// TestServicesShareTablesRightly: a table that is shared must be the one that the
// service alone would have.
func TestServicesShareTablesRightly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		for service, pl := range NewView(members).place(hashring.NewPlacer(32), 4) {
			var best rank
			for _, m := range members {
				best = max(best, m.rank(service))
			}
			var alone []hashring.Member
			for _, m := range members {
				alone = append(alone, hashring.Member{
					Name: m.Name, Weight: m.Weight, Fit: best > rankNever && m.rank(service) == best,
				})
			}
			if pl.rank != best || !pl.table.Equal(hashring.Place(32, alone)) {
				t.Fatalf("service %d of %+v", service, members)
			}
		}
	})
}

// One node serves a service of mode single: its holder for as long as nobody is better
// off, or with preempt the one of the highest weight. That choice is part of the
// digest, and who holds it is not.
func TestSoleStaysOrGoes(t *testing.T) {
	members := []Member{
		{Incarnation: Incarnation{"a", 1}, Weight: 10, Phase: Active},
		{Incarnation: Incarnation{"b", 1}, Weight: 30, Phase: Active, Unfit: []int{1}},
		{Incarnation: Incarnation{"c", 1}, Weight: 30, Phase: Active},
		{Incarnation: Incarnation{"d", 1}, Weight: 90, Phase: Draining},
	}
	for _, c := range []struct {
		sole Sole
		want string
	}{
		{Sole{}, "b"}, // of equals the first by name
		{Sole{Holder: "a"}, "a"},
		{Sole{Holder: "a", Preempt: true}, "b"},
		{Sole{Service: 1}, "c"},
		{Sole{Service: 1, Holder: "b"}, "c"}, // which is unfit for it
		{Sole{Holder: "d"}, "b"},             // which drains
		{Sole{Holder: "gone"}, "b"},
	} {
		v := NewView(members, c.sole)
		for _, pl := range v.place(hashring.NewPlacer(16), 2)[c.sole.Service : c.sole.Service+1] {
			for bucket := range 16 {
				if got := pl.table.Owner(bucket); got != c.want {
					t.Fatalf("%+v: bucket %d goes to %q, want %s", c.sole, bucket, got, c.want)
				}
			}
		}
		held := c.sole
		held.Holder = c.want
		if NewView(members, held).Digest() != v.Digest() {
			t.Errorf("%+v: the digest changes when %s has taken it", c.sole, c.want)
		}
	}
	if NewView(members, Sole{Holder: "a"}).Digest() == NewView(members, Sole{Holder: "c"}).Digest() {
		t.Error("two choices have one digest")
	}
}
