package hashring

import "math"

// ranking holds the cost of each pair of a bucket and a member.
type ranking struct {
	stride  int
	costs   []uint64 // of bucket b in column c at b*stride + c
	columns []int32  // by member; nobody: it has no weight, and no room either
}

// match writes an owner for each of the buckets, and gives no member more than
// it has room for: the stable matching of Place. There must be as much room, all
// members together, as there are buckets.
//
// It is found by deferred acceptance (Gale and Shapley 1962): a bucket goes to
// the cheapest member that would take it, and a full member takes it in exchange
// for its dearest bucket, which moves on. A member only ever exchanges for the
// better, so what it has turned away it would turn away again, and no bucket
// needs to remember where it has been.
func (r ranking) match(buckets []int32, room []int, owners []int32) {
	taken := make([]seats, len(r.columns))
	backing := make([]seat, len(buckets))
	for m := range taken {
		taken[m] = backing[:0:room[m]]
		backing = backing[room[m]:]
	}
	for _, b := range buckets {
		for b != nobody {
			m, cost := r.cheapest(b, taken)
			owners[b] = int32(m)
			b = taken[m].take(seat{cost, b})
		}
	}
}

// cheapest returns the member of the least cost to the bucket among those that
// would take it; of equals, the first by name.
func (r ranking) cheapest(bucket int32, taken []seats) (member int, cost uint64) {
	member, cost = -1, math.MaxUint64
	row := r.costs[int(bucket)*r.stride:][:r.stride]
	for m, column := range r.columns {
		if column < 0 {
			continue
		}
		if c := row[column]; c < cost && taken[m].wants(seat{c, bucket}) {
			member, cost = m, c
		}
	}
	return member, cost
}

// nobody stands for no member, and for no bucket.
const nobody = -1

// seat is a bucket that a member has, and what it costs there.
type seat struct {
	cost   uint64
	bucket int32
}

func (s seat) dearer(o seat) bool {
	return s.cost > o.cost || s.cost == o.cost && s.bucket > o.bucket
}

// seats are the buckets of one member: a heap with the dearest on top. Its
// capacity is the member's room.
type seats []seat

// wants says whether the member has room for the bucket, or one dearer.
func (h seats) wants(s seat) bool {
	return len(h) < cap(h) || len(h) > 0 && h[0].dearer(s)
}

// take seats a bucket that the member wants and returns the one that loses its
// place to it, or nobody.
func (h *seats) take(s seat) (loser int32) {
	if len(*h) < cap(*h) {
		*h = append(*h, s)
		h.up()
		return nobody
	}
	loser = (*h)[0].bucket
	(*h)[0] = s
	h.down()
	return loser
}

// up moves the last seat to its place in the heap.
func (h seats) up() {
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h[i].dearer(h[parent]) {
			return
		}
		h[i], h[parent] = h[parent], h[i]
		i = parent
	}
}

// down moves the top seat to its place in the heap.
func (h seats) down() {
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h[child+1].dearer(h[child]) {
			child++
		}
		if !h[child].dearer(h[i]) {
			return
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}
