package node

import (
	"net/netip"

	"github.com/peervip/peervip/hashring"
)

// Event is something that happened to the node. The core learns everything
// through events.
type Event interface{ event() }

type (
	// Tick: time passed. Any event carries the time; this one carries nothing else.
	Tick struct{}

	// Started: the process is up. The rest is what it remembers of its last life,
	// from the last Save.
	Started struct {
		Drained, Forced bool
		Grace           *Time  // see Wish
		Obeyed          uint64 // the highest of Stamps
		Stamps          Stamps // see Statement
		// Doubt: what it remembered is lost. It is Drained unless a peer knows better.
		Doubt bool
	}

	// SeedsTried: every seed has been tried once, so those that can be reached are
	// known by now.
	SeedsTried struct{}

	// OtherKey: all seeds that answer have another key, in words; "": not so. They may be
	// a cluster that this node must not serve beside. Seeds are those that said so.
	OtherKey struct {
		Why   string
		Seeds []netip.Addr
	}

	// PeerAlive: gossip holds the peer alive, newly or in a new incarnation.
	PeerAlive struct {
		Incarnation
		Address string
		// SpecRevision and SpecDigest are of the spec that the peer runs.
		SpecRevision int
		SpecDigest   uint64
		Reads        Formats
	}

	// PeerDead: gossip holds the peer dead; Left says that it took its leave.
	PeerDead struct {
		Name string
		Left bool
	}

	// PeerUnreadable: gossip holds the member alive, and this program does not understand it:
	// Why is a sentence that names it. It is no peer, and it is not "not there".
	PeerUnreadable struct {
		Name    string
		Address netip.Addr
		Why     string
	}

	// PeerStanding: what beacons make of an incarnation has changed.
	PeerStanding struct {
		Incarnation
		Standing Standing
		// Hearsay: it is alive by the word of others, who hear its beacons. What those say
		// of it is not known here.
		Hearsay bool
	}

	// PeerSpoke: a beacon said something new of its sender. Lease and Epoch of the
	// bulletin are not set.
	PeerSpoke struct {
		Incarnation
		Bulletin
	}

	// HeldDead: one whose word goes before this node's holds it dead. Its lease is
	// gone, and what is decided before the core knows the epoch gives it no other.
	HeldDead struct {
		Epoch uint64
		By    string
	}

	// Heralded: what this node may do, by the beacons.
	Heralded struct {
		// Lease: the kernel holds the lease, as far as is known.
		Lease bool
		// CutOff: this node has no wire-proof, though others have.
		CutOff bool
		// Barred is why this node must not begin to serve; "": it may.
		Barred string
		// Unknown is who hears somebody serve of whom this node hears nothing, in
		// words; "": nobody does.
		Unknown string
		// Apart is who is held alive by somebody whom this node hears, and dead by this
		// node, in words; "": nobody is. See liveness_apart.go.
		Apart string
		// Unheeded: no peer gets this node's messages; Uninformed: this node gets those of
		// none; though the peers get each other's.
		Unheeded, Uninformed bool
		// Deaf is who does not hear whose beacons, in words; "": everybody hears everybody.
		Deaf string
	}

	// StrangersHeard: the strangers on the wire as they are now, by address.
	StrangersHeard struct{ List []Stranger }

	// VIPAnswered is the outcome of AskVIP: the MAC that answered an echo request to the
	// VIP ("": nobody did), or why it could not be asked.
	VIPAnswered struct {
		By  string
		Err error
	}

	// ServeDespite: an operator has it that strangers of that address do not keep this
	// node from serving.
	ServeDespite struct{ Address netip.Addr }

	// Received: a message came. The core judges whether it is fresh.
	Received struct{ Message *Message }

	// Committed: the kernel has carried out commit ID, or refused it as a whole.
	Committed struct {
		ID  uint64
		Err error
	}

	// Attached: the VIP is up on this node (after an Attach), or why not.
	Attached struct{ Err error }

	// WireChanged: the interface can carry traffic, or why it cannot.
	WireChanged struct {
		OK     bool
		Reason string
		// Forwards: some neighbour has answered, so the switch port forwards.
		Forwards bool
	}

	// HealthChanged: the checks of one service pass here, or why they do not.
	HealthChanged struct {
		Service int
		Fit     bool
		Reason  string
	}

	// Wished: an operator wants something of a node. The answer comes as an
	// Answer with the same token.
	Wished struct {
		Token uint64
		Wish
	}

	// Leave: hand everything over and stop. With KeepFlows, for a restart, the flows
	// that are here are not waited for and not ended: they go on with the next
	// incarnation. With Now they are ended once everything is handed over; that can be
	// asked for while a leave is under way.
	Leave struct{ KeepFlows, Now bool }

	// FlowsFound answers FindFlows: the slots of which a flow lives here, or why
	// that cannot be told.
	FlowsFound struct {
		Live hashring.Set
		Err  error
	}

	// FlowsListed answers ListFlows: the flows found, by slot, and how many more there
	// are; or why there is no telling.
	FlowsListed struct {
		Slots  []SlotFlows
		Beyond int
		Err    error
	}

	// FlowsCounted: the flows that this node serves, by service, and those of them that
	// keep it from having drained or left; -1: these were not counted.
	FlowsCounted struct {
		Counts  []int
		Waiting int
	}
)

func (Tick) event()           {}
func (Started) event()        {}
func (SeedsTried) event()     {}
func (PeerAlive) event()      {}
func (PeerDead) event()       {}
func (PeerUnreadable) event() {}
func (PeerStanding) event()   {}
func (PeerSpoke) event()      {}
func (HeldDead) event()       {}
func (Heralded) event()       {}
func (Received) event()       {}
func (Committed) event()      {}
func (Attached) event()       {}
func (WireChanged) event()    {}
func (HealthChanged) event()  {}
func (Wished) event()         {}
func (Leave) event()          {}
func (FlowsFound) event()     {}
func (FlowsListed) event()    {}
func (FlowsCounted) event()   {}

func (OtherKey) event()       {}
func (StrangersHeard) event() {}
func (VIPAnswered) event()    {}
func (ServeDespite) event()   {}
