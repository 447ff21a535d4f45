package hashring

import (
	"testing"

	"pgregory.net/rapid"
)

// TestPlacerRemembersNothingThatMatters: whatever it has placed before, it places as one
// that has placed nothing, and keeps no more costs than some members' more than the most.
func TestPlacerRemembersNothingThatMatters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		buckets, most := drawBuckets(t), 0
		p := NewPlacer(buckets)
		for range rapid.IntRange(1, 12).Draw(t, "placements") {
			names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-p]`), 0, 12, rapid.ID).Draw(t, "names")
			var members []Member
			for _, name := range names {
				members = append(members, Member{name, rapid.IntRange(0, 3).Draw(t, "weight"), rapid.Bool().Draw(t, "fit")})
			}
			most = max(most, len(members))
			got, want := p.Place(members), Place(buckets, members)
			if !got.Equal(want) {
				t.Fatalf("%v are placed otherwise by a placer that has placed others before", members)
			}
			for _, m := range members {
				if got.Count(m.Name) != want.Count(m.Name) {
					t.Fatalf("%s has %d buckets, want %d", m.Name, got.Count(m.Name), want.Count(m.Name))
				}
			}
			if limit := most + most/2 + 1; p.stride > limit || len(p.columns) > p.stride {
				t.Fatalf("costs of %d members are kept in %d columns, want at most %d", len(p.columns), p.stride, limit)
			}
		}
	})
}
