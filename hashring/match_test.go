package hashring

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// of is what the bucket costs at the member.
func (r ranking) of(bucket int32, member int) uint64 {
	if r.columns[member] == nobody {
		return 0
	}
	return r.costs[int(bucket)*r.stride+int(r.columns[member])]
}

// naiveMatch is the definition: all pairs in order of rising cost, then name,
// then bucket; each bucket to its first member that still has room.
func naiveMatch(r ranking, buckets []int32, room []int, owners []int32) {
	type pair struct {
		cost   uint64
		member int
		bucket int32
	}
	var pairs []pair
	for _, b := range buckets {
		for m := range room {
			pairs = append(pairs, pair{r.of(b, m), m, b})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.cost, b.cost), cmp.Compare(a.member, b.member), cmp.Compare(a.bucket, b.bucket))
	})
	left := slices.Clone(room)
	placed := map[int32]bool{}
	for _, p := range pairs {
		if !placed[p.bucket] && left[p.member] > 0 {
			owners[p.bucket] = int32(p.member)
			placed[p.bucket] = true
			left[p.member]--
		}
	}
}

func TestMatchIsAllPairsInOrderOfCost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total, members := drawBuckets(t), rapid.IntRange(1, 9).Draw(t, "members")
		// Few different costs make many ties; many make hardly any.
		cost := rapid.Uint64Range(0, rapid.SampledFrom([]uint64{1, 5, 1 << 60}).Draw(t, "highest cost"))
		seed := rapid.SliceOfN(cost, 1, 40).Draw(t, "costs")
		r := ranking{stride: members, costs: make([]uint64, total*members)}
		for m := range members {
			r.columns = append(r.columns, int32(m))
		}
		for i := range r.costs {
			r.costs[i] = seed[(i*i+i/7)%len(seed)]
		}
		// Some of the buckets, and room for them dealt at random.
		var buckets []int32
		room := make([]int, members)
		some := rapid.IntRange(1, 4).Draw(t, "one bucket in")
		for b := range total {
			if b%some == 0 {
				buckets = append(buckets, int32(b))
				room[rapid.IntRange(0, members-1).Draw(t, "room")]++
			}
		}
		got, want := make([]int32, total), make([]int32, total)
		r.match(buckets, room, got)
		naiveMatch(r, buckets, room, want)
		if !slices.Equal(got, want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
	})
}

// The same with the costs and quotas of real members, both stages of Place.
func TestPlacementIsAllPairsInOrderOfCost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, buckets := drawMembers(t), drawBuckets(t)
		slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
		table := Place(buckets, members)

		var names []string
		var weights, fitWeights []int64
		for _, m := range members {
			names, weights = append(names, m.Name), append(weights, clamped(m))
			if m.Fit {
				fitWeights = append(fitWeights, clamped(m))
			} else {
				fitWeights = append(fitWeights, 0)
			}
		}
		if sum(fitWeights) == 0 {
			return
		}
		r := NewPlacer(buckets).ranking(names, weights)
		base := Place(buckets, allFit(members))
		var all, orphans []int32
		var quota, room []int
		want := make([]int32, buckets)
		for _, m := range members {
			quota = append(quota, base.Count(m.Name))
			room = append(room, 0)
			if m.Fit {
				room[len(room)-1] = table.Count(m.Name) - base.Count(m.Name)
			}
		}
		for b := range buckets {
			all = append(all, int32(b))
		}
		naiveMatch(r, all, quota, want)
		for b, m := range want {
			if names[m] != base.Owner(b) {
				t.Fatalf("bucket %d of the base: %s, want %s", b, base.Owner(b), names[m])
			}
			if !members[m].Fit {
				orphans = append(orphans, int32(b))
			}
		}
		naiveMatch(r, orphans, room, want)
		for b, m := range want {
			if names[m] != table.Owner(b) {
				t.Fatalf("bucket %d: %s, want %s", b, table.Owner(b), names[m])
			}
		}
	})
}
