package node

import (
	"net/netip"

	"github.com/peervip/peervip/hashring"
)

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
