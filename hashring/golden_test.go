package hashring

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	gocmp "github.com/google/go-cmp/cmp"
)

// The placement is part of the protocol: nodes of different versions and
// architectures must compute the same. Whoever makes this test fail makes a
// cluster disagree while it is upgraded.
func TestPlacementIsPinned(t *testing.T) {
	three := []Member{{"web-1", 100, true}, {"web-2", 100, true}, {"web-3", 100, true}}
	weighted := []Member{{"a", 1, true}, {"b", 2, true}, {"c", 5, true}, {"d", 0, true}}
	for what, c := range map[string]struct {
		buckets int
		members []Member
		want    map[string]string // buckets by name
	}{
		"three equal": {16, three, map[string]string{
			"web-1": "0-1,9,11,14-15",
			"web-2": "3,6-7,10,12",
			"web-3": "2,4-5,8,13",
		}},
		"the second unfit": {16, with(three, func(m Member) bool { return m.Name != "web-2" }), map[string]string{
			"web-1": "0-1,3,7,9,11,14-15",
			"web-2": "",
			"web-3": "2,4-6,8,10,12-13",
		}},
		"weights 1, 2, 5, 0": {37, weighted, map[string]string{
			"a": "1,5,18,21,28",
			"b": "4,10-11,17,20,24,26,29,32",
			"c": "0,2-3,6-9,12-16,19,22-23,25,27,30-31,33-36",
			"d": "",
		}},
	} {
		table := Place(c.buckets, c.members)
		got := map[string]string{}
		for _, m := range c.members {
			got[m.Name] = table.Buckets(m.Name).String()
		}
		if diff := gocmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// The same for larger clusters, by a hash over the owners' names.
func TestLargePlacementIsPinned(t *testing.T) {
	for _, c := range []struct {
		nodes, buckets int
		want           uint64
	}{
		{8, 1024, 0xc5c7f8632e2ec842},
		{64, 16384, 0xb09518cf6ad6a2cb},
	} {
		var members []Member
		for i := range c.nodes {
			members = append(members, Member{fmt.Sprintf("node-%d", i), 50 + i%7*10, i%5 != 3})
		}
		got := xxhash.Sum64String(strings.Join(owners(Place(c.buckets, members)), "\n"))
		if got != c.want {
			t.Errorf("%d nodes, %d buckets: %#x, want %#x", c.nodes, c.buckets, got, c.want)
		}
	}
}

func BenchmarkPlace(b *testing.B) {
	for _, c := range []struct{ nodes, buckets int }{{3, 1024}, {64, 1024}, {64, 16384}} {
		var members []Member
		for i := range c.nodes {
			members = append(members, Member{fmt.Sprintf("web-%d", i), 100, true})
		}
		for _, unfit := range []int{0, c.nodes / 3} {
			b.Run(fmt.Sprintf("%d nodes, %d unfit, %d buckets", c.nodes, unfit, c.buckets), func(b *testing.B) {
				for i := range members {
					members[i].Fit = i >= unfit
				}
				b.ReportAllocs()
				for b.Loop() {
					Place(c.buckets, members)
				}
			})
		}
	}
}

// BenchmarkNextPlace: a placement after another, with one member that has gone, come, or
// got another weight.
func BenchmarkNextPlace(b *testing.B) {
	for _, c := range []struct{ nodes, buckets int }{{3, 1024}, {64, 1024}, {64, 16384}} {
		var members []Member
		for i := range c.nodes {
			members = append(members, Member{fmt.Sprintf("web-%d", i), 100, true})
		}
		for what, change := range map[string]func(i int) []Member{
			"death and return": func(i int) []Member { return members[i%2:] },
			"drain":            func(i int) []Member { members[1].Fit = i%2 == 0; return members },
			"weight":           func(i int) []Member { members[0].Weight = 10 + i%50; return members },
		} {
			b.Run(fmt.Sprintf("%s, %d nodes, %d buckets", what, c.nodes, c.buckets), func(b *testing.B) {
				p := NewPlacer(c.buckets)
				p.Place(members)
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					i++
					p.Place(change(i))
				}
			})
		}
	}
}
