package hashring

// MaxWeight is the largest weight that counts; a larger one counts as this.
const MaxWeight = 1 << 20

// Member is a node that may own buckets.
type Member struct {
	Name   string
	Weight int  // its share of the buckets relative to the others'; 0 or less: none
	Fit    bool // false: it keeps its place, but its buckets are dealt out to others
}

// Place says which member owns which bucket. It depends on nothing but its
// arguments, not even on the order of the members, and every node computes it
// for itself: to change it is to change the protocol.
//
// The base: every member, fit or not, has a quota, its exact share of the
// buckets by weight (largest remainder, ties by name). All pairs of a bucket and
// a member are taken in order of rising cost (score.go; ties by name, then by
// bucket), and each bucket goes to its first member that still has room. Costs
// rank the members for a bucket and the buckets for a member alike, so this is
// the one stable matching: no bucket and member both cost each other less than
// what they got.
//
// Then the buckets of members that are not fit are dealt out to the fit ones in
// the same way, with room for what brings each nearest to its share among the
// fit. So a fit member has all of its base, whoever else is fit or not, and
// somebody's return to fitness gives it back exactly that.
//
// The price: if unfit members hold less than their exact shares, by fractions of
// a bucket each, there is less to deal out than the fit ones lack, and one of
// them may stay short of its share among the fit by more than a bucket. Nobody is
// ever above it by a whole one, and with equal weights nobody is short by one.
// (To keep every share within one and two members' shares apart from what a third
// does is more than an apportionment can: Balinski and Young, "Fair
// Representation", 1982.)
//
// If nobody of a weight above 0 is fit, no bucket has an owner; for the base in
// that case, call Place with everybody fit. Two members of one name are a
// panic, and so is one without a name.
func Place(buckets int, members []Member) Table { return NewPlacer(buckets).Place(members) }

// apportion hands out that many buckets, one at a time, each to the member that
// lacks most of its exact share by weight of all buckets, those that members
// have already and those handed out (ties to the first), and returns how many
// each was given. With nothing had before, this is the method of the largest
// remainder. Members of weight 0 get nothing; one at least must have a weight.
func apportion(buckets int, weights []int64, have []int) []int {
	given := make([]int, len(weights))
	total := int64(buckets)
	for _, h := range have {
		total += int64(h)
	}
	all := sum(weights)
	// What is lacking, times the sum of the weights: all integers.
	lack := make([]int64, len(weights))
	for i, w := range weights {
		lack[i] = total*w - int64(have[i])*all
	}
	// Of a member that lacks k buckets and more, so many more come before anybody gets one
	// of which it lacks less. So all can have these at once.
	rest := buckets
	for k := int64(0); ; k++ {
		once := int64(0)
		for _, l := range lack {
			once += max(0, l/all-k)
		}
		if once > int64(buckets) {
			continue
		}
		for i, l := range lack {
			given[i] = int(max(0, l/all-k))
			lack[i] -= int64(given[i]) * all
			rest -= given[i]
		}
		break
	}
	for range rest {
		most := -1
		for i, w := range weights {
			if w > 0 && (most < 0 || lack[i] > lack[most]) {
				most = i
			}
		}
		given[most]++
		lack[most] -= all
	}
	return given
}

func sum(values []int64) (total int64) {
	for _, v := range values {
		total += v
	}
	return total
}
