package hashring

import (
	"fmt"
	"iter"
	"math/bits"
	"strconv"
)

// MaxSetCap is the largest capacity of a Set.
const MaxSetCap = MaxSlots

// Set is a set of some of the numbers 0..Cap()-1, one bit each: buckets, or
// slots (service*M + bucket). The zero Set is an empty set of capacity 0: it
// can be read, and nothing can be added to it.
//
// Like a map, a Set is a reference: a copy of the value shares its numbers with
// the original, and what is added to one is in both. Clone makes an independent
// set. Methods may not run beside one that changes the set.
type Set struct {
	n     int      // capacity
	words []uint64 // number i is bit i%64 of word i/64; bits at n and beyond are 0
}

// NewSet returns an empty set over the numbers 0..n-1. It panics if n is
// negative or above MaxSetCap.
func NewSet(n int) Set {
	if n < 0 || n > MaxSetCap {
		panic(fmt.Sprintf("hashring: a set of capacity %d, allowed are 0 to %d", n, MaxSetCap))
	}
	return Set{n: n, words: make([]uint64, (n+63)/64)}
}

// Cap returns the capacity: the set can hold the numbers 0..Cap()-1.
func (s Set) Cap() int { return s.n }

// Add puts i into the set. It panics if i is not in 0..Cap()-1.
func (s Set) Add(i int) {
	if i < 0 || i >= s.n {
		panic(fmt.Sprintf("hashring: adding %d to a set of capacity %d", i, s.n))
	}
	s.words[i/64] |= 1 << (i % 64)
}

// Remove takes i out of the set, if it is there.
func (s Set) Remove(i int) {
	if i >= 0 && i < s.n {
		s.words[i/64] &^= 1 << (i % 64)
	}
}

// Has says whether i is in the set.
func (s Set) Has(i int) bool {
	return i >= 0 && i < s.n && s.words[i/64]&(1<<(i%64)) != 0
}

// Count returns how many numbers are in the set.
func (s Set) Count() int {
	count := 0
	for _, w := range s.words {
		count += bits.OnesCount64(w)
	}
	return count
}

// CountRange returns how many of the numbers from..to-1 are in the set.
func (s Set) CountRange(from, to int) int {
	from, to = max(from, 0), min(to, s.n)
	if from >= to {
		return 0
	}
	first, last := from/64, (to-1)/64
	head := ^uint64(0) << (from % 64)
	tail := ^uint64(0) >> (63 - (to-1)%64)
	if first == last {
		return bits.OnesCount64(s.words[first] & head & tail)
	}
	count := bits.OnesCount64(s.words[first]&head) + bits.OnesCount64(s.words[last]&tail)
	for _, w := range s.words[first+1 : last] {
		count += bits.OnesCount64(w)
	}
	return count
}

// Empty says whether no number is in the set.
func (s Set) Empty() bool {
	for _, w := range s.words {
		if w != 0 {
			return false
		}
	}
	return true
}

// All yields the numbers in the set in ascending order. The set may lose the
// number just yielded, or an earlier one, on the way.
func (s Set) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for k, w := range s.words {
			for ; w != 0; w &= w - 1 {
				if !yield(k*64 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// Clone returns a set of the same capacity and numbers that shares nothing with s.
func (s Set) Clone() Set {
	c := NewSet(s.n)
	copy(c.words, s.words)
	return c
}

// Equal says whether both sets hold the same numbers. Capacities may differ.
func (s Set) Equal(o Set) bool {
	if len(s.words) > len(o.words) {
		s, o = o, s
	}
	for k, w := range s.words {
		if w != o.words[k] {
			return false
		}
	}
	return Set{words: o.words[len(s.words):]}.Empty()
}

// Intersects says whether some number is in both sets.
func (s Set) Intersects(o Set) bool {
	for k := range min(len(s.words), len(o.words)) {
		if s.words[k]&o.words[k] != 0 {
			return true
		}
	}
	return false
}

// AddAll adds the numbers of o to s. It panics if one of them is beyond the
// capacity of s.
func (s Set) AddAll(o Set) {
	if o.n > s.n && o.CountRange(s.n, o.n) > 0 {
		panic(fmt.Sprintf("hashring: adding a set of capacity %d to one of capacity %d", o.n, s.n))
	}
	for k := range min(len(s.words), len(o.words)) {
		s.words[k] |= o.words[k]
	}
}

// RemoveAll takes the numbers of o out of s.
func (s Set) RemoveAll(o Set) {
	for k := range min(len(s.words), len(o.words)) {
		s.words[k] &^= o.words[k]
	}
}

// ToggleAll takes the numbers of o that s has out of it and adds the others: s
// becomes the symmetric difference. It panics if one of them is beyond the
// capacity of s.
func (s Set) ToggleAll(o Set) {
	if o.n > s.n && o.CountRange(s.n, o.n) > 0 {
		panic(fmt.Sprintf("hashring: toggling a set of capacity %d in one of capacity %d", o.n, s.n))
	}
	for k := range min(len(s.words), len(o.words)) {
		s.words[k] ^= o.words[k]
	}
}

// RetainAll takes out of s every number that is not in o.
func (s Set) RetainAll(o Set) {
	for k := range s.words {
		if k < len(o.words) {
			s.words[k] &= o.words[k]
		} else {
			s.words[k] = 0
		}
	}
}

// String returns the numbers as ranges: "0-3,7", and "" for the empty set.
func (s Set) String() string {
	var text []byte
	for from, to := range s.runs() {
		if len(text) > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendInt(text, int64(from), 10)
		if to > from+1 {
			text = append(text, '-')
			text = strconv.AppendInt(text, int64(to-1), 10)
		}
	}
	return string(text)
}
