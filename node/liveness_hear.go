package node

// HearingKind is what a beacon meant.
type HearingKind uint8

const (
	// HeardFresh: new, and it acknowledges a beacon that this node sent less than D
	// ago, so it is no recording.
	HeardFresh HearingKind = iota + 1
	// HeardDeaf: new, of a neighbour known to be real, which has not heard this node
	// itself for D. It is a sign of life all the same.
	HeardDeaf
	// HeardChallenge: it acknowledges nothing of this node, and may be a recording.
	// The next beacon of this node answers it; nothing else follows.
	HeardChallenge
	// HeardAgain: known already from the other medium.
	HeardAgain
	// HeardOld: known already from this medium, or older than what is known.
	HeardOld
	// HeardOwn: this node's own. Something sends its frames back.
	HeardOwn
	// HeardSuccessor: another incarnation of a neighbour that is not dead yet, as
	// after a quick restart. It has to wait until the old one is.
	HeardSuccessor
	// HeardRestarted: fresh, and the old incarnation was dead.
	HeardRestarted
	// HeardClone: two machines with one name. The newer is refused.
	HeardClone
	// HeardCrowded: there is no room for another incarnation.
	HeardCrowded
	// HeardGone: its sender has taken its leave before.
	HeardGone

	// HearingKinds is how many kinds there are, for counters by kind.
	HearingKinds = int(HeardGone) + 1
)

var hearingNames = [HearingKinds]string{
	HeardFresh: "fresh", HeardDeaf: "deaf", HeardChallenge: "challenge", HeardAgain: "again",
	HeardOld: "old", HeardOwn: "own", HeardSuccessor: "successor", HeardRestarted: "restarted",
	HeardClone: "clone", HeardCrowded: "crowded", HeardGone: "gone",
}

func (k HearingKind) String() string { return hearingNames[k] }

// Hearing is the outcome of one beacon.
type Hearing struct {
	Kind HearingKind
	// Believed: what the beacon says of its sender is news, and may be used.
	Believed bool
	// Yield: it says that this node is dead, or that another has its name, by one
	// whose word goes before this node's. The lease is to be dropped at once.
	Yield bool
	// Doubted: it says that somebody who serves and whom it hears holds this node dead.
	// Without a lease of its own this node may have lost its buckets to that one.
	Doubted bool
}

// Hear takes a beacon whose signature is good. It keeps nothing of it.
func (l *Liveness) Hear(now Time, medium Medium, b *Beacon) Hearing {
	att := l.stir(now)
	if b.Incarnation == l.self {
		return Hearing{Kind: HeardOwn}
	}
	n := l.find(b.Incarnation)
	if n == nil {
		if n = l.admit(b.Incarnation, false, att); n == nil {
			return Hearing{Kind: HeardCrowded}
		}
	}
	// The same or an older one may still come by the other medium. What is older
	// than what others have of it by more than D is none of this neighbour's life.
	copied := &n.mediums[medium]
	switch {
	case b.Seq <= copied.seq || b.Seq.Time()+l.detect.D <= max(n.seq, n.seenSeq).Time():
		return Hearing{Kind: HeardOld}
	case b.Seq <= n.seq:
		copied.seq = b.Seq
		if b.Seq <= n.heard {
			copied.at = att
		}
		return Hearing{Kind: HeardAgain}
	}
	if att-n.spokeAt >= l.detect.D {
		n.speaksSince = att
	}
	copied.seq, n.seq, n.spokeAt = b.Seq, b.Seq, att
	n.short.numberedAt, n.reads = l.now, max(b.Highest, BeaconMin)
	if n.standing == Gone {
		return Hearing{Kind: HeardGone}
	}

	mine := l.read(n, b)
	if mine.Seq.Time() > l.now { // not of this clock
		mine = PeerAck{}
	}
	fresh := mine.Seq > 0 && l.now-mine.Seq.Time() < l.detect.D
	n.met = n.met || mine.Seq > 0
	kind := l.judge(n, fresh, b.Phase.Serving() && mine.Flags&AckAlive == 0)
	if kind == HeardChallenge {
		return Hearing{Kind: kind}
	}
	copied.at = att
	n.heard, n.heardAt = b.Seq, att
	if fresh {
		n.short.anchor, n.short.anchorAt = b.Seq, l.now
	}
	l.seen(n, b.Seq, fresh, att)
	l.take(n, b, mine)
	l.learn(n, b, mine, att)
	return Hearing{Kind: kind, Believed: n.standing != Refused, Yield: l.yieldsTo(n), Doubted: l.doubtedBy(n, att)}
}

// judge says what new words of a neighbour mean, and gives it its standing. Apart: it serves,
// and does not hold this node alive.
func (l *Liveness) judge(n *neighbour, fresh, apart bool) HearingKind {
	switch {
	case n.standing == Refused && (n.Name == l.self.Name || l.holder(n.Name).alive()):
		return l.rival(n, fresh)
	case !fresh && (n.standing == Unheard || n.standing == Refused || !n.met && n.standing == Dead):
		return HeardChallenge
	case n.standing == Refused:
		restarted := false
		if holder := l.holder(n.Name); holder != nil {
			restarted = holder.standing == Dead
			l.drop(holder.Incarnation)
		}
		n.standing, n.clone = Unheard, false
		l.meet(n, apart)
		if restarted {
			return HeardRestarted
		}
	case n.standing == Unheard:
		l.meet(n, apart)
	}
	if fresh {
		return HeardFresh
	}
	return HeardDeaf
}

func (n *neighbour) alive() bool { return n != nil && n.standing == Alive }

// rival tells a restart from two machines with one name: after a restart the old
// incarnation is silent, but for datagrams that were under way.
func (l *Liveness) rival(n *neighbour, fresh bool) HearingKind {
	holder := l.holder(n.Name)
	if fresh && (holder == nil || holder.heardAt > n.firstAt+2*l.detect.Interval) {
		n.clone = true
	}
	switch {
	case n.clone:
		return HeardClone
	case n.met:
		return HeardSuccessor
	}
	return HeardChallenge
}

// seen notes a sign of life. A dead neighbour is back only by signs that are
// fresh: it hears this node, or somebody whom this node hears has heard it.
func (l *Liveness) seen(n *neighbour, seq Seq, fresh bool, att Time) {
	if seq > n.seenSeq {
		n.seenSeq, n.seenAt = seq, att
		n.short.seenAt = l.now
	}
	if n.standing != Dead || !fresh || seq <= n.backSeq {
		return
	}
	if att-n.backSeenAt >= l.detect.D/2 {
		n.backAt = att
	}
	n.backSeq, n.backSeenAt = seq, att
	if l.returned(n, att) {
		l.turn(n, Alive)
	}
}

// entry is what a beacon says of one peer, and who that is.
type entry struct {
	PeerAck
	who   *neighbour // nil: this node, or nobody that it knows, or it cannot be told who of two
	known bool       // it may be a neighbour, or is this node
}

// read takes the entries of a beacon apart, and returns the one of this node. They stay in
// l.entries until the next beacon.
func (l *Liveness) read(n *neighbour, b *Beacon) (mine PeerAck) {
	l.entries, n.short.unread = l.entries[:0], false
	i := 0
	for k := range b.Peers {
		ack := &b.Peers[k]
		for i < len(l.neighbours) && l.neighbours[i].key < ack.Key {
			i++
		}
		e := entry{PeerAck: *ack}
		switch {
		case ack.Key == l.key:
			mine, e.known = *ack, true
		case i < len(l.neighbours) && l.neighbours[i].key == ack.Key:
			e.who, e.known = l.neighbours[i], true
		}
		l.entries = append(l.entries, e)
	}
	if len(b.Brief) > 0 {
		l.readBrief(n, b, &mine)
	}
	return mine
}

// take notes what the neighbour says of itself and of this node.
func (l *Liveness) take(n *neighbour, b *Beacon, mine PeerAck) {
	n.phase, n.wireProof = b.Phase, b.WireProof
	l.serves(n, b.Phase.Serving(), l.now-l.slept)
	n.me = mine.Flags
	n.group, n.hearsWire = 1, false
	n.holdsDead = n.holdsDead[:0]
	for i := range l.entries {
		e := &l.entries[i]
		if e.Flags&AckAlive != 0 {
			n.group++
		}
		n.hearsWire = n.hearsWire || e.Key != l.key && e.Flags&AckOnWire != 0
		if e.Flags&AckDead != 0 {
			n.holdsDead = append(n.holdsDead, e.Key)
		}
	}
}

// learn takes what a neighbour says of others and of this node.
func (l *Liveness) learn(n *neighbour, b *Beacon, mine PeerAck, att Time) {
	l.proveDirectly(n, b.Seq, mine)
	mine.Key = l.key
	l.deafTowards(n, &mine, att)
	n.words.named(b, att)
	n.hearsOthers = false
	for i := range l.entries {
		e := &l.entries[i]
		o := e.who
		if o == nil {
			const serves = AckAlive | AckServing
			n.hearsOthers = n.hearsOthers || !e.known && e.Flags&serves == serves
			continue
		}
		if o != n && n.standing != Refused && e.Flags&AckAlive != 0 {
			o.vouchedAt, o.voucher = att, n.Incarnation
		}
		l.deafTowards(n, &e.PeerAck, att)
		if o != n && e.Seq > 0 {
			if n.standing != Refused && e.Flags&AckHeard != 0 {
				l.succeeds(o)
			}
			if n.standing != Refused && o.standing != Refused && o.standing != Gone && e.Flags&AckHeard != 0 {
				l.hearsay(o, n, &e.PeerAck, att)
			}
			l.proveThrough(n, o, &e.PeerAck)
			o.words.spreads(&e.PeerAck)
		}
	}
}

// hearsay takes what somebody has heard of a neighbour for a sign of its life: one
// step only, since a beacon tells of what its sender has heard itself, and only
// numbers that have grown, so that old news keeps nobody alive.
func (l *Liveness) hearsay(o, by *neighbour, ack *PeerAck, att Time) {
	if ack.Seq <= o.seenSeq && o.standing != Dead {
		return
	}
	if o.standing == Unheard {
		l.meet(o, ack.Flags&AckServing != 0 && (ack.Flags&AckDead != 0 || by.standing == Dead))
	}
	if ack.Seq > o.heard {
		l.serves(o, ack.Flags&AckServing != 0, att)
	}
	l.seen(o, ack.Seq, true, att)
}

// succeeds gives a neighbour the name that it was refused, if who had the name is dead. Its
// own beacons may prove nothing, since it does not hear this node: somebody who hears it
// has told of it.
func (l *Liveness) succeeds(o *neighbour) bool {
	if o.standing != Refused || o.Name == l.self.Name {
		return false
	}
	if holder := l.holder(o.Name); holder != nil {
		if holder.standing != Dead {
			return false
		}
		l.drop(holder.Incarnation)
	}
	o.standing, o.clone = Unheard, false
	return true
}

// about returns what the beacon says of one peer.
func (b *Beacon) about(key PeerKey) PeerAck {
	for i := range b.Peers {
		if b.Peers[i].Key == key {
			return b.Peers[i]
		}
	}
	return PeerAck{}
}
