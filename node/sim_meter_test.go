package node

import (
	"cmp"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// meter counts what nodes say to each other, and nodeMeter what a node's loop works.
type meter struct {
	pairs    map[[2]int]int // messages by sender and receiver
	kinds    map[string]int
	messages int
	bytes    int
	big      map[string]int // those that fit no datagram of gossip
	largest  int
}

type nodeMeter struct {
	work    time.Duration // of the core and the codec; no sockets, no sealing
	steps   int
	longest time.Duration
}

// datagram is what a message may have to go by one datagram of gossip.
const datagram = 1364

func kindOf(m *Message) string {
	switch {
	case m.Delta != nil && m.Delta.From == 0:
		return "whole statement"
	case m.Delta != nil:
		return "statement"
	case m.Ack != nil:
		return "ack"
	case m.Request != nil:
		return "request"
	case m.Grant != nil:
		return "grant"
	case m.Confirm != nil:
		return "confirm"
	case m.Refusal != nil:
		return "refusal"
	case m.Cancel != nil:
		return "cancel"
	}
	return "other"
}

// startMeter begins to count, from nothing.
func (w *world) startMeter() {
	w.meter = &meter{pairs: map[[2]int]int{}, kinds: map[string]int{}, big: map[string]int{}}
	for _, n := range w.nodes {
		n.meter = nodeMeter{}
	}
}

// measured is a step of the core, and of what the loop does with it each time.
func (w *world) measured(n *simNode, core *Core, evs []Event) []Effect {
	if w.meter == nil {
		return core.Step(w.time(n), evs...)
	}
	var effects []Effect
	took := processor(func() {
		effects = core.Step(w.time(n), evs...)
		core.Bulletin()
	})
	n.meter.work += took
	n.meter.steps++
	n.meter.longest = max(n.meter.longest, took)
	return effects
}

// count takes a message into the meter.
func (w *world) count(from, to *simNode, m *Message) {
	if w.meter == nil {
		return
	}
	var raw []byte
	from.meter.work += processor(func() { raw = m.Encode() })
	to.meter.work += processor(func() {
		if _, err := Decode(raw); err != nil {
			w.fault("nobody can read what %s sent: %v", from.name, err)
		}
	})
	w.meter.messages++
	w.meter.bytes += len(raw)
	w.meter.pairs[[2]int{from.index, to.index}]++
	w.meter.kinds[kindOf(m)]++
	w.meter.largest = max(w.meter.largest, len(raw))
	if len(raw) > datagram {
		w.meter.big[kindOf(m)]++
	}
}

// processor is what f takes of this thread's processor, however busy the machine is.
func processor(f func()) time.Duration {
	used := func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
			panic(err)
		}
		return time.Duration(ts.Nano())
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := used()
	f()
	return used() - began
}

// storm is what an event in a large cluster has cost.
type storm struct {
	name     string
	nodes    int
	perPair  float64 // messages by ordered pair, the mean
	mostPair int     // and the most
	work     time.Duration
	longest  time.Duration
	steps    int
	gap      Time
	meter
}

func (w *world) storm(name string) storm {
	s := storm{name: name, nodes: len(w.nodes), meter: *w.meter, gap: w.worstOrphan}
	s.perPair = float64(s.messages) / float64(len(w.nodes)*(len(w.nodes)-1))
	for _, n := range w.meter.pairs {
		s.mostPair = max(s.mostPair, n)
	}
	for _, n := range w.nodes {
		s.work, s.longest, s.steps = max(s.work, n.meter.work), max(s.longest, n.meter.longest), max(s.steps, n.meter.steps)
	}
	return s
}

func (s storm) String() string {
	text := fmt.Sprintf("%2d nodes %-11s %7d messages, %5.1f (at most %d) a pair, %7.1f KB, largest %d; %d big %v; busiest node %4d steps, %v, longest %v; gap %v;",
		s.nodes, s.name, s.messages, s.perPair, s.mostPair, float64(s.bytes)/1024, s.largest, sum(s.big), s.big, s.steps, s.work.Round(100*time.Microsecond), s.longest.Round(10*time.Microsecond), s.gap.Round(ms))
	var kinds []string
	for kind := range s.kinds {
		kinds = append(kinds, kind)
	}
	slices.SortFunc(kinds, func(a, b string) int { return cmp.Compare(s.kinds[b], s.kinds[a]) })
	for _, kind := range kinds {
		text += fmt.Sprintf(" %s %.2f", kind, float64(s.kinds[kind])/float64(s.nodes*(s.nodes-1)))
	}
	return text
}

func sum(counts map[string]int) (total int) {
	for _, n := range counts {
		total += n
	}
	return total
}

// storms is a cluster that starts at once, and then is at rest, and what happens in it.
type storms struct {
	*world
	t *testing.T
}

func newStorms(t *testing.T, nodes, buckets int) storms {
	w := newWorld(1, false, nodes, calmNet())
	w.timing, w.buckets, w.coding, w.stepTime = NewDetect(20*ms, 10), buckets, false, ms/10
	w.layOut()
	return storms{w, t}
}

// measure lets something happen, and the cluster come to rest, and holds what that has
// cost to the bounds that are the same for all.
func (w storms) measure(name string, rest Time, do func()) storm {
	w.t.Helper()
	w.startMeter()
	w.worstOrphan = 0
	do()
	w.run(rest)
	s := w.storm(name)
	w.meter = nil
	w.settle()
	for _, f := range w.faults {
		w.t.Fatalf("%d nodes, %s: %s", s.nodes, name, f)
	}
	w.t.Log(s)
	if s.perPair > 20 || s.mostPair > 45 || s.mostPair > 30 && name == "cold start" {
		w.t.Errorf("%d nodes, %s: %.1f messages by ordered pair of nodes, at most %d", s.nodes, name, s.perPair, s.mostPair)
	}
	if sum(s.big) > 0 && w.buckets <= 1024 {
		w.t.Errorf("%d nodes, %s: messages of up to %d bytes fit no datagram: %v", s.nodes, name, s.largest, s.big)
	}
	if s.work > 200*time.Millisecond && w.buckets <= 1024 {
		w.t.Errorf("%d nodes, %s: one node has worked for %v", s.nodes, name, s.work)
	}
	return s
}

func (w storms) coldStart() {
	w.measure("cold start", 1500*ms, func() {
		for _, n := range w.nodes {
			w.start(n)
		}
	})
}

// raced: this is built with the race detector, and takes ten times as long.
var raced bool

var allStorms = flag.Bool("sim.storms", false, "measure all changes in clusters of 64 nodes too, and with most buckets")

// TestStorms: what changes in a large cluster, no node says more than a few things about
// it to each other. It prints what each change costs.
func TestStorms(t *testing.T) {
	for _, size := range []struct{ nodes, buckets int }{{16, 1024}, {32, 1024}, {64, 1024}, {64, 16384}} {
		few := raced || *simSeeds < 300 // a run that is to be quick
		if (size.buckets > 1024 || few && size.nodes > 16) && !*allStorms {
			continue
		}
		t.Run(fmt.Sprintf("%d nodes %d buckets", size.nodes, size.buckets), func(t *testing.T) {
			w := newStorms(t, size.nodes, size.buckets)
			w.coldStart()
			if size.nodes > 32 && !*allStorms {
				return
			}
			w.measure("death", 3*time.Second, func() { w.stop(w.nodes[1], false) })
			w.measure("drain", 3*time.Second, func() { w.wish(w.nodes[0], Wish{Node: "n2", Want: WantDrain}) })
			w.measure("join", 3*time.Second, func() { w.start(w.nodes[1]) })
		})
	}
}
