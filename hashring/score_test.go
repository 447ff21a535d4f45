package hashring

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestIntegerLogarithmIsOne(t *testing.T) {
	// Linear steps of 1/256 are off by at most (1/256)^2 / (8 ln 2).
	const off = 1.0 / 256 / 256 / 8 / math.Ln2 * 1.01
	rapid.Check(t, func(t *rapid.T) {
		h := rapid.Uint64Range(1, math.MaxUint64).Draw(t, "h") >> rapid.IntRange(0, 63).Draw(t, "shift")
		h = max(h, 1)
		got := float64(negLog2(h)) / (1 << logFraction)
		want := 64 - math.Log2(float64(h))
		if math.Abs(got-want) > off {
			t.Fatalf("-log2(%#x / 2^64) = %v, want %v", h, got, want)
		}
	})
	for h, want := range map[uint64]uint64{
		0:              64 << logFraction,
		1:              64 << logFraction,
		1 << 32:        32 << logFraction,
		1 << 63:        1 << logFraction,
		math.MaxUint64: 1, // less than half a unit, rounded up
	} {
		if got := negLog2(h); got > want || want > 1 && got != want {
			t.Errorf("negLog2(%#x) = %#x, want %#x", h, got, want)
		}
	}
}

func TestIntegerLogarithmFalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := rapid.Uint64().Draw(t, "h")
		d := rapid.Uint64Range(0, 1<<rapid.IntRange(0, 63).Draw(t, "magnitude")).Draw(t, "d")
		if more := h + d; more >= h && negLog2(more) > negLog2(h) {
			t.Fatalf("negLog2(%#x) is above negLog2(%#x)", more, h)
		}
	})
}

// The least of exponential variates is each one's with the probability of its
// share of the weights, which is what makes the hashing weighted.
func TestCheapestMemberIsInProportionToTheWeights(t *testing.T) {
	const buckets = 100_000
	names, weights := []string{"a", "b", "c", "d"}, []int64{1, 10, 39, 50}
	r := NewPlacer(buckets).ranking(names, weights)
	won := make([]float64, len(names))
	for b := range buckets {
		cheapest := 0
		for m := range names {
			if r.of(int32(b), m) < r.of(int32(b), cheapest) {
				cheapest = m
			}
		}
		won[cheapest]++
	}
	for m, w := range weights {
		p := float64(w) / 100
		deviation := math.Sqrt(buckets * p * (1 - p))
		if got := math.Abs(won[m] - buckets*p); got > 5*deviation {
			t.Errorf("weight %d %% is cheapest for %.0f of %d buckets: %.1f standard deviations off", w, won[m], buckets, got/deviation)
		}
	}
}

func TestNoTwoPairsShareAKey(t *testing.T) {
	seen := map[uint64]string{}
	for _, name := range []string{"", "\x00", "1", "11", "a", "a\x00", "\x01\x00\x00\x00"} {
		s := newScorer(name, 1)
		for bucket := range 300 {
			c := s.cost(bucket)
			if other, twice := seen[c]; twice {
				t.Fatalf("%q and bucket %d cost what %q costs", name, bucket, other)
			}
			seen[c] = name
		}
	}
}
