package node

import (
	"cmp"
	"slices"
	"time"
)

// Short entries, and why the proof in liveness_mark.go holds with them.
//
// A whole entry names an incarnation by 64 bits, and its number as it is. A short entry has
// 20 bits of a hash for the one, and the low 16 bits of the other, in units of about a
// twentieth of the interval. What is lost comes back exactly, or the entry says no number:
//
// The number. The numbers of a node are whole units, and two of its beacons never share a
// unit (Herald.number), so a number is known by its unit. A window is 2^16 units, more than
// 2000 intervals and at least 8 D. The receiver of a number of its own takes the latest
// that has these bits and is not in the future; that of a number of a third node the nearest
// to the last that it knows of that node. Both are right if what is said is younger than a
// window, or half of one. So
//
//   - the sender gives short numbers only that it got within the last quarter of a window;
//   - the receiver believes short numbers only in beacons that are timely: it has had a
//     fresh beacon of that sender, whole or timely, within a window, and since then the
//     sender's numbers have grown as its own clock has, but for a quarter of a window. A
//     beacon that was recorded, held up, or sent by a machine that was paused together with
//     its clock is none;
//   - it compares with a number of a third node only within a quarter of a window.
//
// A fresh whole number comes first: at the first meeting, and whenever two nodes have
// not heard each other for D, an entry is whole until its node has acknowledged a beacon
// that had it whole.
//
// The incarnation. If the short keys of two incarnations that a node knows are equal, and
// be it the node's own, it writes both entries whole, and takes no short entry with that
// key for either. A node that does not get its own entry in a form that it can read takes
// the beacon for a challenge; its peer then misses its acknowledgement, and writes the
// entry whole. The price of the rarest of accidents is some beacons, not a pause.
//
// Of each beacon one entry is whole in turn, so that everybody comes to know the
// number of a node that it does not hear itself.
//
// Acked is rounded to a beacon that is older, never younger (BeaconCodec). The weaker proof
// makes a lease run out earlier.

// maxWhole is how many whole entries a beacon has at the most, but for equal short keys.
// Where more are wanted, as at the first meeting of many nodes, they take turns.
const maxWhole = 16

// unit is the exponent of the unit of numbers: 2^unit microseconds are a sixteenth to a
// thirty-second of an interval, or with many misses what makes a window of at least 8 D.
func (d Detect) unit() uint8 {
	want := max(d.Interval/16, d.D/4096)
	unit := uint8(0)
	for unit < maxUnit && Time(2)<<unit*time.Microsecond <= want {
		unit++
	}
	return unit
}

// window is for how long the numbers of that unit say when they are of.
func window(unit uint8) Time { return Time(1) << (16 + unit) * time.Microsecond }

// numberAt is the number of a beacon of format 2 that is sent at that time, after the
// last one. Numbers are whole units, and older than the beacon by up to three: that
// leaves room for three beacons that leave together, each with a number of its own and none
// of the future.
func (d Detect) numberAt(now Time, last Seq) Seq {
	unit := Seq(1) << d.unit()
	exact := SeqAt(now)
	seq := max(exact/unit, 2)*unit - 2*unit
	if seq <= last {
		seq = (last/unit + 1) * unit
	}
	if seq > exact {
		return max(last, 1) // of no use to those who have the last one
	}
	return seq
}

// sentNumbers are the numbers of this node's last beacons, as a ring.
type sentNumbers struct {
	ring [32]Seq
	next int
}

func (s *sentNumbers) add(seq Seq) {
	s.ring[s.next%len(s.ring)] = seq
	s.next++
}

// until returns the greatest number up to which all of this node's beacons are
// acknowledged with that one, now that the next is made: no other was sent in between.
func (s *sentNumbers) until(acked, next Seq) Seq {
	known := false
	for _, seq := range s.ring {
		known = known || seq == acked
		if seq > acked {
			next = min(next, seq)
		}
	}
	if acked == 0 || !known {
		return acked
	}
	return next - 1
}

// shortened is what a node needs to know of a neighbour for short entries. Its times are
// those of the node's own clock, on which a stall counts.
type shortened struct {
	numberedAt Time // when neighbour.seq came
	seenAt     Time // when neighbour.seenSeq grew
	// anchor is the number of the last fresh beacon of the neighbour, anchorAt when it
	// came; 0: there was none.
	anchor   Seq
	anchorAt Time
	// unread: its last beacon had an entry of this node that could not be read.
	unread bool
	// wholeFrom is the number of the first beacon with a whole entry of the neighbour since
	// it last heard this node anew; 0: there was none.
	wholeFrom Seq

	// Of the beacon that is made: the neighbour has an entry, and that is whole, or this.
	listed, whole bool
	brief         BriefAck
}

// briefPlace is whose short entries have that key: of a neighbour, of this node, or, if
// both are nil and false, of more than one of them.
type briefPlace struct {
	key  BriefKey
	who  *neighbour
	mine bool
}

// places returns the index of short keys.
func (l *Liveness) places() []briefPlace {
	if l.index != nil {
		return l.index
	}
	all := []briefPlace{{key: l.key.Brief(), mine: true}}
	for _, n := range l.neighbours {
		all = append(all, briefPlace{key: n.key.Brief(), who: n})
	}
	slices.SortStableFunc(all, func(a, b briefPlace) int { return cmp.Compare(a.key, b.key) })
	for i, p := range all {
		if last := len(l.index) - 1; i > 0 && l.index[last].key == p.key {
			l.index[last].who, l.index[last].mine = nil, false
			continue
		}
		l.index = append(l.index, p)
	}
	return l.index
}

// condense makes the entries of a beacon of format 2 out of whole ones.
func (l *Liveness) condense(now Time, b *Beacon) {
	att := l.wake(now)
	all, places := b.Peers, l.places()
	b.Brief = b.Brief[:0]
	if len(all) == 0 {
		return
	}
	for _, n := range l.neighbours {
		n.short.whole, n.short.listed = true, false // if its short key is not its alone
	}
	for _, p := range places {
		if p.who != nil {
			p.who.short.whole = false
		}
	}
	of := make([]*neighbour, 0, MaxBeaconPeers)
	i := 0
	for k := range all {
		for l.neighbours[i].key < all[k].Key {
			i++
		}
		l.neighbours[i].short.listed = true
		of = append(of, l.neighbours[i])
	}
	// The one whose turn it is, then those behind it that want a whole entry.
	left, next := maxWhole, l.nextWhole+1
	for k := range all {
		at := (l.nextWhole + k) % len(all)
		ack, s := &all[at], &of[at].short
		ack.Acked = l.sent.until(ack.Acked, b.Seq)
		if l.now-s.numberedAt >= window(b.Unit)/4 {
			ack.Flags &^= AckHeard | AckOnWire
		}
		if reads := of[at].readsBrief(l.detect, att); ack.Seq > 0 && left > 0 && (k == 0 || !reads) {
			s.whole = true
			if left--; left == 0 {
				next = at + 1
			}
		}
		s.brief = BriefAck{Key: of[at].key.Brief(), Number: uint16(ack.Seq >> b.Unit), Unheard: ack.Seq == 0, Flags: ack.Flags, Acked: ack.Acked}
		if s.whole && ack.Flags&AckHeard != 0 && s.wholeFrom == 0 {
			s.wholeFrom = b.Seq
		}
	}
	l.nextWhole = next % len(all)
	b.Peers = all[:0]
	for k, n := range of {
		if n.short.whole {
			b.Peers = append(b.Peers, all[k])
		}
	}
	for _, p := range places {
		if p.who != nil && p.who.short.listed && !p.who.short.whole {
			b.Brief = append(b.Brief, p.who.short.brief)
		}
	}
}

// readsBrief reports whether the neighbour can read a short entry of itself: it hears this
// node, and has acknowledged a beacon that had it whole.
func (n *neighbour) readsBrief(d Detect, att Time) bool {
	s := &n.short
	if n.me&AckHeard == 0 || att-n.heardAt >= d.D {
		s.wholeFrom = 0
	}
	return s.wholeFrom > 0 && n.acked >= s.wholeFrom
}

// timely reports whether the beacon has been under way for less than a quarter of a window.
func (s *shortened) timely(now Time, b *Beacon) bool {
	w := window(b.Unit)
	late := now - s.anchorAt - (b.Seq.Time() - s.anchor.Time())
	return s.anchor > 0 && now-s.anchorAt < w && max(late, -late) < w/4
}

// readBrief takes the short entries apart.
func (l *Liveness) readBrief(n *neighbour, b *Beacon, mine *PeerAck) {
	timely, places := n.short.timely(l.now, b), l.places()
	i := 0
	for k := range b.Brief {
		brief := &b.Brief[k]
		for i < len(places) && places[i].key < brief.Key {
			i++
		}
		e := entry{PeerAck: PeerAck{Flags: brief.Flags, Acked: brief.Acked}}
		if i < len(places) && places[i].key == brief.Key {
			e.known, e.who = true, places[i].who
			switch {
			case places[i].mine:
				e.Key = l.key
				if timely {
					e.Seq = l.myNumber(brief, b.Unit)
				}
				if n.short.unread = e.Seq == 0 && !brief.Unheard; n.short.unread {
					e.Flags &^= AckHeard | AckOnWire
				}
				if n.short.anchor > 0 {
					*mine = e.PeerAck
				}
			case e.who != nil:
				e.Key = e.who.key
				if timely {
					e.Seq = l.numberOf(e.who, brief, b.Unit)
				}
			}
		}
		l.entries = append(l.entries, e)
	}
}

// myNumber is the whole of a short number of this node's own.
func (l *Liveness) myNumber(brief *BriefAck, unit uint8) Seq {
	units := SeqAt(l.now) >> unit
	back := Seq(uint16(units) - brief.Number)
	if brief.Unheard || back >= units {
		return 0
	}
	return (units - back) << unit
}

// numberOf is the whole of a short number of a neighbour; 0: it cannot be told.
func (l *Liveness) numberOf(o *neighbour, brief *BriefAck, unit uint8) Seq {
	if brief.Unheard || o.seenSeq == 0 || l.now-o.short.seenAt >= window(unit)/4 {
		return 0
	}
	units := int64(o.seenSeq >> unit)
	units += int64(int16(brief.Number - uint16(units)))
	return Seq(max(units, 0)) << unit
}
