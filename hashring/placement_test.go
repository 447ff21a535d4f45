package hashring

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	gocmp "github.com/google/go-cmp/cmp"
)

// drawMembers draws up to 12 members of all kinds: weights equal, ordinary,
// extreme or 0, fit or not.
func drawMembers(t *rapid.T) []Member {
	weight := rapid.SampledFrom([]*rapid.Generator[int]{
		rapid.Just(100),
		rapid.IntRange(1, 10),
		rapid.IntRange(0, 3),
		rapid.SampledFrom([]int{1, 2, 50, 1000, MaxWeight}),
		rapid.IntRange(-1, 2*MaxWeight),
	}).Draw(t, "kind of weights")
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9]{0,3}`), 0, 12, rapid.ID).Draw(t, "names")
	var members []Member
	for _, name := range names {
		members = append(members, Member{name, weight.Draw(t, "weight"), rapid.Bool().Draw(t, "fit")})
	}
	return members
}

func drawBuckets(t *rapid.T) int {
	return rapid.SampledFrom([]int{0, 1, 2, 16, 61, 128, 300}).Draw(t, "buckets")
}

// with returns the members with fitness as the function says.
func with(members []Member, fit func(Member) bool) []Member {
	changed := slices.Clone(members)
	for i := range changed {
		changed[i].Fit = fit(changed[i])
	}
	return changed
}

func allFit(members []Member) []Member {
	return with(members, func(Member) bool { return true })
}

func owners(t Table) []string {
	var names []string
	for b := range t.Len() {
		names = append(names, t.Owner(b))
	}
	return names
}

func TestPlacementIsTheSameForAnyOrderOfMembers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, buckets := drawMembers(t), drawBuckets(t)
		want := Place(buckets, members)
		before := slices.Clone(members)
		got := Place(buckets, rapid.Permutation(members).Draw(t, "other order"))
		if diff := gocmp.Diff(owners(want), owners(got), cmpopts.EquateEmpty()); diff != "" || !got.Equal(want) {
			t.Fatalf("another order, other owners: %s", diff)
		}
		if !slices.Equal(members, before) {
			t.Fatal("Place changed its argument")
		}
	})
}

func TestTableAgreesWithItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, buckets := drawMembers(t), drawBuckets(t)
		table := Place(buckets, members)
		if table.Len() != buckets {
			t.Fatalf("%d buckets, want %d", table.Len(), buckets)
		}
		owned := 0
		for _, m := range members {
			set := table.Buckets(m.Name)
			if set.Cap() != buckets || set.Count() != table.Count(m.Name) {
				t.Fatalf("%s: %d buckets of %d in the set, count %d", m.Name, set.Count(), set.Cap(), table.Count(m.Name))
			}
			for b := range set.All() {
				if table.Owner(b) != m.Name {
					t.Fatalf("bucket %d of %s is owned by %q", b, m.Name, table.Owner(b))
				}
			}
			if set.Count() > 0 && (!m.Fit || m.Weight <= 0) {
				t.Fatalf("%+v owns %v", m, set)
			}
			owned += set.Count()
		}
		want := buckets
		if !slices.ContainsFunc(members, func(m Member) bool { return m.Fit && m.Weight > 0 }) {
			want = 0
		}
		if owned != want {
			t.Fatalf("%d buckets have an owner, want %d", owned, want)
		}
		if table.Count("nobody's name") != 0 || !table.Buckets("nobody's name").Empty() {
			t.Fatal("somebody unknown owns buckets")
		}
	})
}

// share is a member's exact share of the buckets among the members that satisfy
// the condition, as a fraction.
func share(buckets int, m Member, members []Member, among func(Member) bool) (part, whole int64) {
	for _, o := range members {
		if among(o) {
			whole += clamped(o)
		}
	}
	return int64(buckets) * clamped(m), whole
}

func clamped(m Member) int64 { return int64(min(max(m.Weight, 0), MaxWeight)) }

func TestBaseSharesAreExactToOneBucketForAnyWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, buckets := allFit(drawMembers(t)), drawBuckets(t)
		table := Place(buckets, members)
		for _, m := range members {
			part, whole := share(buckets, m, members, func(Member) bool { return true })
			if whole == 0 {
				continue
			}
			if off := int64(table.Count(m.Name))*whole - part; off <= -whole || off >= whole {
				t.Fatalf("%s has %d buckets, its share is %d/%d", m.Name, table.Count(m.Name), part, whole)
			}
		}
	})
}

func TestBaseSharesAreByLargestRemainder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, buckets := allFit(drawMembers(t)), drawBuckets(t)
		members = slices.DeleteFunc(members, func(m Member) bool { return m.Weight <= 0 })
		if len(members) == 0 {
			return
		}
		// The textbook: whole parts first, then one each by falling remainder.
		slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
		want, left := map[string]int{}, buckets
		remainder := map[string]int64{}
		for _, m := range members {
			part, whole := share(buckets, m, members, func(Member) bool { return true })
			want[m.Name], remainder[m.Name] = int(part/whole), part%whole
			left -= int(part / whole)
		}
		slices.SortStableFunc(members, func(a, b Member) int {
			return cmp.Compare(remainder[b.Name], remainder[a.Name])
		})
		for _, m := range members[:left] {
			want[m.Name]++
		}
		table := Place(buckets, members)
		for _, m := range members {
			if table.Count(m.Name) != want[m.Name] {
				t.Fatalf("%s has %d buckets, want %d", m.Name, table.Count(m.Name), want[m.Name])
			}
		}
	})
}

func fit(m Member) bool { return m.Fit }

// Among the fit nobody is a whole bucket above its share; and somebody lacks a
// whole one only if no bucket could be dealt differently: whoever is above its
// share has no more than its base.
func TestSharesAmongTheFitAreAsExactAsTheBaseAllows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, buckets := drawMembers(t), drawBuckets(t)
		base, table := Place(buckets, allFit(members)), Place(buckets, members)
		lacks, dealtAbove := false, false
		for _, m := range members {
			part, whole := share(buckets, m, members, fit)
			if !m.Fit || whole == 0 {
				continue
			}
			off := int64(table.Count(m.Name))*whole - part
			if off >= whole {
				t.Fatalf("%s has %d buckets, its share among the fit is %d/%d", m.Name, table.Count(m.Name), part, whole)
			}
			lacks = lacks || off <= -whole
			dealtAbove = dealtAbove || off > 0 && table.Count(m.Name) > base.Count(m.Name)
		}
		if lacks && dealtAbove {
			t.Fatal("somebody lacks a bucket that was dealt to another beyond its share")
		}
	})
}

func TestSharesAmongTheFitAreExactToOneBucketForEqualWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, buckets := drawMembers(t), drawBuckets(t)
		for i := range members {
			members[i].Weight = 7
		}
		table, low, high := Place(buckets, members), buckets, 0
		for _, m := range members {
			if m.Fit {
				low, high = min(low, table.Count(m.Name)), max(high, table.Count(m.Name))
			}
		}
		if high > low+1 {
			t.Fatalf("equal members have %d to %d buckets", low, high)
		}
	})
}

func TestSharesAmongTheFitAreExactToOneBucketForOrdinaryWeights(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	worst := 0.0
	for range 3000 {
		var members []Member
		for i := range 2 + r.IntN(15) {
			members = append(members, Member{fmt.Sprint("n", i), 1 + r.IntN(99), r.IntN(3) > 0})
		}
		table := Place(128, members)
		for _, m := range members {
			if part, whole := share(128, m, members, fit); m.Fit {
				worst = max(worst, float64(part)/float64(whole)-float64(table.Count(m.Name)))
			}
		}
	}
	t.Logf("the largest lack is %.2f buckets", worst)
	if worst >= 1 {
		t.Errorf("somebody lacks %.2f buckets", worst)
	}
}

// The corner that the doc of Place speaks of: ten unfit members with a share of
// 0.4 buckets each hold none, so there is nothing to deal out to the heavy one.
func TestShareAmongTheFitMayLackTwoBucketsInACorner(t *testing.T) {
	members := []Member{{"heavy", 60, true}}
	for i := range 10 {
		members = append(members, Member{fmt.Sprint("light", i), 4, false}, Member{fmt.Sprint("medium", i), 6, true})
	}
	table := Place(16, members)
	part, whole := share(16, members[0], members, fit)
	if table.Count("heavy") != 6 || part != 8*whole || table.Count("medium0") != 1 {
		t.Errorf("the heavy one has %d buckets of its share %d/%d, a medium one %d", table.Count("heavy"), part, whole, table.Count("medium0"))
	}
}

func TestFitMembersKeepTheirBaseWhoeverIsUnfit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, buckets := drawMembers(t), drawBuckets(t)
		base, table := Place(buckets, allFit(members)), Place(buckets, members)
		for _, m := range members {
			lost := base.Buckets(m.Name)
			lost.RemoveAll(table.Buckets(m.Name))
			if m.Fit && !lost.Empty() {
				t.Fatalf("%s is fit and has lost %v of its base", m.Name, lost)
			}
		}
	})
}

func TestBucketsOfAnUnfitMemberComeBackExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, buckets := drawMembers(t), drawBuckets(t)
		if len(members) == 0 {
			return
		}
		base := Place(buckets, allFit(members))
		returns := rapid.IntRange(0, len(members)-1).Draw(t, "who returns")
		members[returns].Fit = false
		before := Place(buckets, members)
		members[returns].Fit = true
		after := Place(buckets, members)
		for b := range buckets {
			switch owner := base.Owner(b); owner {
			case "": // nobody has a weight
			case members[returns].Name:
				if after.Owner(b) != owner {
					t.Fatalf("bucket %d of %s belongs to %q", b, owner, after.Owner(b))
				}
			case before.Owner(b):
				if after.Owner(b) != owner {
					t.Fatalf("bucket %d of %s belongs to %q, since another is fit again", b, owner, after.Owner(b))
				}
			}
		}
	})
}

func TestMemberWithoutWeightChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, buckets := drawMembers(t), drawBuckets(t)
		with := append(slices.Clone(members), Member{Name: "zzzz", Weight: 0, Fit: rapid.Bool().Draw(t, "fit")})
		if !Place(buckets, with).Equal(Place(buckets, members)) {
			t.Fatal("a member of weight 0 changed the owners")
		}
	})
}

func TestWeightsCountOnlyInProportion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, buckets := drawMembers(t), drawBuckets(t)
		scaled := slices.Clone(members)
		for i := range members {
			members[i].Weight = min(members[i].Weight, MaxWeight/10)
			scaled[i].Weight = members[i].Weight * 10
		}
		if !Place(buckets, members).Equal(Place(buckets, scaled)) {
			t.Fatal("ten times the weights, other owners")
		}
	})
}

func TestPlacementWithoutAnybodyToOwnHasNoOwners(t *testing.T) {
	for what, members := range map[string][]Member{
		"nobody":                {},
		"nobody fit":            {{"a", 100, false}, {"b", 100, false}},
		"no weight":             {{"a", 0, true}, {"b", -5, true}},
		"only the unfit weighs": {{"a", 0, true}, {"b", 100, false}},
	} {
		table := Place(16, members)
		for b := range table.Len() {
			if table.Owner(b) != "" {
				t.Errorf("%s: bucket %d belongs to %q", what, b, table.Owner(b))
			}
		}
		if table.Len() != 16 || table.Count("a")+table.Count("b") != 0 {
			t.Errorf("%s: %d buckets, %d and %d owned", what, table.Len(), table.Count("a"), table.Count("b"))
		}
	}
}

func TestOneFitMemberHasEverything(t *testing.T) {
	table := Place(1024, []Member{{"a", 1, true}, {"b", 1000, false}, {"c", 0, true}})
	if table.Count("a") != 1024 || table.Owner(0) != "a" {
		t.Errorf("the one fit member has %d of 1024 buckets", table.Count("a"))
	}
}

func TestNamesMustTellMembersApart(t *testing.T) {
	if !panics(func() { Place(16, []Member{{"a", 1, true}, {"b", 1, true}, {"a", 2, false}}) }) {
		t.Error("two of one name: no panic")
	}
	if !panics(func() { Place(16, []Member{{"", 1, true}}) }) {
		t.Error("no name: no panic")
	}
}
