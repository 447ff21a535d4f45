package node

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Beacons and messages take different ways, and one of them may fail. A node whose
// messages reach nobody, or that gets none, can neither give nor take a bucket, and the
// others wait for its word. What it cannot find out by messages it finds out by beacons:
// each says of each peer whether its sender has the statement that the peer's last beacon
// named (AckCurrent). A beacon of format 1 cannot say that, and then nothing follows.

// words is what is known of how a neighbour's statements spread.
type words struct {
	claims uint64 // version of its statement, by its last beacon
	from   Seq    // the first of its beacons that named this version; 0: none has come
	at     Time   // when that came
	spread bool   // somebody else says that it has this version
	have   uint64 // version of its statement that this node has
	tells  bool   // its beacons can say whose statements it has
}

// Have tells which version of a neighbour's statement this node has.
func (l *Liveness) Have(inc Incarnation, version uint64) {
	if n := l.find(inc); n != nil {
		n.words.have = max(n.words.have, version)
	}
}

// current reports whether this node has the statement that the neighbour's last beacon named.
func (w *words) current() bool { return w.claims > 0 && w.have >= w.claims }

// named takes the version that a neighbour's beacon names.
func (w *words) named(b *Beacon, att Time) {
	w.tells = b.Format > 1
	if w.from == 0 || b.Claims != w.claims {
		w.claims, w.from, w.at, w.spread = b.Claims, b.Seq, att, false
	}
}

// spreads takes what a neighbour's beacon says of another.
func (w *words) spreads(ack *PeerAck) {
	w.spread = w.spread || w.from > 0 && ack.Seq >= w.from && ack.Flags&AckCurrent != 0
}

// wordsLast is for how long no message may pass before it counts: longer than a node is
// busy at a start of all, and short enough for the others to take over within 5 s.
func wordsLast(detection Time) Time { return max(3*time.Second, 5*detection) }

// watchWords notes when messages between this node and the others passed last. It is for
// nodes that serve beside two others that do and that hear it: of two nodes nobody knows
// whose fault it is.
func (l *Liveness) watchWords(att Time) {
	peers, heeded, informed := 0, false, false
	for _, n := range l.neighbours {
		if n.standing != Alive || !n.serving || att-n.heardAt >= l.detect.D || n.me&AckHeard == 0 {
			continue
		}
		peers++
		heeded = heeded || n.me&AckCurrent != 0 || !n.words.tells
		informed = informed || n.words.current()
	}
	if heeded || peers < 2 {
		l.heededAt = att
	}
	if informed || peers < 2 {
		l.informedAt = att
	}
}

// Unheeded reports whether none of the others gets this node's messages, and Uninformed
// whether this node gets none of theirs, though they get each other's. That they do is
// seen by a statement which is about as new as the one that does not pass: while
// nobody has anything new to say, or nobody's messages pass, nobody is the odd one.
func (l *Liveness) Unheeded(now Time) bool {
	att := l.wake(now)
	l.watchWords(att)
	return att-l.heededAt >= wordsLast(l.detect.D) && slices.ContainsFunc(l.neighbours, func(n *neighbour) bool {
		return n.words.spread && n.words.at >= l.heededAt-2*l.detect.D
	})
}

// Uninformed: see Unheeded.
func (l *Liveness) Uninformed(now Time) bool {
	att := l.wake(now)
	l.watchWords(att)
	return att-l.informedAt >= wordsLast(l.detect.D) && slices.ContainsFunc(l.neighbours, func(n *neighbour) bool {
		return n.words.spread && n.words.at >= l.informedAt-2*l.detect.D && !n.words.current()
	})
}

// deafLasts is for how long a node must not have heard another that is alive before that is
// worth telling.
func (d Detect) deafLasts() Time { return max(2*time.Second, 2*d.D) }

// deafTo is whom a neighbour does not hear, though it holds it alive.
type deafTo struct {
	key   PeerKey
	since Time
}

// deafTowards takes what a neighbour's beacon says of one whom it holds alive. It forgets
// nodes that are gone when there is a new one: no beacon will name those any more.
func (l *Liveness) deafTowards(n *neighbour, ack *PeerAck, att Time) {
	i := slices.IndexFunc(n.deaf, func(d deafTo) bool { return d.key == ack.Key })
	deaf := ack.Flags&(AckAlive|AckHeard) == AckAlive
	switch {
	case deaf && i < 0:
		n.deaf = slices.DeleteFunc(n.deaf, func(d deafTo) bool {
			_, known := l.search(d.key)
			return !known && d.key != l.key
		})
		n.deaf = append(n.deaf, deafTo{ack.Key, att})
	case !deaf && i >= 0:
		n.deaf = slices.Delete(n.deaf, i, i+1)
	}
}

// byHearsay reports whether the neighbour is alive by the word of others only, for D at
// least: at a start of all that is so for a moment.
func (l *Liveness) byHearsay(n *neighbour, att Time) bool {
	return n.standing == Alive && att-max(n.heardAt, n.firstAt) >= l.detect.D
}

// hearsayChanges returns those, by key, who are alive and of whom it has become, or is no
// longer, so that only others hear them.
func (l *Liveness) hearsayChanges(now Time) []Incarnation {
	att := l.wake(now)
	var list []Incarnation
	for _, n := range l.neighbours {
		if is := l.byHearsay(n, att); is != n.hearsay {
			n.hearsay = is
			if n.standing == Alive {
				list = append(list, n.Incarnation)
			}
		}
	}
	return list
}

// deafPairs says in words who does not hear whom, by its own beacons; "": nobody.
func (l *Liveness) deafPairs(now Time) string {
	att := l.wake(now)
	type pair struct{ by, to string }
	var pairs []pair
	for _, o := range l.neighbours {
		if o.standing != Alive {
			continue
		}
		if l.byHearsay(o, att) && att-max(o.heardAt, o.firstAt) >= l.detect.deafLasts() {
			pairs = append(pairs, pair{l.self.Name, o.Name})
		}
		if att-o.heardAt >= l.detect.D {
			continue
		}
		for _, d := range o.deaf {
			if att-d.since < l.detect.deafLasts() {
				continue
			}
			if d.key == l.key {
				pairs = append(pairs, pair{o.Name, l.self.Name})
			} else if i, ok := l.search(d.key); ok && l.neighbours[i].standing == Alive {
				pairs = append(pairs, pair{o.Name, l.neighbours[i].Name})
			}
		}
	}
	var said []string
	for _, p := range pairs {
		mutual := slices.Contains(pairs, pair{p.to, p.by})
		switch {
		case !mutual:
			said = append(said, fmt.Sprintf("%s does not hear %s", p.by, p.to))
		case p.by < p.to:
			said = append(said, fmt.Sprintf("%s and %s do not hear each other", p.by, p.to))
		}
	}
	slices.Sort(said)
	return strings.Join(slices.Compact(said), ", ")
}
