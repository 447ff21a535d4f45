package node

import (
	"cmp"
	"slices"
)

// NeighbourStatus is what is known of one incarnation, for people. An age of
// Never means that it has not happened.
type NeighbourStatus struct {
	Incarnation
	Standing Standing `json:"standing"`
	Phase    Phase    `json:"phase"`
	// Returning: held dead, and speaking again.
	Returning bool `json:"returning"`
	// Heard is how long ago a beacon of it came, by medium.
	Heard [mediums]Time `json:"heard_ns"`
	// Seen is how long ago anybody heard it, as far as is known.
	Seen Time `json:"seen_ns"`
	// Acked is the age of the last beacon of this node that it says to have heard
	// itself; Proven the age of the last of which it has had a sign, itself or
	// through others: the lease depends on that one.
	Acked  Time `json:"acked_ns"`
	Proven Time `json:"proven_ns"`
	// HearsOnWire: it says that it hears this node on the wire.
	HearsOnWire bool `json:"hears_on_wire"`
	// WireProof: it is heard on the wire by a peer, and hears one there.
	WireProof bool `json:"wire_proof"`
	// Waits: the lease is not prolonged because it has not acknowledged anything
	// young enough.
	Waits bool `json:"waits"`
	// HoldsDead: it says that this node is dead. Clone: another has its name.
	HoldsDead bool `json:"holds_dead"`
	Clone     bool `json:"clone"`
}

// Never is the age of what has not happened.
const Never = Time(-1)

// Status returns what is known of everybody, by name.
func (l *Liveness) Status(now Time) []NeighbourStatus {
	att := l.wake(now)
	status := make([]NeighbourStatus, 0, len(l.neighbours))
	for _, n := range l.neighbours {
		s := NeighbourStatus{
			Incarnation: n.Incarnation, Standing: n.standing, Phase: n.phase,
			Returning: n.standing == Dead && att-n.seenAt < l.detect.D,
			Seen:      age(att, n.seenAt),
			Acked:     l.ackAge(n.acked), Proven: l.ackAge(n.proven),
			HearsOnWire: n.onWire(att, l.detect.D), WireProof: n.wireProof,
			Waits:     l.asked(n, att, l.detect.quiet()) && n.proven.Time()+l.detect.A <= l.now,
			HoldsDead: n.me&AckDead != 0, Clone: n.clone,
		}
		for m := range n.mediums {
			s.Heard[m] = age(att, n.mediums[m].at)
		}
		status = append(status, s)
	}
	slices.SortFunc(status, func(a, b NeighbourStatus) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Nonce, b.Nonce))
	})
	return status
}

func age(now, then Time) Time {
	if then == noTime {
		return Never
	}
	return now - then
}

func (l *Liveness) ackAge(acked Seq) Time {
	if acked == 0 {
		return Never
	}
	return l.now - acked.Time()
}

// onWire reports whether the neighbour, heard lately, says that it hears this node
// on the wire.
func (n *neighbour) onWire(att, d Time) bool {
	return att-n.heardAt < d && n.me&AckOnWire != 0
}

// WireProof reports whether this node is heard on the wire by a peer and hears one
// there, and whether others do better: a peer says so of itself, or hears a third node on
// the wire where this node hears nobody, as clients' packets would come the same way. A node
// without it while others do better is cut off. If nobody does, nobody is: all are alike.
// Of two nodes of which one hears the other nobody knows whose fault that is.
func (l *Liveness) WireProof(now Time) (ok, othersHave bool) {
	att, d := l.wake(now), l.detect.D
	var hears, heard, othersHear bool
	for _, n := range l.neighbours {
		if n.standing == Refused || n.standing == Gone {
			continue
		}
		hears = hears || att-n.mediums[Wire].at < d
		heard = heard || n.onWire(att, d)
		othersHave = othersHave || att-n.heardAt < d && n.wireProof
		othersHear = othersHear || att-n.heardAt < d && n.hearsWire
	}
	return hears && heard, othersHave || !hears && othersHear
}

// SilentOnWire returns the neighbours, by key, to whom every beacon should go by
// unicast too: those who speak, but from whom the wire has brought nothing for
// D/4, or to whom it may bring nothing, by what they say of this node.
func (l *Liveness) SilentOnWire(now Time) []Incarnation { return l.appendUnicast(nil, now, false) }

// appendUnicast appends those who are silent on the wire, or all.
func (l *Liveness) appendUnicast(buf []Incarnation, now Time, all bool) []Incarnation {
	att, d := l.wake(now), l.detect.D
	for _, n := range l.neighbours {
		if n.standing == Gone {
			continue
		}
		// Who has just died may only have been asleep, and must hear of it when it wakes.
		speaks := att-n.spokeAt < d || att-n.seenAt < d || n.standing == Dead && att-n.seenAt < d+l.detect.Return
		silent := att-n.mediums[Wire].at >= d/4 || l.now-n.acked.Time() >= d/4 || n.me&AckOnWire == 0
		if all || speaks && silent {
			buf = append(buf, n.Incarnation)
		}
	}
	return buf
}

// doubters returns those, by key, who serve and said when they were last heard,
// not long ago, that this node is dead. They may have taken its buckets, and are
// about to be heard again.
func (l *Liveness) doubters(now Time) []Incarnation {
	return l.pick(now, func(n *neighbour, att Time) bool {
		return n.serving && n.me&AckDead != 0 && att-n.heardAt < l.detect.D+l.detect.Return
	})
}

// pick returns the neighbours, by key, of which that is so at this moment of the node's
// attention.
func (l *Liveness) pick(now Time, is func(n *neighbour, att Time) bool) []Incarnation {
	att := l.wake(now)
	var picked []Incarnation
	for _, n := range l.neighbours {
		if is(n, att) {
			picked = append(picked, n.Incarnation)
		}
	}
	return picked
}

// doubting returns those, by key, who speak and hear somebody serve who holds this node
// dead.
func (l *Liveness) doubting(now Time) []Incarnation {
	return l.pick(now, l.doubtedBy)
}

// hearOthers returns those, by key, who hear somebody serve whom this node does not
// know at all.
func (l *Liveness) hearOthers(now Time) []Incarnation {
	return l.pick(now, func(n *neighbour, att Time) bool {
		return n.hearsOthers && n.standing == Alive && att-n.heardAt < l.detect.D
	})
}
