// Package node is the pure core of peervip: what a node knows of its peers,
// which buckets it should own, and how a bucket moves from one node to another.
// It must know no clock, no socket, no goroutine and no logger: time and
// randomness are arguments, everything it wants done is a returned value.
package node

import "fmt"

// State is what a node's kernel does with the packets of one bucket
// (docs/packets.md has the table of the four).
type State uint8

const (
	// None: the node drops the bucket's packets. The zero value.
	None State = iota
	// Own: the node accepts everything of the bucket.
	Own
	// Adopt: the node accepts new flows, but leaves alone what an older owner
	// may still serve.
	Adopt
	// Linger: the node accepts only the flows that it already has: of TCP and SCTP
	// those that its kernel knows, of other protocols those on a list that the
	// bucket's new owner has too.
	Linger
	// Yield: on the way to Linger, while that list is made. The node accepts all flows
	// that its kernel knows, but for those on the lists of others, and nothing new.
	Yield
	// Wary: on the way to Adopt, while lists are missing. As that, but of protocols
	// other than TCP, SCTP and ICMP the node accepts what is on its own list.
	Wary
)

var stateNames = [...]string{None: "none", Own: "own", Adopt: "adopt", Linger: "linger", Yield: "yield", Wary: "wary"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// AcceptsNew says whether a bucket in this state takes new flows, which is what
// a claim tells the peers.
func (s State) AcceptsNew() bool { return s == Own || s == Adopt || s == Wary }

// Phase is where a node stands in its life.
type Phase uint8

const (
	// Joining: a member, or about to be one; owns nothing yet.
	Joining Phase = iota
	// Active: takes its share of the buckets.
	Active
	// Draining: wants no new flows; keeps each bucket until its heir asks.
	Draining
	// Drained: a draining node that has given everything away.
	Drained
	// Restarting: hands everything over and stops, but its flows stay for its next
	// incarnation, and the peers leave them alone.
	Restarting
	// Leaving: hands everything over and stops.
	Leaving
)

var phaseNames = [...]string{
	Joining: "joining", Active: "active", Draining: "draining",
	Drained: "drained", Restarting: "restarting", Leaving: "leaving",
}

func (p Phase) String() string {
	if int(p) < len(phaseNames) {
		return phaseNames[p]
	}
	return fmt.Sprintf("Phase(%d)", uint8(p))
}

// MarshalText writes the phase's name.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a phase's name. A word that a later version knows is Draining: such a
// node keeps what it has, and is given nothing.
func (p *Phase) UnmarshalText(text []byte) error {
	for i, name := range phaseNames {
		if name == string(text) {
			*p = Phase(i)
			return nil
		}
	}
	*p = Draining
	return nil
}

// Serving says whether a node in this phase is part of the view: it may own
// buckets, or still owns those that nobody has asked it for.
func (p Phase) Serving() bool { return p == Active || p == Draining || p == Drained }

// Going says whether a node in this phase hands everything over, and then ends.
func (p Phase) Going() bool { return p == Leaving || p == Restarting }
