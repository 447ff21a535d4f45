package gossip

import (
	"time"

	"github.com/hashicorp/memberlist"
)

// DefaultDetection is the Detection of a Config that names none.
const DefaultDetection = 200 * time.Millisecond

// The bounds of Detection. Below the lower one the round trip and the scheduler
// take a share of a probe that makes healthy nodes look dead.
const (
	minDetection = 50 * time.Millisecond
	maxDetection = 30 * time.Second
)

// Multipliers without a unit, in memberlist's terms.
const (
	suspicionMult    = 3
	suspicionMaxMult = 2
	awarenessMax     = 2
)

// maxGossip bounds the interval of gossip where deaths may take their time.
const maxGossip = 100 * time.Millisecond

// streamTimeout bounds connecting, and the whole exchange, of one TCP connection.
// It leaves room for one lost SYN, which the kernel sends again after 1 s.
const streamTimeout = 1500 * time.Millisecond

// timing is all of memberlist's timing that follows from Detection.
type timing struct {
	probe        time.Duration // between two probes; each probe asks one node
	probeTimeout time.Duration // until others are asked to probe it, too
	gossip       time.Duration // between two rounds of passing news on
}

// timingFor derives the timing from Detection D:
//
//	probe interval   P = D/2     one node is probed each P, all of them in turn
//	probe timeout        D/5     below P, which memberlist does not check
//	gossip interval      D/4      at most 100 ms: a leave takes four of them; shorter saves little time and costs wake-ups: at
//	                              D = 200 ms, D/10 takes half as much processor again
//
// A node is called dead after
//
//	[0..1] P         until somebody probes it
//	+ P              that probe fails (2 P if the prober has trouble itself)
//	+ 3 max(1, log10 N) P    nobody refutes the suspicion (up to twice that
//	                         if no second node confirms it)
//
// which is 2 D to 3 D while all is well, and up to 3.5 D until the news has come
// round: 0.40 to 0.70 s with 2 to 8 nodes and D = 200 ms, until the last survivor
// knows (BenchmarkDetection).
func timingFor(detection time.Duration) timing {
	return timing{
		probe:        detection / 2,
		probeTimeout: detection / 5,
		gossip:       min(detection/4, maxGossip),
	}
}

// apply sets everything in c that is about time or follows from it.
func (t timing) apply(c *memberlist.Config) {
	c.ProbeInterval = t.probe
	c.ProbeTimeout = t.probeTimeout
	c.GossipInterval = t.gossip
	c.SuspicionMult = suspicionMult
	c.SuspicionMaxTimeoutMult = suspicionMaxMult
	c.AwarenessMaxMultiplier = awarenessMax
	c.TCPTimeout = streamTimeout
	// Anti-entropy, for what no message brought: cheap up to 64 nodes.
	c.PushPullInterval = 5 * time.Second
	// How long the dead are told so, to refute it, and then forgotten.
	c.GossipToTheDeadTime = 30 * time.Second
	// Not 0, which would mean never: a crashed node may come back at another
	// address as soon as it counts as dead.
	c.DeadNodeReclaimTime = time.Millisecond
}
