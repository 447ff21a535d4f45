package hashring

import (
	"slices"
)

// Table is a placement: the owner of each bucket, by name. It does not change.
// The zero Table has no buckets.
type Table struct {
	names  []string // sorted: all members, also those that own nothing
	owners []int32  // by bucket: index into names, or nobody
	counts []int    // by member: buckets owned
}

// Len returns the number of buckets.
func (t Table) Len() int { return len(t.owners) }

// Owner returns the name of the member that owns the bucket, "" if nobody does.
func (t Table) Owner(bucket int) string {
	if m := t.owners[bucket]; m != nobody {
		return t.names[m]
	}
	return ""
}

// Buckets returns the buckets that the named member owns, as a set of capacity
// Len that is the caller's to change. It is empty for a name that is no member's.
func (t Table) Buckets(name string) Set {
	s := NewSet(len(t.owners))
	m, found := slices.BinarySearch(t.names, name)
	if !found {
		return s
	}
	for b, owner := range t.owners {
		if int(owner) == m {
			s.Add(b)
		}
	}
	return s
}

// Count returns how many buckets the named member owns.
func (t Table) Count(name string) int {
	m, found := slices.BinarySearch(t.names, name)
	if !found {
		return 0
	}
	return t.counts[m]
}

// Equal says whether both tables give every bucket the same owner.
func (t Table) Equal(o Table) bool {
	if t.Len() != o.Len() {
		return false
	}
	for b := range t.owners {
		if t.Owner(b) != o.Owner(b) {
			return false
		}
	}
	return true
}
