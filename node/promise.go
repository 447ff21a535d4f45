package node

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/peervip/peervip/hashring"
)

// Promise is a grant that the heir has not confirmed.
type Promise struct {
	To    PeerKey // the heir
	ID    uint64
	Slots hashring.Set
}

// same reports whether both are the same grant, whatever is left of it.
func (p Promise) same(o Promise) bool { return p.To == o.To && p.ID == o.ID }

// order is the order of promises in a statement.
func (p Promise) order(o Promise) int {
	return cmp.Or(cmp.Compare(p.To, o.To), cmp.Compare(p.ID, o.ID))
}

// promiseChanges are the promises that are new or others than before, and, with no
// slots, those that are no more. Both lists are in order.
func promiseChanges(old, next []Promise) (changes []Promise) {
	for _, p := range next {
		if i, ok := slices.BinarySearchFunc(old, p, Promise.order); !ok || !old[i].Slots.Equal(p.Slots) {
			changes = append(changes, p)
		}
	}
	for _, p := range old {
		if _, ok := slices.BinarySearchFunc(next, p, Promise.order); !ok {
			changes = append(changes, Promise{p.To, p.ID, hashring.NewSet(p.Slots.Cap())})
		}
	}
	slices.SortFunc(changes, Promise.order)
	return changes
}

// changePromises undoes promiseChanges.
func changePromises(old, changes []Promise) (next []Promise) {
	for _, p := range old {
		if !slices.ContainsFunc(changes, p.same) {
			next = append(next, p)
		}
	}
	for _, p := range changes {
		if !p.Slots.Empty() {
			next = append(next, p)
		}
	}
	slices.SortFunc(next, Promise.order)
	return next
}

// MarshalText writes the promise as the heir's key (8 bytes, big-endian, in base64url), the
// number and the slots, with points between: a holder may owe each of its heirs one, and
// all of them have to fit into a datagram.
func (p Promise) MarshalText() ([]byte, error) {
	slots, err := p.Slots.MarshalText()
	if err != nil {
		return nil, err
	}
	key := binary.BigEndian.AppendUint64(nil, uint64(p.To))
	text := base64.RawURLEncoding.AppendEncode(nil, key)
	text = append(text, '.')
	text = strconv.AppendUint(text, p.ID, 10)
	text = append(text, '.')
	return append(text, slots...), nil
}

// UnmarshalText reads what MarshalText has written.
func (p *Promise) UnmarshalText(text []byte) error {
	parts := strings.SplitN(string(text), ".", 3)
	if len(parts) != 3 {
		return fmt.Errorf("a promise %.40q: want key, number and slots", text)
	}
	key, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil || len(key) != 8 {
		return fmt.Errorf("a promise to %.40q, which is no key", parts[0])
	}
	id, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil {
		return fmt.Errorf("a promise of the number %.40q", parts[1])
	}
	var slots hashring.Set
	if err := slots.UnmarshalText([]byte(parts[2])); err != nil {
		return err
	}
	*p = Promise{PeerKey(binary.BigEndian.Uint64(key)), id, slots}
	return nil
}
