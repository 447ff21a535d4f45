package node

import (
	"maps"
	"slices"
	"time"

	"github.com/peervip/peervip/hashring"
)

// Time is a moment on the node's own monotonic clock, counted from an origin
// that never changes while the process lives. Wall clocks are never used.
type Time = time.Duration

// Incarnation is one life of a node: its name, and the random nonce that it
// drew when it booted.
type Incarnation struct {
	Name  string `json:"name"`
	Nonce uint64 `json:"nonce"`
}

// Slot numbers one bucket of one service: service*buckets + bucket. Everything
// that moves between nodes moves in sets of slots, so the protocol needs no
// notion of services.
type Slot = int

// Statement is everything that a node says of itself to its peers. It is
// replaced as a whole, under a version that only grows within one incarnation.
type Statement struct {
	Incarnation
	Version uint64 `json:"version"`
	Phase   Phase  `json:"phase"`
	// Weight in tenths of the default weight (see Tenths).
	Weight int `json:"weight"`
	// Unfit lists the services (by number) whose health checks fail here.
	Unfit []int `json:"unfit,omitempty"`
	// CutOff: the node is to be relieved. It has no wire-proof, though others have, or is lame.
	CutOff bool `json:"cut_off,omitempty"`
	// Lame is why it cannot serve, if it cannot.
	Lame Lame `json:"lame,omitempty"`
	// View is the digest of the view that the node acts on.
	View uint64 `json:"view"`
	// Stamps are those of the last wishes that the node has dealt with, by topic; Obeyed is
	// the highest of them, for nodes of older versions, and of them.
	Stamps Stamps `json:"stamps,omitempty"`
	Obeyed uint64 `json:"obeyed,omitempty"`
	// Doubt: the node does not remember whether it was drained, and counts as drained.
	Doubt bool `json:"doubt,omitempty"`
	// Claims are the slots for which the node takes new flows.
	Claims hashring.Set `json:"claims"`
	// Linger are the slots for which the node takes no new flows, and goes on with
	// those that it has.
	Linger hashring.Set `json:"linger"`
	// Granted are the slots that the node has given away and whose heirs have
	// not confirmed yet: nobody's claim, and nobody's orphan either. In order.
	Granted []Promise `json:"granted,omitempty"`
	// Takes is the lowest ID of a request of which the node may still take a grant. What was
	// granted for a lower one, and is not confirmed, is its holder's again. 0: it does not say.
	Takes uint64 `json:"takes,omitempty"`
	// Relayed names the peers whose messages reach the node only through others.
	Relayed []string `json:"relayed,omitempty"`
	// Lists of flows that the node keeps.
	Lists []Listing `json:"lists,omitempty"`
}

// Delta is the change of a statement from one version to a later one. Its
// fields are those of the new version, but that Claims and Linger are the slots in
// which the two versions differ, and Granted the promises in which they do: one without
// slots is no more. From 0 means that the delta starts from nothing: a whole
// statement.
type Delta struct {
	From uint64 `json:"from"`
	// Mourned, with a whole statement: whose flows the node leaves alone though they may be
	// dead. It is told to who is new.
	Mourned []Adopted `json:"mourned,omitempty"`
	Statement
}

// delta returns what turns old into s. With a nil old it is the whole of s.
func (s *Statement) delta(old *Statement) Delta {
	d := Delta{Statement: *s}
	if old != nil {
		d.From = old.Version
		d.Claims = symmetricDifference(s.Claims, old.Claims)
		d.Linger = symmetricDifference(s.Linger, old.Linger)
		d.Granted = promiseChanges(old.Granted, s.Granted)
	}
	return d
}

// apply returns the statement that d makes of s, and false if d does not start
// from s. A nil s stands for nothing known.
func (d *Delta) apply(s *Statement) (*Statement, bool) {
	next := d.Statement
	if d.From == 0 {
		return &next, true
	}
	if s == nil || s.Incarnation != d.Incarnation || s.Version != d.From {
		return nil, false
	}
	next.Claims = symmetricDifference(s.Claims, d.Claims)
	next.Linger = symmetricDifference(s.Linger, d.Linger)
	next.Granted = changePromises(s.Granted, d.Granted)
	return &next, true
}

// withoutSlots is what a node of another spec can understand of d: all but slots
// and services, as a statement that is whole.
func (d *Delta) withoutSlots(none hashring.Set) *Delta {
	s := d.Statement
	s.Claims, s.Linger, s.Granted, s.Lists, s.Unfit = none, none, nil, nil, nil
	return &Delta{Statement: s}
}

func symmetricDifference(a, b hashring.Set) hashring.Set {
	either := a.Clone()
	either.ToggleAll(b)
	return either
}

// sameBut reports whether two statements say the same but for their version.
func (s *Statement) sameBut(o *Statement) bool {
	return s.Incarnation == o.Incarnation && s.Phase == o.Phase && s.Weight == o.Weight &&
		slices.Equal(s.Unfit, o.Unfit) && s.CutOff == o.CutOff && s.Lame == o.Lame && s.View == o.View && s.Obeyed == o.Obeyed && s.Doubt == o.Doubt &&
		slices.Equal(s.Relayed, o.Relayed) && maps.Equal(s.Stamps, o.Stamps) &&
		s.Claims.Equal(o.Claims) && s.Linger.Equal(o.Linger) &&
		slices.EqualFunc(s.Lists, o.Lists, func(a, b Listing) bool { return a.ID == b.ID && a.Slots.Equal(b.Slots) }) &&
		slices.EqualFunc(s.Granted, o.Granted, func(a, b Promise) bool {
			return a.same(b) && a.Slots.Equal(b.Slots)
		})
}

// member is the node as a view has it.
func (s *Statement) member() Member {
	return Member{Incarnation: s.Incarnation, Weight: s.Weight, Phase: s.Phase, Unfit: s.Unfit, CutOff: s.CutOff, Lame: s.Lame}
}

// MaxWeight is the greatest weight that a node may have.
const MaxWeight = 1000

// Tenths quantises a configured weight to tenths of the default weight 100, so
// that small changes of a weight move nothing (design: views must come to rest).
// A weight beyond 1 to MaxWeight counts as the nearest of them, and even the
// least one is a tenth.
func Tenths(weight int) int { return (min(max(weight, 5), MaxWeight) + 5) / 10 }
