package node

import "slices"

// The lease, and why nobody takes over from a node that still has it.
//
// A node p may put the mark on a beacon that it sends at s if, for each neighbour
// m that serves, or that hears p, and of whom p has had a sign of life within the
// time quiet(), p knows that m has had a sign of a beacon of p sent at x > s-A. The
// mark prolongs p's lease, if it has not run out, to s+L.
//
// What p takes for knowledge of m's having had a sign of x, and why it is so:
//
//	1  m's beacon lists p: x. m says so only of what it took for a sign of life.
//	2  m's beacon lists q: y, and the beacon y of q, or an earlier one, which p has
//	   too, listed p: x. When m took y, it took all that y lists, or knew of a
//	   later beacon of p already.
//	3  q's beacon says that m has acknowledged q's y, and y or an earlier one
//	   listed p: x. As 2, with q as the messenger. It does not count if q says that
//	   somebody holds p dead: m may.
//
// m takes what y lists for a sign also of one that was started anew, whom it does not
// hear itself, as soon as the life before is dead (see succeeds).
//
// In each of them m has had its sign of x or of a later beacon after x was sent,
// on whatever clock; no clocks are compared. m holds p dead no earlier than D
// after its last new sign of p, so not before x+D > s-A+D > s+L: by then this mark
// has run out, and so has each earlier one. A node that m holds dead already is
// told so by m (1 and 2 do not count then) or by q (3), so it cannot arm anew.
//
// The same signs count on both sides: what makes p believe is what makes m wait.
// m in turn is among those whom p asks whenever p has had a sign of it by itself
// or through one other. Who gives p no such sign within quiet(), and gets none of
// p for D, is split from p: both serve. quiet() is short of D for the sake of the
// living: if a dead m had to be waited for until it is held dead, each death would
// let every lease run out. It counts only if m had heard p within three intervals when it
// gave its last sign, and if nothing waits to be heard; else m is waited for until it is
// dead. So m must have been silent for D less three intervals when it takes over from p.
// Who was silent itself for nearly quiet(), so that p went on without it, finds nobody dead
// before p has heard it again and lapsed (liveness_self.go). With three nodes or more, all
// ways between the two must be lost at once for that, the ways through each other node
// among them.
//
// Somebody may serve and hold p dead whose beacons p does not take: one that it hears
// through nobody but those who do not serve, or one that was started anew, has never
// heard p, and looks like a recording. So whoever p hears and says that somebody who
// serves holds p dead (AckDoubted) ends p's marks, whatever else it is, and p arms no
// lease meanwhile. It comes in time: who begins to serve takes nothing from the dead for
// D, and within two intervals p has been told, and within L after that it is silent. If
// p has lost its lease when it is told, its buckets may be another's already: it gives
// them up, as if that one had said itself that p is dead. To wait until the doubt has
// ended would not do: when p is held alive again, the other has what it has taken.
// One that was started anew may not even know p, and so hold it neither alive nor dead:
// if p has no lease, and somebody has served for nearly D without a sign of p, then p
// gives its buckets up as well (mayHaveLostTo).
//
// A neighbour that this node hears and that is deaf to it stops this node's
// lease, takes over D after it has heard its last, and says so. That is the price
// of never answering twice: a deaf node should find out by other means and be
// silent. One that neither serves nor hears this node is not asked, or a deaf
// newcomer could stop all the others. For its part it must have said for D that it
// serves before it takes over anything from the dead: whoever hears it has then
// asked it, and lapsed. A drained node takes nothing over either, so it counts as one that
// does not serve, as long as its own beacons say so and are not older than A: when it is
// resumed, it must have said so for D as well.

// proveDirectly takes a neighbour's own word on this node.
func (l *Liveness) proveDirectly(n *neighbour, seq Seq, mine PeerAck) {
	if mine.Flags&AckHeard == 0 {
		return
	}
	n.said[n.next%len(n.said)] = utterance{seq, mine.Seq}
	n.next++
	n.acked = max(n.acked, mine.Seq)
	if !l.yieldsTo(n) {
		n.proven = max(n.proven, mine.Seq)
	}
}

// proveThrough takes what n says of another neighbour: that it has heard o's
// beacons, which told of this node, and that o has heard n's, which did too.
func (l *Liveness) proveThrough(n, o *neighbour, ack *PeerAck) {
	if ack.Flags&AckHeard == 0 {
		return
	}
	recent := l.now - 2*l.detect.Interval
	if n.proven.Time() < recent && !l.yieldsTo(n) {
		n.proven = max(n.proven, o.told(ack.Seq))
	}
	if o.proven.Time() < recent && n.me&(AckHeard|AckDoubted) == AckHeard && ack.Acked > 0 {
		o.proven = max(o.proven, n.told(ack.Acked))
	}
}

// told returns the latest beacon of this node that a neighbour's beacon of that
// number, or an earlier one, told of.
func (n *neighbour) told(seq Seq) Seq {
	var mine Seq
	for _, u := range n.said {
		if u.seq <= seq {
			mine = max(mine, u.mine)
		}
	}
	return mine
}

// yieldsTo reports whether this node gives up its buckets because of what a
// neighbour says of it. If each holds the other dead (a split has healed), those
// who are more stay, and of equals the one with the lower name.
func (l *Liveness) yieldsTo(n *neighbour) bool {
	switch {
	case !l.mayTake(n) || n.standing == Refused:
		return false
	case n.me&AckRefused != 0:
		return true
	case n.me&AckDead == 0:
		return false
	case n.standing != Dead:
		return true
	case n.me&AckHeard == 0 && n.spokeAt-n.speaksSince >= l.detect.D:
		return true
	}
	if mine := l.group(); mine != n.group {
		return mine < n.group
	}
	return l.self.Name > n.Name
}

// group is how many nodes this one holds alive, itself among them.
func (l *Liveness) group() int {
	size := 1
	for _, n := range l.neighbours {
		if n.standing == Alive {
			size++
		}
	}
	return size
}

// asked reports whether the lease needs the neighbour's acknowledgement, if those
// count who have given a sign of life within that time. One that had not heard this node
// for a while when it gave its last counts for D: it may be about to hold this node dead,
// and its silence may be a few losses. So does everybody while beacons wait to be heard.
func (l *Liveness) asked(n *neighbour, att, within Time) bool {
	silent := att - n.seenAt
	if l.now-silent-n.proven.Time() > 3*l.detect.Interval || l.behind() {
		within = l.detect.D
	}
	return (l.mayTake(n) || n.me&AckHeard != 0) && silent < within
}

// deniedBy reports whether the neighbour speaks, and has the say that this node
// must not serve.
func (l *Liveness) deniedBy(n *neighbour, att Time) bool {
	return att-n.heardAt < l.detect.D && l.yieldsTo(n)
}

// doubtedBy reports whether the neighbour speaks, and says that somebody who serves and
// whom it hears holds this node dead.
func (l *Liveness) doubtedBy(n *neighbour, att Time) bool {
	return n.standing != Refused && n.me&AckDoubted != 0 && att-n.heardAt < l.detect.D
}

// MarkUntil is until when a beacon may carry the mark of the lease, as far as is
// known now. It is renewed by what is heard and by time: at least every Interval
// the sender should be given a new one. It is never far away, so that a sender
// whose core hangs does not go on for long on what the core once knew.
func (l *Liveness) MarkUntil(now Time) Time { return l.proofUntil(now, l.detect.quiet()) }

// MayArm reports whether a lease that has run out may be armed anew. With nothing
// left to lose it waits for everybody who is not silent for D, and for those who
// must yield to this node to have done so.
func (l *Liveness) MayArm(now Time) bool {
	att := l.wake(now)
	return l.proofUntil(now, l.detect.D) > l.now && !slices.ContainsFunc(l.neighbours, func(n *neighbour) bool {
		return l.mayTake(n) && n.me&AckDead != 0 && att-n.heardAt < l.detect.D
	})
}

// proofUntil is until when all who have given a sign of life within that time are
// known to wait with their verdict for longer than a lease.
func (l *Liveness) proofUntil(now, within Time) Time {
	att := l.wake(now)
	if len(l.neighbours) == 0 {
		return l.now + l.detect.D
	}
	until := l.now + l.detect.A
	for _, n := range l.neighbours {
		if l.deniedBy(n, att) || l.doubtedBy(n, att) {
			return 0
		}
		if l.asked(n, att, within) {
			until = min(until, n.proven.Time()+l.detect.A)
		}
	}
	return until
}

// Urgent reports whether a marked beacon should be sent at once, out of turn: the
// lease has run down by a third for want of acknowledgements, and now there are
// some. Where losses are heavy this saves most leases, for a few beacons more.
// tried is when a beacon last left that had the mark, or that was sent for this
// reason: without the latter, nodes that cannot prolong anything would answer each
// other's beacons without end.
func (d Detect) Urgent(now, tried, markUntil Time) bool {
	return now < markUntil && now-tried >= d.L/3
}

// Denied returns those who speak and have the say that this node must not serve,
// by key. While there are any, the lease must not be armed.
func (l *Liveness) Denied(now Time) []Incarnation {
	return l.pick(now, l.deniedBy)
}

// Returning returns those, by key, who speak but are still held dead. While there
// are any, this node should not begin to serve: it would only drive them out.
func (l *Liveness) Returning(now Time) []Incarnation {
	return l.pick(now, func(n *neighbour, att Time) bool { return n.standing == Dead && att-n.seenAt < l.detect.D })
}

// AppendAcks appends to buf what the next beacon says of each neighbour.
func (l *Liveness) AppendAcks(buf []PeerAck, now Time) []PeerAck {
	att := l.wake(now)
	start := len(buf)
	for _, n := range l.neighbours {
		if n.seq == 0 && n.standing == Unheard || n.standing == Gone {
			continue
		}
		ack := PeerAck{Key: n.key, Seq: n.seq, Acked: n.acked}
		switch n.standing {
		case Alive:
			ack.Flags |= AckAlive
		case Dead:
			ack.Flags |= AckDead
		case Refused:
			if n.clone {
				ack.Flags |= AckRefused
			}
		}
		if n.standing != Refused && n.seq > 0 && n.heard == n.seq && att-n.heardAt < l.detect.D && !n.short.unread {
			ack.Flags |= AckHeard
		}
		if ack.Flags&AckHeard != 0 && att-n.mediums[Wire].at < l.detect.D {
			ack.Flags |= AckOnWire
		}
		if n.serving {
			ack.Flags |= AckServing
		}
		if ack.Flags&AckHeard != 0 && n.words.current() {
			ack.Flags |= AckCurrent
		}
		buf = append(buf, ack)
	}
	l.doubt(buf[start:], att)
	return buf
}

// doubt marks those who are held dead by somebody who serves and speaks.
func (l *Liveness) doubt(acks []PeerAck, att Time) {
	for _, n := range l.neighbours {
		if !l.mayTake(n) || n.standing == Refused || att-n.heardAt >= l.detect.D {
			continue
		}
		for _, key := range n.holdsDead {
			for i := range acks {
				if acks[i].Key == key {
					acks[i].Flags |= AckDoubted
				}
			}
		}
	}
}
