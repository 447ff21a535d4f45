package node

import (
	"cmp"
	"slices"
	"time"
)

// Medium is a way that beacons take.
type Medium uint8

const (
	// Wire: the segment of the VIP, by the cluster MAC, as the clients' packets come.
	Wire Medium = iota
	// Unicast: plain datagrams between node addresses, perhaps on another network.
	Unicast

	mediums = int(Unicast) + 1
)

func (m Medium) String() string {
	if m == Wire {
		return "wire"
	}
	return "unicast"
}

// Detect is the timing of liveness and lease, the same on all nodes. The proof in
// liveness_mark.go needs A + L < D; what lies between is for the way from the
// sender's look at the clock to the egress hook.
type Detect struct {
	Interval Time // from one beacon to the next
	D        Time // a peer silent for so long is dead
	A        Time // a beacon may carry the mark while the peers have heard one not older than this
	L        Time // for so long a marked beacon prolongs the lease
	Return   Time // a dead peer that speaks steadily for so long is alive again
}

// remembers is for how long a dead peer that is no member any more is told that it is
// dead, should it only have been asleep.
func (d Detect) remembers() Time { return 60 * d.Return }

// NewDetect returns the timing that follows from the interval and how many
// beacons must be missed.
func NewDetect(interval Time, misses int) Detect {
	d := interval * Time(misses)
	// The kernel takes whole milliseconds of a lease.
	return Detect{Interval: interval, D: d, A: d * 3 / 10, L: d * 6 / 10 / 1e6 * 1e6, Return: 1e9}
}

// MaxLate is how much later than it was decided on a marked beacon may leave: half of what
// A and L leave of D. The other half is for clocks that run at different rates: D by the
// quickest must not be shorter than A, L and this by the slowest. With L and A as they are
// that holds for clocks up to 5 % apart.
func (d Detect) MaxLate() Time { return (d.D - d.A - d.L) / 2 }

// quiet is how long a peer must have been silent before the lease no longer waits
// for its acknowledgement: long, since a peer that is silent may still hold this
// node dead, but short enough that the lease outlives the peer's death. With its
// last beacon the dead peer has acknowledged one that is up to two intervals older;
// the last marked beacon leaves A after that one, or up to an interval before; the
// next leaves up to one after the peer is quiet; and one is for what is late.
func (d Detect) quiet() Time { return max(d.A, min(d.D/2, d.A+d.L-5*d.Interval)) }

// Standing is what this node holds of an incarnation.
type Standing uint8

const (
	// Unheard: known by its name, but no fresh beacon has come, of it or about it.
	Unheard Standing = iota
	// Alive: heard by this node, or by somebody whom this node hears.
	Alive
	// Dead: silent for D, and not yet steadily back.
	Dead
	// Refused: another incarnation has its name and is not dead.
	Refused
	// Gone: it has taken its leave, though beacons of it may still come.
	Gone
)

var standingNames = [...]string{Unheard: "unheard", Alive: "alive", Dead: "dead", Refused: "refused", Gone: "gone"}

func (s Standing) String() string { return standingNames[s] }

// MarshalText writes the standing's name.
func (s Standing) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// StandingChange is a transition of one incarnation.
type StandingChange struct {
	Incarnation
	From, To Standing
}

// neighbour is what liveness knows of one incarnation. Times without a word are
// on the attentive clock.
type neighbour struct {
	Incarnation
	key      PeerKey
	reads    uint8 // the highest format of beacons that it reads, as far as is known
	standing Standing
	named    bool // told of by the shell: it stays though it is silent
	clone    bool // refused, and the incarnation that has the name has spoken since

	// What came from it, by itself.
	met         bool // it has once named this incarnation of this node: no replay of an earlier life
	seq         Seq  // of the last beacon that was looked at
	firstAt     Time // when it was admitted
	spokeAt     Time // a beacon of it came, believed or not; never: noTime
	speaksSince Time // spokeAt when it last began after a silence of D
	heardAt     Time // a sign of life by itself; never: noTime
	heard       Seq  // the number of that one
	mediums     [mediums]struct {
		seq Seq
		at  Time // never: noTime
	}

	// Signs of life, by itself or through others.
	seenSeq Seq
	seenAt  Time // when seenSeq last grew; never: noTime
	// servesAt is since when it is known to serve, and servesFrom the same on this node's own
	// clock, as the numbers of beacons are.
	servesAt, servesFrom Time
	// vouchedAt is when another neighbour last said that it holds it alive; never: noTime.
	vouchedAt Time
	voucher   Incarnation
	// Signs of a return, while it is dead.
	backSeq            Seq
	backAt, backSeenAt Time // of the first and the last in a steady row; never: noTime

	// What it says.
	serving   bool
	phase     Phase
	wireProof bool
	hearsWire bool // it hears somebody else than this node on the wire
	// hearsOthers: it holds somebody alive and serving whom this node does not know.
	hearsOthers bool
	group       int       // nodes that it holds alive, and itself
	holdsDead   []PeerKey // in rising order
	me          AckFlags  // of this node
	acked       Seq       // the last beacon of this node that it says to have heard

	// proven is the last beacon of this node of which it is known to have had a
	// sign, from this node or through another (see liveness_mark.go).
	proven Seq
	said   [8]utterance // the last beacons of it that told of this node
	next   int

	short shortened
	words words
	deaf  []deafTo // whom it does not hear, though it holds them alive
	// hearsay: the core knows that it is alive by the word of others only.
	hearsay bool
}

// utterance is one beacon of a neighbour, and which beacon of this node it told of.
type utterance struct{ seq, mine Seq }

const noTime = Time(-1 << 62)

// Liveness is the state machine of who is heard, who is alive, and how long this
// node may keep its lease. It must be used by one goroutine, and called at least
// every Interval: a longer gap counts as a stall of this node, in which the
// silence of others means nothing. The times given to it are read when it is
// called, and never run backwards.
type Liveness struct {
	self   Incarnation
	key    PeerKey
	detect Detect
	now    Time
	// slept is how long this node was stalled, in all. now-slept is the attentive
	// clock, on which silence is measured.
	slept Time
	// heardAll is until when, on that clock, all that has come has been heard, if
	// attends. What has come and waits to be heard ends no silence yet, but it is none.
	heardAll   Time
	attends    bool
	spokeAt    Time         // when this node last spoke, see Speak; noTime: it has not, or need not
	serving    bool         // this node serves
	neighbours []*neighbour // in rising order of their keys
	changes    []StandingChange

	sent      sentNumbers
	index     []briefPlace // of the neighbours and this node, in rising order; nil: to be made anew
	nextWhole int          // the acknowledgement from where on some are whole
	entries   []entry      // of the beacon at hand
	// When this node's messages reached somebody last, and somebody's this node.
	heededAt, informedAt Time
}

// NewLiveness returns the liveness of a node that has heard nobody yet.
func NewLiveness(self Incarnation, detect Detect) *Liveness {
	return &Liveness{self: self, key: KeyOf(self), detect: detect, spokeAt: noTime}
}

// Attend says that the time has come to judge, and whether all that has come has been
// heard. As long as it has not, the silence of others is not counted: they may have
// spoken. A node that never calls it hears everything at once.
func (l *Liveness) Attend(now Time, heardAll bool) {
	if heardAll || !l.attends {
		l.AttendUntil(now, now)
		return
	}
	l.stir(now)
}

// AttendUntil says that all has been heard that had come by then. A flood of which
// something always waits keeps nobody's silence from being counted.
func (l *Liveness) AttendUntil(now, heard Time) {
	att := l.stir(now)
	if !l.attends {
		heard = now
	}
	l.heardAll = max(l.heardAll, att-(now-min(heard, now)))
	l.attends = true
}

// stir moves the clocks. It returns the attentive one.
func (l *Liveness) stir(now Time) Time {
	if gap := now - l.now; gap > 2*l.detect.Interval {
		l.slept += gap - l.detect.Interval
	}
	l.now = max(l.now, now)
	return l.now - l.slept
}

// wake moves the clocks too. It returns the time up to which silence can be told.
func (l *Liveness) wake(now Time) Time {
	att := l.stir(now)
	if l.attends {
		return min(att, l.heardAll)
	}
	return att
}

// Know tells of an incarnation of which others than beacons speak. It may then be
// held alive through others before it was ever heard.
func (l *Liveness) Know(now Time, inc Incarnation) {
	att := l.wake(now)
	n := l.find(inc)
	if n == nil {
		n = l.admit(inc, true, att)
	}
	if n != nil {
		n.named = true
		if n.standing == Gone {
			n.standing = Unheard
		}
	}
}

// Forget tells of an incarnation that is no member any more. One that is held alive and
// says itself that it goes, in its beacons or elsewhere, is gone: nobody waits for it, and what still comes of it means
// nothing. For anything else its own beacons decide: one that is alive stays so for as
// long as it speaks, and one that is dead is told so for a while, should it come back.
func (l *Liveness) Forget(inc Incarnation, gone bool) {
	n := l.find(inc)
	switch {
	case n == nil:
	case n.standing == Alive && (gone || n.phase.Going()):
		n.named, n.standing = false, Gone
		n.serving, n.me, n.holdsDead = false, 0, n.holdsDead[:0]
	case n.standing == Alive, n.standing == Dead && !n.phase.Going():
		n.named = false
	default:
		l.drop(inc)
	}
}

func (l *Liveness) drop(inc Incarnation) {
	l.index = nil
	for i := range l.entries {
		if e := &l.entries[i]; e.who != nil && e.who.Incarnation == inc {
			e.who = nil
		}
	}
	l.neighbours = slices.DeleteFunc(l.neighbours, func(n *neighbour) bool { return n.Incarnation == inc })
}

// Forgive takes all who speak and are held dead for alive at once. It is for a
// node that gives up its buckets because it was held dead itself: the silence that
// it saw was its own.
func (l *Liveness) Forgive(now Time) {
	att := l.wake(now)
	for _, n := range l.neighbours {
		if n.standing == Dead && att-n.seenAt < l.detect.D {
			l.turn(n, Alive)
		}
	}
}

// Alive reports whether the incarnation is held alive.
func (l *Liveness) Alive(inc Incarnation) bool {
	n := l.find(inc)
	return n != nil && n.standing == Alive
}

// Changes returns what has changed since the last call, and by the time that has
// passed, by name.
func (l *Liveness) Changes(now Time) []StandingChange {
	att := l.wake(now)
	for _, n := range l.neighbours {
		switch {
		case n.standing == Alive && att >= n.seenAt+l.detect.D && !l.speechless():
			n.backSeq, n.backAt, n.backSeenAt = n.seenSeq, noTime, noTime
			l.turn(n, Dead)
		case n.standing == Dead && l.returned(n, att):
			l.turn(n, Alive)
		case n.standing == Dead && !n.named && att >= max(n.spokeAt, n.seenAt)+l.detect.remembers(),
			n.standing == Gone && att >= max(n.spokeAt, n.seenAt)+l.detect.D:
			l.turn(n, Unheard)
		}
	}
	// Who only passed by leaves no trace.
	before := len(l.neighbours)
	l.neighbours = slices.DeleteFunc(l.neighbours, func(n *neighbour) bool {
		return !n.named && (n.standing == Unheard || n.standing == Refused) && att >= n.spokeAt+l.detect.D
	})
	if len(l.neighbours) != before {
		l.index = nil
	}
	changes := l.changes
	l.changes = nil
	slices.SortStableFunc(changes, func(a, b StandingChange) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Nonce, b.Nonce))
	})
	return changes
}

// Deadline is when Changes or MarkUntil may next say something new though nobody
// has been heard. It is never more than an interval away while anybody is known,
// since time that nobody looks at is no silence.
func (l *Liveness) Deadline(now Time) Time {
	att := l.wake(now)
	if len(l.neighbours) == 0 {
		return Forever
	}
	next := l.now + l.detect.Interval
	for _, n := range l.neighbours {
		for _, at := range [...]Time{n.seenAt + l.detect.D, n.seenAt + l.detect.quiet(), n.backAt + l.detect.Return} {
			if at > att {
				next = min(next, max(at+l.slept, l.now+time.Millisecond))
			}
		}
	}
	return next
}

// Forever is later than any time.
const Forever = Time(1<<63 - 1)

func (l *Liveness) turn(n *neighbour, to Standing) {
	l.changes = append(l.changes, StandingChange{n.Incarnation, n.standing, to})
	n.standing = to
}

// returned reports whether a dead neighbour has been back for long enough.
func (l *Liveness) returned(n *neighbour, att Time) bool {
	return n.backAt != noTime && att-n.backAt >= l.detect.Return && att-n.backSeenAt < l.detect.D/2
}

func (l *Liveness) search(key PeerKey) (int, bool) {
	return slices.BinarySearchFunc(l.neighbours, key, func(n *neighbour, key PeerKey) int { return cmp.Compare(n.key, key) })
}

func (l *Liveness) find(inc Incarnation) *neighbour {
	if i, ok := l.search(KeyOf(inc)); ok && l.neighbours[i].Incarnation == inc {
		return l.neighbours[i]
	}
	return nil
}

// admit makes room for an incarnation, which is named or only speaks, and returns nil if
// there is none. One whose name another has already is refused until that one is dead.
func (l *Liveness) admit(inc Incarnation, named bool, att Time) *neighbour {
	i, taken := l.search(KeyOf(inc))
	if taken || inc == l.self || KeyOf(inc) == l.key { // two names or nonces with one hash
		return nil
	}
	if len(l.neighbours) == MaxBeaconPeers {
		if !l.evict(named, att) {
			return nil
		}
		i, _ = l.search(KeyOf(inc))
	}
	n := &neighbour{
		Incarnation: inc, key: KeyOf(inc), reads: BeaconMin,
		firstAt: att, spokeAt: noTime, heardAt: noTime, seenAt: noTime, backAt: noTime, backSeenAt: noTime, vouchedAt: noTime,
	}
	for m := range n.mediums {
		n.mediums[m].at = noTime
	}
	if inc.Name == l.self.Name || l.holder(inc.Name) != nil {
		n.standing = Refused
	}
	l.neighbours = slices.Insert(l.neighbours, i, n)
	l.index = nil
	return n
}

// evict drops the neighbour that matters least, if one does not matter at all: one that
// nobody has named before one that is named, and one that was never alive before one that
// is dead. Nobody goes who is alive, or who speaks; but for a member also those go who
// speak and are neither named nor alive, since they may be recordings.
func (l *Liveness) evict(forMember bool, att Time) bool {
	least, leastWorth := -1, 0
	for i, n := range l.neighbours {
		speaks := att-n.spokeAt < l.detect.D || att-n.seenAt < l.detect.D
		if n.standing == Alive || speaks && (n.named || !forMember) {
			continue
		}
		worth := 0
		if n.named {
			worth += 2
		}
		if n.standing == Dead {
			worth++
		}
		if least < 0 || worth < leastWorth {
			least, leastWorth = i, worth
		}
	}
	if least < 0 {
		return false
	}
	l.neighbours = slices.Delete(l.neighbours, least, least+1)
	l.index = nil
	return true
}

// holder returns the incarnation that has the name; nil: none.
func (l *Liveness) holder(name string) *neighbour {
	for _, n := range l.neighbours {
		if n.Name == name && n.standing != Refused && n.standing != Gone {
			return n
		}
	}
	return nil
}
