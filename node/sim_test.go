package node

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/peervip/peervip/hashring"
)

// world is the deterministic simulator: many cores, a model of each node's
// kernel, of the network (sim_net_test.go) and of gossip's failure detector, and
// one seeded scheduler that loses, delays, repeats and reorders messages, lets
// commits take time or fail, and crashes, restarts and partitions nodes.
// Everything random comes from one seed. The books of what the invariants speak
// of are in sim_books_test.go.
type world struct {
	rng   *rand.Rand
	now   Time
	queue eventQueue
	order uint64
	nodes []*simNode
	cut   map[[2]int]bool // messages from [0] to [1] vanish
	// wireCut and unicastCut are the links on which beacons vanish on one medium.
	wireCut, unicastCut map[[2]int]bool
	gossipCut           map[[2]int]bool // and those on which gossip and its messages do
	beaconLoss          float64         // at least, whatever the network is like
	net                 simNet
	trace               []string // kept only if tracing: a broken seed is run again for it
	faults              []string // broken invariants

	tracing           bool
	timing            Detect
	beacons           bool // else gossip alone says who is alive
	coding            bool // messages go through the codec
	buckets, services int
	checked           bool // services have health checks
	dropUnhealthy     bool
	single, preempt   bool // of the first service
	// intercept, if set, rules over single messages before the network does.
	intercept func(from, to *simNode, m *Message) fate
	drops     []func(from, to *simNode, m *Message) bool // messages that some fault loses
	started   int                                        // nodes from the beginning, if not all
	// detect, if set, says how long a failure detector takes for a death.
	detect func(observer, dead *simNode) Time

	// stepTime is how long a step of the loop takes: what comes meanwhile is taken together.
	stepTime Time
	meter    *meter // nil: nothing is counted

	books
	judge
	talks
	recordings
}

const ms = Time(time.Millisecond)

// simNode is one machine: what it remembers on disk, its process, its kernel.
type simNode struct {
	index  int
	name   string
	core   *Core        // nil while the process is down
	kernel hashring.Set // takes new flows
	states []State      // by slot, what the kernel does
	boot   uint64       // nonce of the running process
	wake   uint64       // number of the wake-up that counts

	keys     []int      // of its ring: the first signs, all are accepted; none: the cluster's
	outside  *Strangers // whom it hears of other keys
	heardOf  []Stranger // as its core knows them
	revision int        // of the spec that it runs
	deaf     bool       // its port does not forward: nobody answers on the wire
	troubled
	older          bool           // its program reads the first format of beacons only
	refuses        bool           // its kernel takes no commits
	refusesChanges bool           // it takes those that change nothing
	slow           Time           // what a commit takes, if not the network's time
	fit            []bool         // what its health checks find, by service
	saved          Save           // on disk
	keeps          bool           // its flows go on with its next life
	left           bool           // it said goodbye when its process ended
	lastOne        bool           // it leaves, and at some time had no heir: what it lists moves
	forlorn        bool           // and was sure that there is nobody: its connections end
	sees           map[int]uint64 // peers that gossip has reported alive to it: nonce
	answers        []Answer
	steadyAt       Time // since when it is active
	herald         *Herald
	lease          Time     // of the kernel: valid until then
	leased         bool     // by the books
	stalled        Time     // until then the process does nothing
	starved        Time     // until then its receiver reads nothing
	unread         []func() // what waits to be read
	blocked        bool     // the core makes no progress, though its process runs
	backlog        []Event  // that wait for the core to go on
	busy           Time     // until then the loop is at its last step
	meter          nodeMeter
	kicked         bool // a beacon is about to leave out of turn
	tending        bool // the herald will be looked at
	arming         bool
	takes          int // how many buckets its kernel has begun to accept
	reset          int // how many of its flows others have reset
}

type simEvent struct {
	at    Time
	order uint64
	do    func()
}

// eventQueue is a binary heap, as container/heap has it; without its interfaces it
// takes half the time.
type eventQueue []simEvent

func (q eventQueue) less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}

func (q *eventQueue) push(ev simEvent) {
	*q = append(*q, ev)
	s := *q
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if !s.less(i, up) {
			return
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
}

func (q *eventQueue) pop() simEvent {
	s := *q
	first, last := s[0], len(s)-1
	s[0], s[last] = s[last], simEvent{}
	s = s[:last]
	*q = s
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < last; child++ {
			if s.less(child, least) {
				least = child
			}
		}
		if least == i {
			return first
		}
		s[i], s[least] = s[least], s[i]
		i = least
	}
}

// newWorld has that many nodes, none of them up, and one service of 64 buckets.
func newWorld(seed uint64, tracing bool, nodes int, net simNet) *world {
	w := &world{
		tracing: tracing,
		rng:     rand.New(rand.NewPCG(seed, 0)), now: ms, cut: map[[2]int]bool{}, wireCut: map[[2]int]bool{}, unicastCut: map[[2]int]bool{}, gossipCut: map[[2]int]bool{}, net: net, beacons: true, timing: simDetect,
		buckets: 64, services: 1, coding: seed%8 == 0,
	}
	if seed%3 == 2 {
		w.stepTime = ms / 5
	}
	for i := range nodes {
		w.nodes = append(w.nodes, &simNode{index: i, name: fmt.Sprintf("n%d", i), revision: 1})
	}
	return w
}

// layOut sizes everything that depends on the number of services. It comes
// before the first start.
func (w *world) layOut() {
	w.books = newBooks(w.buckets * w.services)
	for _, n := range w.nodes {
		n.kernel = hashring.NewSet(w.buckets * w.services)
		n.states = make([]State, w.buckets*w.services)
		n.fit = make([]bool, w.services)
		for i := range n.fit {
			n.fit[i] = true
		}
	}
}

func (w *world) log(format string, args ...any) {
	if !w.tracing {
		return
	}
	w.trace = append(w.trace, fmt.Sprintf("%10.3f ms  ", float64(w.now)/float64(ms))+fmt.Sprintf(format, args...))
}

func (w *world) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.log("BROKEN: %s", text)
	w.faults = append(w.faults, text)
}

func (w *world) report() string {
	return strings.Join(w.trace[max(0, len(w.trace)-400):], "\n")
}

func (w *world) at(delay Time, do func()) {
	w.order++
	w.queue.push(simEvent{at: w.now + delay, order: w.order, do: do})
}

// run lets the given time pass.
func (w *world) run(d Time) {
	end := w.now + d
	for len(w.queue) > 0 && w.queue[0].at <= end {
		ev := w.queue.pop()
		w.now = ev.at
		ev.do()
	}
	w.now = end
}

// randomly returns a time below the limit.
func (w *world) randomly(limit Time) Time { return Time(w.rng.Int64N(int64(limit))) }

// step gives a node events, once its loop gets to them.
func (w *world) step(n *simNode, evs ...Event) {
	if n.core != nil {
		w.inTurn(n, evs...)
	}
}

// inTurn is the loop: it takes together what has come since it was here last, and may be
// late. An event that is nil is the loop's own timer, by which the herald has its word.
func (w *world) inTurn(n *simNode, evs ...Event) {
	if n.late == 0 && w.now >= n.busy && len(n.inbox) == 0 {
		w.handle(n, evs)
		return
	}
	first := len(n.inbox) == 0
	if n.inbox = append(n.inbox, evs...); first {
		w.turn(n)
	}
}

// turn is when the loop next gets to what waits: it takes all that is there.
func (w *world) turn(n *simNode) {
	core, wait := n.core, n.busy-w.now
	if n.late > 0 {
		wait = max(wait, ms/20+w.randomly(n.late+1))
	}
	w.at(wait, func() {
		if n.core == core {
			evs := n.inbox
			n.inbox = nil
			w.handle(n, evs)
		}
	})
}

// handle carries out what the core makes of events.
func (w *world) handle(n *simNode, evs []Event) {
	if slices.Contains(evs, nil) {
		if !n.blocked && len(n.backlog) == 0 {
			w.say(n)
		}
		evs = slices.DeleteFunc(evs, func(ev Event) bool { return ev == nil })
	}
	if len(evs) == 0 {
		return
	}
	if n.core == nil {
		return
	}
	core := n.core
	if w.now < n.stalled || n.blocked || len(n.backlog) > 0 {
		w.later(n, evs)
		return
	}
	n.busy = w.now + w.stepTime
	for _, e := range w.measured(n, core, evs) {
		switch e := e.(type) {
		case Commit:
			w.log("%s commits %d changes (%d)", n.name, len(e.Changes), e.ID)
			w.startCommit(n, e)
		case Send:
			w.transmit(n, e)
		case Attach:
			w.at(ms, func() {
				if n.core == core {
					n.herald.Attached(w.time(n))
					w.step(n, Attached{})
				}
			})
		case Save:
			n.saved = e
		case Answer:
			n.answers = append(n.answers, e)
		case Notice:
			w.log("%s: %s", n.name, e.Text)
		case FindFlows:
			w.at(ms+w.randomly(10*ms), func() {
				if n.core == core {
					w.step(n, FlowsFound{Live: w.flowsOf(n, e.Listed)})
				}
			})
		case ListFlows:
			w.listFlows(n, e)
		case Know:
			n.herald.Know(w.time(n), e.Incarnation)
			n.herald.Reads(e.Incarnation, e.Reads)
		case Forget:
			n.herald.Forget(e.Incarnation, e.Gone)
		case Have:
			n.herald.Have(e.Incarnation, e.Version)
		case Verify:
			n.herald.Verify(e.Incarnation)
			w.tend(n)
		case AskVIP:
			w.askVIP(n)
		case Stop:
			n.keeps = e.KeepFlows
			w.retire(n)
			w.stop(n, true)
			n.keeps = false
			return
		}
	}
	if w.beacons {
		w.say(n)
	}
	w.noteServers()
	n.lastOne = core.phase.Going() && (n.lastOne || !core.hasHeir(rankHolding))
	n.forlorn = n.lastOne && (n.forlorn || !core.hasHeir(rankHolding) && !core.awaitsHeir())
	at := core.Deadline()
	if at <= w.time(n) {
		w.fault("invariant 5: %s wants to be woken at %v, and it is %v: it would spin", n.name, at, w.time(n))
		return
	}
	n.wake++
	wake := n.wake
	w.at(n.clock.there(at)-w.now, func() {
		if n.core == core && n.wake == wake {
			w.step(n, Tick{})
		}
	})
}

// later keeps events for a node that does nothing now, until it runs.
func (w *world) later(n *simNode, evs []Event) {
	first := len(n.backlog) == 0
	n.backlog = append(n.backlog, evs...)
	if first {
		w.catchUp(n)
	}
}

func (w *world) catchUp(n *simNode) {
	core := n.core
	w.at(max(n.stalled-w.now, 5*ms), func() {
		switch {
		case n.core != core:
		case w.now < n.stalled || n.blocked:
			w.catchUp(n)
		default:
			backlog := n.backlog
			n.backlog = nil
			w.handle(n, backlog)
		}
	})
}

// startCommit is the kernel: a transaction takes its time and then happens as a
// whole, or not at all.
func (w *world) startCommit(n *simNode, c Commit) {
	core := n.core
	took := n.slow
	if took == 0 {
		took = w.net.commit(w.rng)
	}
	w.at(took, func() {
		if n.core != core {
			return // the process died, and the transaction with it
		}
		if n.refuses || n.refusesChanges && !c.Probe || w.rng.Float64() < max(w.net.commitFail, n.fails) {
			w.log("%s: the kernel refuses commit %d", n.name, c.ID)
			w.step(n, Committed{ID: c.ID, Err: errors.New("simulated refusal")})
			return
		}
		if !c.Cut.Empty() {
			w.cutFlows(n, c.Cut)
		}
		lost := n.forgets > 0 && w.rng.Float64() < n.forgets
		w.rewrite(n)
		if lost {
			w.remember(n)
		}
		for _, ch := range c.Changes {
			slot := ch.Service*w.buckets + ch.Bucket
			w.set(n, slot, ch.State)
		}
		w.relist(n, c)
		if lost {
			w.loseAnswer(n, c)
			return
		}
		w.step(n, Committed{ID: c.ID})
	})
}

// loseAnswer: the kernel has made a commit, and its answer is lost, again and again. The
// lease is dropped, or if that fails as well waited for until it has run out, and then
// the core is told that nothing has changed.
func (w *world) loseAnswer(n *simNode, c Commit) {
	w.log("%s: the kernel's answer to commit %d is lost", n.name, c.ID)
	until := n.lease
	if w.rng.IntN(2) == 0 {
		w.setLease(n, 0)
		until = 0
	}
	core := n.core
	n.herald.Lapse(w.time(n))
	w.at(max(until-w.now, 0), func() {
		if n.core == core {
			w.tend(n)
			w.step(n, Committed{ID: c.ID, Err: errors.New("simulated loss of an answer")})
		}
	})
}

// remember keeps what the filter believes of its kernel, before an answer is lost.
func (w *world) remember(n *simNode) {
	n.before = &simBelief{states: slices.Clone(n.states), lists: map[Slot]map[Flow]bool{}}
	if w.wholes {
		for slot, list := range w.tables[n.index].lists {
			n.before.lists[slot] = maps.Clone(list)
		}
	}
}

// rewrite makes the kernel what the filter believes it is, after an answer was lost.
func (w *world) rewrite(n *simNode) {
	if n.before == nil {
		return
	}
	for slot, state := range n.before.states {
		w.set(n, slot, state)
	}
	if w.wholes {
		w.tables[n.index].lists = n.before.lists
	}
	n.before = nil
}

// start boots a node's process.
func (w *world) start(n *simNode) {
	if n.core != nil {
		return
	}
	n.boot = w.rng.Uint64() | 1
	w.recordBoot(n)
	n.stalled, n.busy, n.backlog, n.starved, n.unread, n.inbox, n.before = 0, 0, nil, 0, nil, nil, nil
	services := make([]Service, w.services)
	for i := range services {
		services[i] = Service{Name: fmt.Sprintf("s%d", i), Checked: w.checked, Linger: true, LingerAll: w.wholes}
	}
	services[0].Single, services[0].Preempt = w.single, w.preempt
	n.core = New(Config{
		Incarnation: Incarnation{n.name, n.boot}, Address: n.address(), Weight: 100, Buckets: w.buckets,
		Services: services, DropUnhealthy: w.dropUnhealthy, DrainTimeout: simDrainTimeout,
		SpecRevision: n.revision, SpecDigest: uint64(n.revision),
		Timing: w.periods(), Silence: w.silence(),
	})
	n.herald = NewHerald(n.core.cfg.Incarnation, w.timing, simTick)
	if n.older {
		n.herald.reads = BeaconMin
	}
	n.outside, n.heardOf = NewStrangers(w.timing.Interval), nil
	n.lease, n.leased, n.blocked = 0, !w.beacons, false
	core := n.core
	n.sees, n.left = map[int]uint64{}, false
	w.log("%s starts", n.name)
	if w.beacons {
		w.at(w.randomly(w.timing.Interval), func() {
			if n.core == core {
				w.beat(n)
			}
		})
	}
	w.step(n, Started(n.saved))
	w.step(n, WireChanged{OK: true, Forwards: !n.deaf})
	w.gossipAll()
	w.at(30*ms, func() {
		if n.core == core {
			w.step(n, SeedsTried{})
		}
	})
	for i := range services {
		if w.checked || !n.fit[i] {
			w.at(w.randomly(2*time.Second), func() {
				if n.core == core {
					w.step(n, HealthChanged{Service: i, Fit: n.fit[i], Reason: "simulated"})
				}
			})
		}
	}
}

// periods are those of the product, but that nobody waits for a restart for so long.
func (w *world) periods() Timing {
	t := DefaultTiming(w.timing.D)
	t.Restart, t.Gather = 6*time.Second, w.timing.Interval
	return t
}

func (w *world) silence() Time {
	if w.beacons {
		return w.timing.D
	}
	return 0
}

// stop ends a node's process, by its will or not; its kernel's tables go with it.
func (w *world) stop(n *simNode, left bool) {
	if n.core == nil {
		return
	}
	w.log("%s %s", n.name, map[bool]string{true: "stops", false: "crashes"}[left])
	n.core, n.left = nil, left
	for slot := range n.states {
		w.set(n, slot, None)
	}
	if left && !n.keeps { // and took the address with it
		w.cutFlows(n, hashring.Set{})
	}
	w.noteServers()
	w.gossipAll()
}

// setFit changes what a node's health check of a service finds.
func (w *world) setFit(n *simNode, service int, fit bool) {
	w.log("%s: service %d fit=%v", n.name, service, fit)
	n.fit[service] = fit
	w.step(n, HealthChanged{Service: service, Fit: fit, Reason: "simulated"})
}

// wish lets an operator at one node wish something of another.
func (w *world) wish(at *simNode, wish Wish) {
	w.log("operator at %s: %+v", at.name, wish)
	w.step(at, Wished{Wish: wish})
}
