package node

import (
	"github.com/peervip/peervip/hashring"
)

// Effect is something that the core wants done.
type Effect interface{ effect() }

type (
	// Commit: bring the kernel to these states in one transaction, and report the
	// outcome as Committed with the same ID. There is never more than one open.
	Commit struct {
		ID      uint64
		Changes []Change
		// Unlist and then List change the lists of these buckets; those of a bucket
		// that changes its state are empty first.
		List, Unlist []Flow
		// Cut: slots whose flows that live here are to be ended first, so that both
		// ends know.
		Cut hashring.Set
		// Probe: there is nothing to change. Write again what is there, to see whether the
		// kernel takes commits.
		Probe bool
	}

	// Send: give the message to the transport, for one peer. Unlisted: gossip does not
	// reach the peer, whose beacons still come; take their way.
	Send struct {
		To       string
		Unlisted bool
		Message  *Message
	}

	// Attach: bring the VIP up and answer for it; report Attached.
	Attach struct{}

	// Save: remember over a restart. Forced says that the node was drained by force
	// though no other was fit, and must not even serve as the last one.
	Save struct {
		Drained, Forced bool
		Grace           *Time
		Obeyed          uint64 // the highest of Stamps
		Stamps          Stamps // see Statement
		Doubt           bool   // see Started
	}

	// Answer: tell the operator who wished. An empty Refused means done, or kept
	// for later as Note says.
	Answer struct {
		Token   uint64
		Refused string
		Note    string
	}

	// Notice: something an operator may want to read in the log.
	Notice struct {
		// Act is true if somebody should act on it.
		Act  bool
		Text string
	}

	// FindFlows: look which of the slots have flows that live here, and report
	// FlowsFound. There is never more than one open. Flows without connections live
	// only in those that are Listed, of which the kernel goes by a list of this node's.
	FindFlows struct{ Slots, Listed hashring.Set }

	// ListFlows: list the flows without connections of the slots, at most so many,
	// and report FlowsListed. There is never more than one open.
	ListFlows struct {
		Slots hashring.Set
		Most  int
	}

	// Know: beacons of this incarnation, at that address, are of interest.
	Know struct {
		Incarnation
		Address string
		Reads   uint8 // the highest format of beacons that it reads; 0: not known
	}

	// Forget: this incarnation is no more. Gone: it has said itself, though perhaps not in
	// a beacon yet, that it goes, and has nothing.
	Forget struct {
		Incarnation
		Gone bool
	}

	// Have: that version of the peer's statement has come, for beacons to say so.
	Have struct {
		Incarnation
		Version uint64
	}

	// Verify: beacons show this incarnation alive, and it is no member. If it is not known
	// to them any more, the word of it was old: report PeerStanding{Standing: Unheard}.
	Verify struct{ Incarnation }

	// AskVIP: send three echo requests for the VIP to the cluster MAC and report
	// VIPAnswered. This node does not serve.
	AskVIP struct{}

	// Stop: everything is handed over; end the process. With KeepFlows the host keeps
	// the VIP, for the flows of the next incarnation.
	Stop struct{ KeepFlows bool }
)

// Change is the new state of one bucket.
type Change struct {
	Service, Bucket int
	State           State
}

func (Commit) effect()    {}
func (Send) effect()      {}
func (Attach) effect()    {}
func (Save) effect()      {}
func (Answer) effect()    {}
func (Notice) effect()    {}
func (FindFlows) effect() {}
func (ListFlows) effect() {}
func (Know) effect()      {}
func (Forget) effect()    {}
func (Verify) effect()    {}
func (Have) effect()      {}
func (Stop) effect()      {}

func (AskVIP) effect() {}
