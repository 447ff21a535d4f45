package node

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/peervip/peervip/hashring"
)

// world is the deterministic simulator: many cores, a model of each node's
// kernel and of gossip's failure detector, and one seeded scheduler that loses,
// delays, repeats and reorders messages, lets commits take time or fail, and
// crashes, restarts and partitions nodes. Everything random comes from one seed.
type world struct {
	rng    *rand.Rand
	now    Time
	queue  eventQueue
	order  uint64
	nodes  []*simNode
	cut    map[[2]int]bool // messages from [0] to [1] vanish
	net    simNet
	trace  []string // kept only if tracing: a broken seed is run again for it
	faults []string // broken invariants

	tracing           bool
	buckets, services int
	dropUnhealthy     bool
	owners            []int  // by slot: how many kernels accept it now
	strictSince       Time   // double owners are errors from here on; -1: not now
	doubleSince       []Time // by slot, 0: not double
	orphanSince       []Time // by slot, 0: owned
	worstDouble       Time
	worstOrphan       Time
	takes             int
}

// simNet says how bad the network is.
type simNet struct {
	delay      func(*rand.Rand) Time
	loss, dup  float64
	commit     func(*rand.Rand) Time
	commitFail float64
	detect     func(*rand.Rand) Time
}

const ms = Time(time.Millisecond)

func calmNet() simNet {
	return simNet{
		delay:  func(r *rand.Rand) Time { return ms/10 + Time(r.Int64N(int64(2*ms))) },
		commit: func(r *rand.Rand) Time { return ms/10 + Time(r.Int64N(int64(3*ms))) },
		detect: func(r *rand.Rand) Time { return 400*ms + Time(r.Int64N(int64(60*ms))) },
	}
}

func roughNet() simNet {
	n := calmNet()
	n.loss, n.dup, n.commitFail = 0.1, 0.05, 0.03
	n.delay = func(r *rand.Rand) Time {
		if r.IntN(50) == 0 {
			return Time(r.Int64N(int64(time.Second)))
		}
		return ms/10 + Time(r.Int64N(int64(20*ms)))
	}
	n.commit = func(r *rand.Rand) Time {
		if r.IntN(30) == 0 {
			return 221 * ms
		}
		return ms/10 + Time(r.Int64N(int64(5*ms)))
	}
	return n
}

// simNode is one machine: what it remembers on disk, its process, its kernel.
type simNode struct {
	index  int
	name   string
	core   *Core // nil while the process is down
	kernel hashring.Set
	boot   uint64 // nonce of the running process
	wake   uint64 // number of the wake-up that counts

	drained bool
	obeyed  uint64
	left    bool
	sees    map[int]uint64 // peers that gossip has reported alive to it: nonce
	answers []Answer
}

type simEvent struct {
	at    Time
	order uint64
	do    func()
}

type eventQueue []simEvent

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(q[i].at, q[j].at), cmp.Compare(q[i].order, q[j].order)) < 0
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *eventQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func newWorld(seed uint64, tracing bool, nodes, buckets int, net simNet) *world {
	w := &world{
		tracing: tracing,
		rng:     rand.New(rand.NewPCG(seed, 0)), now: ms, cut: map[[2]int]bool{}, net: net,
		buckets: buckets, services: 1, strictSince: -1,
	}
	for i := range nodes {
		w.nodes = append(w.nodes, &simNode{
			index: i, name: fmt.Sprintf("n%d", i), sees: map[int]uint64{},
		})
	}
	w.layOut()
	return w
}

// layOut sizes the books after a change of the number of services.
func (w *world) layOut() {
	slots := w.buckets * w.services
	w.owners, w.doubleSince, w.orphanSince = make([]int, slots), make([]Time, slots), make([]Time, slots)
	for _, n := range w.nodes {
		n.kernel = hashring.NewSet(slots)
	}
}

func (w *world) log(format string, args ...any) {
	if !w.tracing {
		return
	}
	w.trace = append(w.trace, fmt.Sprintf("%10.3f ms  ", float64(w.now)/float64(ms))+fmt.Sprintf(format, args...))
}

func (w *world) at(delay Time, do func()) {
	w.order++
	heap.Push(&w.queue, simEvent{at: w.now + delay, order: w.order, do: do})
}

// run lets the given time pass.
func (w *world) run(d Time) {
	end := w.now + d
	for len(w.queue) > 0 && w.queue[0].at <= end {
		ev := heap.Pop(&w.queue).(simEvent)
		w.now = ev.at
		ev.do()
	}
	w.now = end
}

func (w *world) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.log("BROKEN: %s", text)
	w.faults = append(w.faults, text)
}

// step gives a node an event and carries out the effects.
func (w *world) step(n *simNode, ev Event) {
	if n.core == nil {
		return
	}
	effects := n.core.Step(w.now, ev)
	core := n.core
	for _, e := range effects {
		switch e := e.(type) {
		case Commit:
			w.log("%s commits %d changes (%d)", n.name, len(e.Changes), e.ID)
			w.startCommit(n, e)
		case Send:
			w.transmit(n, e)
		case Attach:
			w.at(ms, func() {
				if n.core == core {
					w.step(n, Attached{})
				}
			})
		case Save:
			n.drained, n.obeyed = e.Drained, e.Obeyed
		case Answer:
			n.answers = append(n.answers, e)
		case Notice:
			w.log("%s: %s", n.name, e.Text)
		case Stop:
			w.stop(n, true)
			return
		}
	}
	n.wake++
	wake := n.wake
	w.at(max(core.Deadline()-w.now, ms/10), func() {
		if n.core == core && n.wake == wake {
			w.step(n, Tick{})
		}
	})
}

// startCommit is the kernel: a transaction takes its time and then happens as a
// whole, or not at all.
func (w *world) startCommit(n *simNode, c Commit) {
	core := n.core
	w.at(w.net.commit(w.rng), func() {
		if n.core != core {
			return // the process died, and the transaction with it
		}
		if w.rng.Float64() < w.net.commitFail {
			w.log("%s: the kernel refuses commit %d", n.name, c.ID)
			w.step(n, Committed{ID: c.ID, Err: errors.New("simulated refusal")})
			return
		}
		for _, ch := range c.Changes {
			w.set(n, ch.Service*w.buckets+ch.Bucket, ch.State.AcceptsNew())
		}
		w.step(n, Committed{ID: c.ID})
	})
}

// set changes what one kernel accepts and keeps the books of invariants 1 and 3.
func (w *world) set(n *simNode, slot Slot, accept bool) {
	if n.kernel.Has(slot) == accept {
		return
	}
	if accept {
		n.kernel.Add(slot)
		w.owners[slot]++
		w.takes++
		if gap := w.now - w.orphanSince[slot]; w.orphanSince[slot] > 0 {
			w.worstOrphan = max(w.worstOrphan, gap)
			w.orphanSince[slot] = 0
		}
		if w.owners[slot] == 2 {
			w.doubleSince[slot] = w.now
			if w.strictSince >= 0 && w.now >= w.strictSince {
				w.fault("slot %d has two owners, the second is %s", slot, n.name)
			}
		}
		return
	}
	n.kernel.Remove(slot)
	w.owners[slot]--
	switch w.owners[slot] {
	case 0:
		w.orphanSince[slot] = w.now
	case 1:
		w.worstDouble = max(w.worstDouble, w.now-w.doubleSince[slot])
		w.doubleSince[slot] = 0
	}
}

// transmit is the network. Every message goes through the codec.
func (w *world) transmit(n *simNode, e Send) {
	to := slices.IndexFunc(w.nodes, func(o *simNode) bool { return o.name == e.To })
	bytes := e.Message.Encode()
	if w.tracing {
		w.log("%s -> %s: %s", n.name, e.To, describe(e.Message))
	}
	copies := 1
	if w.rng.Float64() < w.net.dup {
		copies = 2
	}
	for range copies {
		if w.cut[[2]int{n.index, to}] || w.rng.Float64() < w.net.loss {
			continue
		}
		w.at(w.net.delay(w.rng), func() {
			m, err := Decode(bytes)
			if err != nil {
				w.fault("%s cannot read what %s sent: %v", e.To, n.name, err)
				return
			}
			w.step(w.nodes[to], Received{m})
		})
	}
}

func describe(m *Message) string {
	switch {
	case m.Delta != nil:
		s := m.Delta
		text := fmt.Sprintf("statement %d<-%d %s view %x changes %d", s.Version, s.From, s.Phase, s.View&0xffff, s.Claims.Count())
		for _, g := range s.Granted {
			text += fmt.Sprintf(", promised (%d) to %s: %s", g.ID, g.To.Name, g.Slots)
		}
		return text
	case m.Ack != nil:
		return fmt.Sprintf("ack %d lost=%v", m.Ack.Version, m.Ack.Lost)
	case m.Request != nil:
		return fmt.Sprintf("request (%d) %s", m.Request.ID, m.Request.Slots)
	case m.Grant != nil:
		return fmt.Sprintf("grant (%d) at %d: %s", m.Grant.ID, m.Grant.Version, m.Grant.Slots)
	case m.Refusal != nil:
		return fmt.Sprintf("refusal (%d) %s: %s", m.Refusal.ID, m.Refusal.Reason, m.Refusal.Slots)
	case m.Cancel != nil:
		return fmt.Sprintf("cancel (%d) %s", m.Cancel.ID, m.Cancel.Slots)
	case m.Confirm != nil:
		return fmt.Sprintf("confirm (%d) %s", m.Confirm.ID, m.Confirm.Slots)
	case m.Wish != nil:
		return fmt.Sprintf("wish %+v", *m.Wish)
	case m.Verdict != nil:
		return fmt.Sprintf("verdict %+v", *m.Verdict)
	}
	return "flows"
}

// start boots a node's process.
func (w *world) start(n *simNode) {
	if n.core != nil {
		return
	}
	n.boot = w.rng.Uint64() | 1
	services := make([]Service, w.services)
	for i := range services {
		services[i].Name = fmt.Sprintf("s%d", i)
	}
	n.core = New(Config{
		Incarnation: Incarnation{n.name, n.boot}, Weight: 100, Buckets: w.buckets,
		Services: services, DropUnhealthy: w.dropUnhealthy, SpecDigest: 1,
		Timing: DefaultTiming(200 * ms),
	})
	n.sees, n.left = map[int]uint64{}, false
	w.log("%s starts", n.name)
	w.step(n, Started{Drained: n.drained, Obeyed: n.obeyed})
	w.step(n, WireChanged{OK: true, Forwards: true})
	w.gossipAll()
	core := n.core
	w.at(30*ms, func() {
		if n.core == core {
			w.step(n, SeedsTried{})
		}
	})
}

// stop ends a node's process, by its will or not; its kernel's tables go with it.
func (w *world) stop(n *simNode, left bool) {
	if n.core == nil {
		return
	}
	w.log("%s %s", n.name, map[bool]string{true: "stops", false: "crashes"}[left])
	n.core, n.left = nil, left
	for slot := range n.kernel.Clone().All() {
		w.set(n, slot, false)
	}
	w.gossipAll()
}

// gossipAll lets every node's failure detector notice, each in its time, what
// has changed.
func (w *world) gossipAll() {
	for _, n := range w.nodes {
		for _, p := range w.nodes {
			if n != p && n.core != nil {
				w.gossip(n, p)
			}
		}
	}
}

func (w *world) reachable(a, b int) bool { return !w.cut[[2]int{a, b}] && !w.cut[[2]int{b, a}] }

// gossip tells n about p after a while, if what n believes is wrong then.
func (w *world) gossip(n, p *simNode) {
	core := n.core
	alive := p.core != nil && w.reachable(n.index, p.index)
	nonce, seen := n.sees[p.index]
	switch {
	case alive && (!seen || nonce != p.boot):
		// A joiner learns the whole list in one exchange, so no member is late.
		w.at(ms+Time(w.rng.Int64N(int64(20*ms))), func() {
			if n.core != core || p.core == nil || !w.reachable(n.index, p.index) || n.sees[p.index] == p.boot {
				return
			}
			n.sees[p.index] = p.boot
			w.step(n, PeerAlive{Incarnation: Incarnation{p.name, p.boot}, SpecDigest: 1})
		})
	case !alive && seen:
		delay := w.net.detect(w.rng)
		if p.left {
			delay = w.net.delay(w.rng)
		}
		w.at(delay, func() {
			if n.core != core || n.sees[p.index] != nonce ||
				p.core != nil && p.boot == nonce && w.reachable(n.index, p.index) {
				return
			}
			delete(n.sees, p.index)
			w.step(n, PeerDead{Name: p.name, Left: p.left && p.core == nil})
			w.gossip(n, p)
		})
	}
}

// partition cuts the nodes of one side from all others, both ways.
func (w *world) partition(side ...int) {
	w.log("partition: %v from the others", side)
	for _, a := range side {
		for b := range w.nodes {
			if !slices.Contains(side, b) {
				w.cut[[2]int{a, b}], w.cut[[2]int{b, a}] = true, true
			}
		}
	}
	w.gossipAll()
}

func (w *world) heal() {
	w.log("heal")
	clear(w.cut)
	w.gossipAll()
}

// settle checks invariants 2 and 5 after quiet: every bucket has exactly one
// owner, the placement's, and nothing waits.
func (w *world) settle() {
	var up []*simNode
	for _, n := range w.nodes {
		if n.core != nil {
			up = append(up, n)
		}
	}
	if len(up) == 0 {
		return
	}
	for _, n := range up {
		c := n.core
		if c.requesting() || len(c.grants) > 0 || c.open != nil || !c.want.Equal(c.kernel) ||
			!c.requested.Empty() || !c.promised.Empty() || c.inQuestion() {
			w.fault("%s still waits for something: %d requests, %d grants, open %v, %d wanted, %d in the kernel",
				n.name, len(c.requests), len(c.grants), c.open != nil, c.want.Count(), c.kernel.Count())
		}
		if !c.kernel.Equal(n.kernel) {
			w.fault("%s believes other things of its kernel than are true", n.name)
		}
		if c.view.Digest() != up[0].core.view.Digest() || !c.agreed() {
			w.fault("%s and %s have different views after quiet", n.name, up[0].name)
		}
		if len(c.wishes) > 0 {
			w.fault("%s still keeps wishes: %v", n.name, c.wishes)
		}
	}
	for slot, count := range w.owners {
		pl := up[0].core.places[slot/w.buckets]
		switch {
		case pl.rank == rankFit:
			owner := pl.table.Owner(slot % w.buckets)
			i := slices.IndexFunc(up, func(n *simNode) bool { return n.name == owner })
			if count != 1 || i < 0 || !up[i].kernel.Has(slot) {
				w.fault("slot %d: %d owners after quiet, it should be %s alone", slot, count, owner)
			}
		case pl.rank == rankUnfit && w.dropUnhealthy, pl.rank == rankNever:
			if count != 0 {
				w.fault("slot %d: %d owners, though nobody should serve it", slot, count)
			}
		case count != 1:
			w.fault("slot %d: %d owners after quiet, nobody is fit and one should keep it", slot, count)
		}
	}
}

func (w *world) report() string {
	from := max(0, len(w.trace)-400)
	return strings.Join(w.trace[from:], "\n")
}

// requesting reports whether a request waits for its answer, or to be confirmed.
func (c *Core) requesting() bool {
	for _, r := range c.requests {
		if !r.slots.Empty() || c.alivePeer(r.to) != nil {
			return true
		}
	}
	return false
}
