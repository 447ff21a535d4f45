package hashring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
)

// The short form of a sparse set. A set of few numbers is written as its runs: how many
// numbers are missing before each, and how many are in it. Both are written in Rice's
// code, which comes near to what random numbers need: 16 of 1024 take some 16 bytes,
// where a bit for each number takes 128. (R. F. Rice, "Some Practical Universal Noiseless
// Coding Techniques", JPL 79-22, 1979.)

// runs yields the runs of the set in order: the first number, and the one after the last.
func (s Set) runs() iter.Seq2[int, int] {
	return func(yield func(from, to int) bool) {
		for from := s.first(0, 0); from < s.n; {
			to := s.first(from, ^uint64(0))
			if !yield(from, to) {
				return
			}
			from = s.first(to, 0)
		}
	}
}

// first returns the first number from i on that is in the set, or with flip all ones that
// is not; the capacity if there is none.
func (s Set) first(i int, flip uint64) int {
	for k := i / 64; k < len(s.words); k++ {
		w := s.words[k] ^ flip
		if k == i/64 {
			w &= ^uint64(0) << (i % 64)
		}
		if w != 0 {
			return min(k*64+bits.TrailingZeros64(w), s.n)
		}
	}
	return s.n
}

// appendRuns appends the short form: the capacity and the number of runs as uvarints, a
// byte with the two parameters of the code, and the runs in bits, the highest bit of a
// byte first. It appends nothing if the form is longer than that many bytes.
func (s Set) appendRuns(raw []byte, most int) (_ []byte, ok bool) {
	count, last, gaps, lengths := 0, 0, 0, 0
	for from, to := range s.runs() {
		gaps += from - last
		lengths += to - from - 1
		count++
		last = to
	}
	if count == 0 || count/2 > most { // a run takes more than 4 bits where they are so dense
		return raw, false
	}
	start := len(raw)
	raw = binary.AppendUvarint(raw, uint64(s.n))
	raw = binary.AppendUvarint(raw, uint64(count))
	gap, length := riceFor(gaps, count), riceFor(lengths, count)
	raw = append(raw, byte(gap<<4|length))
	w := bitWriter{raw: raw}
	last = 0
	for from, to := range s.runs() {
		w.rice(from-last, gap)
		w.rice(to-from-1, length)
		if last = to; len(w.raw)-start > most {
			return raw[:start], false
		}
	}
	return w.raw, true
}

// riceFor is the parameter for so many values of that sum: some 0.7 times their mean, as
// a number of bits.
func riceFor(sum, count int) int { return min(bits.Len(uint(sum*7/(count*10))), 15) }

type bitWriter struct {
	raw  []byte
	free int // bits of the last byte
}

func (w *bitWriter) bit(b int) {
	if w.free == 0 {
		w.raw, w.free = append(w.raw, 0), 8
	}
	w.free--
	w.raw[len(w.raw)-1] |= byte(b << w.free)
}

// rice writes v: v/2^k ones, a zero, and the k lower bits.
func (w *bitWriter) rice(v, k int) {
	for range v >> k {
		w.bit(1)
	}
	w.bit(0)
	for i := k - 1; i >= 0; i-- {
		w.bit(v >> i & 1)
	}
}

type bitReader struct {
	raw []byte
	at  int
}

var errCutShort = errors.New("it is cut short")

func (r *bitReader) bit() (int, error) {
	if r.at >= len(r.raw)*8 {
		return 0, errCutShort
	}
	b := r.raw[r.at/8] >> (7 - r.at%8) & 1
	r.at++
	return int(b), nil
}

// rice reads a value of at most that.
func (r *bitReader) rice(k, most int) (int, error) {
	v := 0
	for {
		b, err := r.bit()
		if err != nil {
			return 0, err
		}
		if b == 0 {
			break
		}
		if v++; v<<k > most {
			return 0, fmt.Errorf("a number beyond %d", most)
		}
	}
	for range k {
		b, err := r.bit()
		if err != nil {
			return 0, err
		}
		v = v<<1 | b
	}
	if v > most {
		return 0, fmt.Errorf("a number beyond %d", most)
	}
	return v, nil
}

// parseRuns reads what appendRuns has written. What it returns may still not be in
// canonical form.
func parseRuns(raw []byte) (Set, error) {
	n, size := binary.Uvarint(raw)
	if size <= 0 || n > MaxSetCap {
		return Set{}, fmt.Errorf("no capacity, or one above %d", MaxSetCap)
	}
	raw = raw[size:]
	count, size := binary.Uvarint(raw)
	if size <= 0 || size == len(raw) || count > n {
		return Set{}, errors.New("no number of runs, or too many")
	}
	raw = raw[size:]
	gap, length := int(raw[0]>>4), int(raw[0]&15)
	r := bitReader{raw: raw[1:]}
	s := NewSet(int(n))
	last := 0
	for range count {
		missing, err := r.rice(gap, s.n-last-1)
		if err != nil {
			return Set{}, err
		}
		from := last + missing
		more, err := r.rice(length, s.n-from-1)
		if err != nil {
			return Set{}, err
		}
		last = from + more + 1
		s.addRange(from, last)
	}
	return s, nil
}

// addRange adds the numbers from..to-1, which must be within the capacity.
func (s Set) addRange(from, to int) {
	for i := from; i < to; {
		if i%64 == 0 && to-i >= 64 {
			s.words[i/64] = ^uint64(0)
			i += 64
			continue
		}
		s.words[i/64] |= 1 << (i % 64)
		i++
	}
}
