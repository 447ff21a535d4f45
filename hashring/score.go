package hashring

import (
	"encoding/binary"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// The score behind the placement: weighted rendezvous hashing. Each pair of a
// bucket and a member gets a hash, read as a number u uniform in (0, 1], and
//
//	cost = -log2(u) / weight
//
// is then exponentially distributed with a rate proportional to the weight. The
// least of several independent exponential variates belongs to each of them with
// probability rate / sum of rates, so a member is a bucket's cheapest in
// proportion to its weight, and a change of one weight alters no other member's
// costs. (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA
// 2005, their logarithmic method; Resch, "New Hashing Algorithms for Data
// Storage", SDC 2015.)
//
// All nodes must find the same least cost, so costs are integers: a compiler may
// fuse floating-point operations on one architecture and not on another.

// logFraction is how many bits of a fixed-point logarithm are behind the point.
// 7 are before it: -log2(u) is at most 64.
const logFraction = 56

// logSteps is the number of steps of the logarithm's table, a power of two.
const (
	logStepBits = 8
	logSteps    = 1 << logStepBits
)

// logTable[k] is log2(1 + k/logSteps) in fixed point.
var logTable = makeLogTable()

// makeLogTable finds the binary digits of each logarithm one at a time: squaring
// x doubles log2(x), and a digit is 1 where the square reaches 2. The last few
// digits are off where truncation has piled up; they are the same everywhere.
func makeLogTable() (table [logSteps + 1]uint64) {
	for k := range logSteps {
		x := uint64(logSteps+k) << (63 - logStepBits) // 1 <= x < 2, 63 bits behind the point
		var log uint64
		for range logFraction {
			hi, lo := bits.Mul64(x, x) // 1 <= x*x < 4, 62 bits behind the point in hi
			log <<= 1
			if hi>>63 == 1 {
				log |= 1
				x = hi
			} else {
				x = hi<<1 | lo>>63
			}
		}
		table[k] = log
	}
	table[logSteps] = 1 << logFraction
	return table
}

// negLog2 returns -log2(h / 2^64) with logFraction bits behind the point, to
// about 3e-6, and falls as h grows. 0 counts as 1.
func negLog2(h uint64) uint64 {
	h = max(h, 1)
	zeros := bits.LeadingZeros64(h)
	h <<= zeros + 1 // behind the leading one: h / 2^64 is what exceeds 1
	step := h >> (64 - logStepBits)
	rise, _ := bits.Mul64(logTable[step+1]-logTable[step], h<<logStepBits)
	return uint64(zeros+1)<<logFraction - logTable[step] - rise
}

// scorer computes costs for one member.
type scorer struct {
	weight uint64
	key    []byte // bucket (4 bytes, little-endian), then name: no two pairs share a key
}

func newScorer(name string, weight int64) scorer {
	return scorer{uint64(weight), append(make([]byte, 4, 4+len(name)), name...)}
}

func (s scorer) cost(bucket int) uint64 {
	binary.LittleEndian.PutUint32(s.key, uint32(bucket))
	return negLog2(xxhash.Sum64(s.key)) / s.weight
}
