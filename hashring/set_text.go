package hashring

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// maxSetBytes bounds the binary form of a set: the bits, and two uvarints, which take at
// most 3 bytes each.
const maxSetBytes = MaxSetCap/8 + 2*3

// setEncoding is base64 of RFC 4648 section 5 without padding: fit for URLs and JSON.
var setEncoding = base64.RawURLEncoding

// shortForm marks the short form. It is no character of setEncoding.
const shortForm = '~'

// MarshalText returns the set as text, one text for each capacity and content: the
// shorter of two forms, of equals the first.
//
// The first is base64url without padding of: the capacity as uvarint; as uvarint the
// offset of the first byte that is not 0; the bytes from that one to the last
// that is not 0. Number i is bit i%8 of byte i/8. The empty set has offset 0. The other
// is a tilde and base64url of the runs (see appendRuns).
func (s Set) MarshalText() ([]byte, error) {
	bits := s.appendBits(nil)
	if runs, ok := s.appendRuns(nil, len(bits)-2); ok { // one is the tilde
		return setEncoding.AppendEncode([]byte{shortForm}, runs), nil
	}
	return setEncoding.AppendEncode(nil, bits), nil
}

// appendBits appends the first form.
func (s Set) appendBits(raw []byte) []byte {
	all := make([]byte, 0, len(s.words)*8)
	for _, w := range s.words {
		all = binary.LittleEndian.AppendUint64(all, w)
	}
	from, to := 0, len(all)
	for to > 0 && all[to-1] == 0 {
		to--
	}
	for from < to && all[from] == 0 {
		from++
	}
	raw = binary.AppendUvarint(raw, uint64(s.n))
	raw = binary.AppendUvarint(raw, uint64(from))
	return append(raw, all[from:to]...)
}

// UnmarshalText makes *s the set of this text, in the form that MarshalText has chosen or
// in the first form, with numbers of its own. Any other text is an error and leaves *s as
// it was. What it
// allocates is bounded by MaxSetCap, whatever the text says.
func (s *Set) UnmarshalText(text []byte) error {
	set, err := parseSet(text)
	if err != nil {
		return fmt.Errorf("decoding a bucket set: %w", err)
	}
	*s = set
	return nil
}

func parseSet(text []byte) (Set, error) {
	if limit := setEncoding.EncodedLen(maxSetBytes); len(text) > limit {
		return Set{}, fmt.Errorf("%d characters, at most %d are allowed", len(text), limit)
	}
	if len(text) > 0 && text[0] == shortForm {
		return parseShort(text)
	}
	raw, err := setEncoding.AppendDecode(nil, text)
	if err != nil {
		return Set{}, err
	}
	n, size := binary.Uvarint(raw)
	if size <= 0 || n > MaxSetCap {
		return Set{}, fmt.Errorf("no capacity, or one above %d", MaxSetCap)
	}
	raw = raw[size:]
	offset, size := binary.Uvarint(raw)
	if size <= 0 {
		return Set{}, errors.New("no offset")
	}
	raw = raw[size:]
	if size := (n + 7) / 8; offset > size || uint64(len(raw)) > size-offset {
		return Set{}, fmt.Errorf("%d bytes at offset %d are beyond the capacity of %d", len(raw), offset, n)
	}
	s := NewSet(int(n))
	for k, b := range raw {
		i := (int(offset) + k) * 8
		s.words[i/64] |= uint64(b) << (i % 64)
	}
	if n%64 != 0 && s.words[n/64]>>(n%64) != 0 {
		return Set{}, fmt.Errorf("a number at or beyond the capacity of %d", n)
	}
	// One text of this form for each set: what is not written as appendBits writes it
	// (long uvarints, zeros at the ends, line breaks) is somebody else's.
	if string(setEncoding.AppendEncode(nil, s.appendBits(nil))) != string(text) {
		return Set{}, errNotCanonical
	}
	return s, nil
}

var errNotCanonical = errors.New("not in canonical form")

// parseShort reads the short form, which must be the shorter one.
func parseShort(text []byte) (Set, error) {
	raw, err := setEncoding.AppendDecode(nil, text[1:])
	if err != nil {
		return Set{}, err
	}
	s, err := parseRuns(raw)
	if err != nil {
		return Set{}, err
	}
	if canonical, err := s.MarshalText(); err != nil || string(canonical) != string(text) {
		return Set{}, errNotCanonical
	}
	return s, nil
}
