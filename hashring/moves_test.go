package hashring

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// cluster returns n fit members of weight 100, with names that r makes.
func cluster(r *rand.Rand, n int) []Member {
	var members []Member
	for i := range n {
		members = append(members, Member{fmt.Sprintf("node%d-%08x", i, r.Uint32()), 100, true})
	}
	return members
}

// moves counts the buckets whose owner differs: those that belonged to the named
// member before, and the others.
func moves(before, after Table, name string) (own, beyond int) {
	for b := range before.Len() {
		switch {
		case before.Owner(b) == after.Owner(b):
		case before.Owner(b) == name:
			own++
		default:
			beyond++
		}
	}
	return own, beyond
}

// What quotas cost beside plain rendezvous hashing: a death also moves some
// buckets between survivors. Counted against the dead one's own buckets, over
// many clusters. Seen the other way it is what a join moves.
func TestDeathMovesLittleBeyondItsOwnBuckets(t *testing.T) {
	const buckets, clusters = 1024, 200
	for _, c := range []struct {
		nodes       int
		least, most float64 // percent of the dead one's own
	}{
		{2, 0, 0},
		{3, 0.5, 4},
		{4, 2, 6},   // the design: 3.5
		{8, 10, 20}, // the design: 16
		{16, 20, 50},
	} {
		r := rand.New(rand.NewPCG(uint64(c.nodes), 1))
		var own, beyond int
		for range clusters {
			members := cluster(r, c.nodes)
			before := Place(buckets, members)
			o, b := moves(before, Place(buckets, members[1:]), members[0].Name)
			if o != before.Count(members[0].Name) {
				t.Fatalf("%d buckets of the dead one moved, it had %d", o, before.Count(members[0].Name))
			}
			own, beyond = own+o, beyond+b
		}
		more := 100 * float64(beyond) / float64(own)
		t.Logf("%d nodes: a death moves %.1f %% more than its own buckets (%.2f %% of all)", c.nodes, more, 100*float64(beyond)/(buckets*clusters))
		if more < c.least || more > c.most {
			t.Errorf("%d nodes: %.1f %% more, want %v to %v", c.nodes, more, c.least, c.most)
		}
	}
}

// Unfitness moves no bucket of anybody's base. What it may move, when others are
// unfit already, is theirs that were dealt out.
func TestUnfitnessMovesOnlyWhatIsDealtOut(t *testing.T) {
	const buckets, nodes, clusters = 1024, 8, 200
	r := rand.New(rand.NewPCG(nodes, 2))
	var second, moved int
	for range clusters {
		members := cluster(r, nodes)
		none := Place(buckets, members)
		members[0].Fit = false
		one := Place(buckets, members)
		if own, beyond := moves(none, one, members[0].Name); own != none.Count(members[0].Name) || beyond != 0 {
			t.Fatalf("the first unfit one moves %d of its %d buckets and %d others", own, none.Count(members[0].Name), beyond)
		}
		members[1].Fit = false
		own, beyond := moves(one, Place(buckets, members), members[1].Name)
		second, moved = second+own, moved+beyond
	}
	more := 100 * float64(moved) / float64(second)
	t.Logf("%d nodes: the second unfit one moves %.1f %% more than its own buckets", nodes, more)
	if more > 25 {
		t.Errorf("the second unfit one moves %.1f %% more than its own", more)
	}
}

// A changed weight moves at least the buckets by which the shares change.
func TestChangeOfWeightMovesLittle(t *testing.T) {
	const buckets, nodes, clusters = 1024, 4, 200
	r := rand.New(rand.NewPCG(nodes, 3))
	var least, moved int
	for range clusters {
		members := cluster(r, nodes)
		before := Place(buckets, members)
		members[0].Weight = 50
		after := Place(buckets, members)
		own, beyond := moves(before, after, members[0].Name)
		moved += own + beyond
		least += before.Count(members[0].Name) - after.Count(members[0].Name)
	}
	more := 100 * float64(moved-least) / float64(least)
	t.Logf("%d nodes: halving a weight moves %.1f %% more than the shares need", nodes, more)
	if more > 15 {
		t.Errorf("halving a weight moves %.1f %% more than the shares need", more)
	}
}
