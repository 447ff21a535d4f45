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

// Config is what the core needs to know at its birth.
type Config struct {
	Incarnation
	// Address is this node's own, which its beacons come from.
	Address netip.Addr
	// Weight as configured (100 is the default).
	Weight int
	// Buckets per service.
	Buckets int
	// Services by number. Checked says that the service has health checks, and is
	// unfit until they have passed.
	Services []Service
	// DropUnhealthy: when no node is fit for a service, nobody serves it. Else its
	// buckets stay where they are.
	DropUnhealthy bool
	// DrainTimeout is how long the flows of a node that drains or leaves may go on.
	DrainTimeout Time
	SpecRevision int
	SpecDigest   uint64
	Timing       Timing
	// Silence is how long peers must be silent to be dead (Detect.D). 0: there are
	// no beacons; gossip alone says who is alive, and there is no lease.
	Silence Time
}

// Service is one class of the VIP's traffic.
type Service struct {
	Name    string
	Checked bool
	// Linger: flows stay on the node where they are when their bucket moves, those of
	// TCP and SCTP; with LingerAll also the others.
	Linger, LingerAll bool
	// Single: one node serves all buckets, and goes on when others come back; with
	// Preempt the one of the highest weight.
	Single, Preempt bool
}

// Timing are the protocol's periods.
type Timing struct {
	// Retry: a request, grant or statement that was not answered is sent again: a
	// quarter of the detection time. Too short floods a slow network, too long
	// lengthens the gap after a loss, and lets Agreement run out after a few.
	Retry Time
	// Answer: a request is given up when nothing has come from the holder for so long; and
	// after four times as long in any case, since its grant may have been lost for good.
	Answer Time
	// Agreement: the longest wait for the peers to share this node's view before
	// orphans are taken all the same (twice the detection time).
	Agreement Time
	// Alone: how long seeds are tried before a node may start alone.
	Alone Time
	// Carrier: how long a wire on which nobody answers must have been up before a
	// node may start alone: longer than a switch port listens and learns (IEEE
	// 802.1D: 2 x 15 s).
	Carrier Time
	// Voluntary: the least time before a change of weight or fitness for the better, since
	// the last change. What gets worse does not wait.
	Voluntary Time
	// Gather: what gets worse at several nodes within this time comes into the view at
	// once. One interval of beacons, which tell of it.
	Gather Time
	// Look: the least time between two looks whether lingering flows still live; up
	// to 16 times as long while none ends.
	Look Time
	// Lame: how long a node goes on that cannot serve, and how long it has to be sound before
	// it takes its share again.
	Lame Time
	// Words: how long no message may pass, though beacons do, before a node that serves
	// gives up for the others: longer than they are late at a start of all, and short enough
	// for the others to take over within 5 s.
	Words Time
	// Mourn: how long after its last sign of life a peer's death is confirmed. Until
	// then its flows are left alone: it may only have been asleep.
	Mourn Time
	// Restart: for how long the peers leave the flows of a node alone that has said
	// that it restarts.
	Restart Time
	// LeaveBy: how long a leaving node waits for its heirs.
	LeaveBy Time
}

// DefaultTiming derives the periods from the detection time.
func DefaultTiming(detection Time) Timing {
	const second = Time(1e9)
	return Timing{
		Retry:     max(detection/4, second/20),
		Answer:    max(2*second, 5*detection),
		Agreement: 2 * detection,
		Alone:     5 * second,
		Carrier:   35 * second,
		Voluntary: 5 * second,
		Gather:    detection / 10,
		Look:      second / 4,
		Lame:      max(second, 2*detection),
		Words:     wordsLast(detection),
		Mourn:     max(second, 2*detection),
		Restart:   30 * second,
		LeaveBy:   10 * second,
	}
}

func (c *Config) slots() int { return c.Buckets * len(c.Services) }

func (c *Config) change(slot Slot, s State) Change {
	return Change{Service: slot / c.Buckets, Bucket: slot % c.Buckets, State: s}
}

// slot is the slot that a change is about.
func (c *Config) slot(ch Change) Slot { return ch.Service*c.Buckets + ch.Bucket }

// all is the set of all slots of this configuration.
func (c *Config) all() hashring.Set {
	set := c.newSet()
	for slot := range c.slots() {
		set.Add(slot)
	}
	return set
}

// newSet is an empty set of the slots of this configuration.
func (c *Config) newSet() hashring.Set { return hashring.NewSet(c.slots()) }
