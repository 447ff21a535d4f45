package node

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

const mil = Time(time.Millisecond)

// liveWorld runs the liveness of several nodes over lossy links, with a model of
// the lease in each kernel: a marked beacon that leaves prolongs a valid lease by
// L; one that has run out is armed anew as soon as the rules allow it. Clocks have
// different origins, and may run at different rates. Everything random comes from one seed.
type liveWorld struct {
	rng    *rand.Rand
	detect Detect
	format uint8 // of beacons; they take the way of their codec
	codec  *BeaconCodec
	now    Time
	order  int
	queue  liveQueue
	nodes  []*liveNode
	// apart is by how much the clock of every other node is quicker than those of the rest.
	apart float64
	// late is by how much a marked beacon may leave after it was decided on, at most.
	late Time
	// loss is the share of the datagrams that a link loses.
	loss func(from, to int, medium Medium) float64
	// The books.
	falseDeaths int  // verdicts over a node that is up
	doubles     int  // verdicts over a node whose lease is valid
	doubleTime  Time // the longest of them
	unexcused   int  // of those, over a node that has heard the one who found it dead
	pauses      int  // of the lease of a node that is up
	pauseTime   Time // in all
	longest     Time
	deaths      int
	slowest     Time // from a death to the last survivor's verdict
	sent        [mediums]int
	trace       []string
	tracing     bool
}

type liveNode struct {
	w       *liveWorld
	slot    int  // its place on the links: a restarted node has the same
	joins   Time // it does not serve before
	serves  Time // since when it does
	origin  Time // its clock is the world's, by its rate, and this
	rate    float64
	live    *Liveness
	phase   Phase
	down    bool
	downAt  Time
	stalled Time // until then it does nothing; datagrams wait
	waiting []func()
	lease   Time // until then, on the world's clock
	tried   Time // when a marked beacon left or was urgent, by its own clock
	armed   bool // the lease was held when last looked at
	dead    map[Incarnation]bool
	doubt   map[Incarnation]Time // since when a verdict stood against a valid lease
	silent  map[Incarnation]bool // of whom it had no sign of life when it last prolonged its lease
	nextUni Time
	number  Seq // of its last beacon
	got     Beacon
}

type liveEvent struct {
	at    Time
	order int
	do    func()
}

type liveQueue []liveEvent

func (q liveQueue) Len() int { return len(q) }
func (q liveQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q liveQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *liveQueue) Push(x any)   { *q = append(*q, x.(liveEvent)) }
func (q *liveQueue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	*q = (*q)[:last]
	return e
}

func newLiveWorld(seed uint64, nodes int, detect Detect, format uint8) *liveWorld {
	return newLiveWorldApart(seed, nodes, detect, format, 0, 0)
}

// newLiveWorldApart has clocks of two rates, and beacons that are late.
func newLiveWorldApart(seed uint64, nodes int, detect Detect, format uint8, apart float64, late Time) *liveWorld {
	w := &liveWorld{
		rng: rand.New(rand.NewPCG(seed, 1)), detect: detect, format: format, codec: NewBeaconCodec("web", nil), apart: apart, late: late,
		loss: func(int, int, Medium) float64 { return 0 },
	}
	for i := range nodes {
		w.start(i, uint64(i+1))
	}
	return w
}

// start boots a node, or the same anew, or another machine with its name.
func (w *liveWorld) start(slot int, nonce uint64) {
	n := &liveNode{
		w: w, slot: slot, origin: Time(w.rng.Int64N(int64(1000 * time.Hour))), joins: w.now + 500*mil,
		live: NewLiveness(Incarnation{fmt.Sprintf("n%d", slot), nonce}, w.detect),
		dead: map[Incarnation]bool{}, doubt: map[Incarnation]Time{}, silent: map[Incarnation]bool{},
		rate: 1 + w.apart*float64(slot%2),
	}
	w.nodes = append(w.nodes, n)
	w.at(w.now+Time(w.rng.Int64N(int64(w.detect.Interval))), n.tick)
}

func (w *liveWorld) at(at Time, do func()) {
	w.order++
	heap.Push(&w.queue, liveEvent{at, w.order, do})
}

func (w *liveWorld) run(until Time) {
	for len(w.queue) > 0 && w.queue[0].at <= until {
		e := heap.Pop(&w.queue).(liveEvent)
		w.now = e.at
		e.do()
	}
	w.now = until
}

func (w *liveWorld) tell(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf("%10.3f ", float64(w.now)/float64(mil))+fmt.Sprintf(format, args...))
	}
}

// delay of a datagram: mostly short, sometimes not, so that some overtake others.
func (w *liveWorld) delay() Time {
	d := 50*time.Microsecond + Time(w.rng.Int64N(int64(mil)))
	if w.rng.IntN(100) == 0 {
		d += Time(w.rng.Int64N(int64(15 * mil)))
	}
	return d
}

func (n *liveNode) clock() Time { return Time(float64(n.w.now)*n.rate) + n.origin }

// real is how long that time of the node's clock takes.
func (n *liveNode) real(d Time) Time { return Time(float64(d) / n.rate) }

func (n *liveNode) holdsLease() bool { return !n.down && n.w.now < n.lease }

// early is by how much a beacon leaves before its interval is over, see node/link/beacon_pace.go.
func early(rng *rand.Rand, interval Time) Time { return Time(rng.Int64N(int64(interval / 5))) }

// tick is the sender's interval: a beacon, up to a millisecond late.
func (n *liveNode) tick() {
	if n.down {
		return
	}
	w := n.w
	if w.now < n.stalled {
		w.at(n.stalled, func() {
			// What came meanwhile waits behind the timers.
			n.tick()
			for _, do := range n.waiting {
				do()
			}
			n.waiting = nil
		})
		return
	}
	w.at(w.now+n.real(w.detect.Interval-early(w.rng, w.detect.Interval))+Time(w.rng.Int64N(int64(mil))), n.tick)
	n.turn()
	n.settle()
	n.send()
}

// turn takes the changes into the books.
func (n *liveNode) turn() {
	w := n.w
	for _, c := range n.live.Changes(n.clock()) {
		w.tell("%v: %v is %v", n.live.self, c.Incarnation, c.To)
		if n.dead[c.Incarnation] = c.To == Dead; c.To == Dead {
			n.verdict(c.Incarnation)
		}
	}
	w.judge()
	if wait := n.live.Deadline(n.clock()) - n.clock(); wait < w.detect.Interval/2 {
		w.at(w.now+n.real(wait), func() {
			if !n.down && w.now >= n.stalled {
				n.turn()
			}
		})
	}
}

// verdict counts a death that this node has found.
func (n *liveNode) verdict(inc Incarnation) {
	w := n.w
	i := slices.IndexFunc(w.nodes, func(p *liveNode) bool { return p.live.self == inc })
	p := w.nodes[i]
	switch {
	case p.down:
		w.deaths++
		w.slowest = max(w.slowest, w.now-p.downAt)
	case p.stalled <= w.now-w.detect.D/2:
		w.falseDeaths++
		w.tell("false death of %v", inc)
	}
}

// judge looks at every verdict against a valid lease.
func (w *liveWorld) judge() {
	for _, m := range w.nodes {
		for _, p := range w.nodes {
			inc := p.live.self
			if m.down || m.phase != Active || w.now < m.serves+m.real(w.detect.D) || !m.dead[inc] || !p.holdsLease() {
				delete(m.doubt, inc)
				continue
			}
			since, stands := m.doubt[inc]
			if !stands {
				since = w.now
				m.doubt[inc] = since
				w.doubles++
				if !p.silent[m.live.self] {
					w.unexcused++
				}
				w.tell("%v holds %v dead, whose lease is valid for %v", m.live.self, inc, p.lease-w.now)
			}
			w.doubleTime = max(w.doubleTime, w.now-since)
		}
	}
}

// settle lets a node that starts, or gave up, begin to serve: when nobody who
// speaks holds it dead, or did lately, and it waits for nobody.
func (n *liveNode) settle() {
	now := n.clock()
	if n.phase != Joining || n.w.now < n.joins || !n.live.MayArm(now) || len(n.live.Returning(now)) > 0 {
		return
	}
	for _, s := range n.live.Status(now) {
		if s.HoldsDead && s.Seen < 5*time.Second {
			return
		}
	}
	n.phase, n.serves = Active, n.w.now
	n.w.tell("%v serves", n.live.self)
}

func (n *liveNode) send() {
	w, now := n.w, n.clock()
	proof, _ := n.live.WireProof(now)
	b := &Beacon{
		Incarnation: n.live.self, Format: w.format, Seq: SeqAt(now), Phase: n.phase, Weight: 10,
		WireProof: proof, Peers: n.live.AppendAcks(nil, now),
	}
	if w.format > 1 {
		b.Unit, b.Seq = w.detect.unit(), w.detect.numberAt(now, n.number)
		n.live.condense(now, b)
	}
	n.number = b.Seq
	n.live.sent.add(b.Seq)
	datagram, err := w.codec.Append(nil, b)
	if err != nil {
		panic(err)
	}
	n.mark(n.phase == Active && now < n.live.MarkUntil(now))
	silent := n.live.SilentOnWire(now)
	second := w.now >= n.nextUni
	if second {
		n.nextUni = w.now + Time(time.Second)
	}
	for _, peer := range w.nodes {
		if peer == n {
			continue
		}
		w.carry(n, peer, Wire, datagram)
		if second || slices.Contains(silent, peer.live.self) {
			w.carry(n, peer, Unicast, datagram)
		}
	}
}

// mark is the kernel's part: a marked beacon leaves.
func (n *liveNode) mark(marked bool) {
	w := n.w
	held := n.holdsLease()
	if n.armed && !held {
		n.armed = false
		w.tell("%v: the lease has run out %v ago", n.live.self, w.now-n.lease)
	}
	if !marked {
		return
	}
	if !held && n.lease > 0 {
		if !n.live.MayArm(n.clock()) {
			return
		}
		pause := w.now - n.lease
		w.pauses++
		w.pauseTime += pause
		w.longest = max(w.longest, pause)
		w.tell("%v: armed after %v", n.live.self, pause)
	}
	late := Time(0)
	if w.late > 0 {
		late = Time(w.rng.Int64N(int64(w.late)))
	}
	n.lease, n.armed, n.tried = w.now+n.real(late+w.detect.L), true, n.clock()
	for _, m := range w.nodes {
		of := n.live.find(m.live.self)
		n.silent[m.live.self] = of == nil || n.live.now-n.live.slept-of.seenAt >= w.detect.quiet()
	}
	w.judge()
}

func (w *liveWorld) carry(from, to *liveNode, medium Medium, b []byte) {
	if to.down {
		return
	}
	w.sent[medium]++
	if w.rng.Float64() < w.loss(from.slot, to.slot, medium) {
		return
	}
	w.at(w.now+w.delay(), func() { to.hear(medium, b) })
}

func (n *liveNode) hear(medium Medium, datagram []byte) {
	if n.down {
		return
	}
	if n.w.now < n.stalled {
		n.waiting = append(n.waiting, func() { n.hear(medium, datagram) })
		return
	}
	b := &n.got
	if err := n.w.codec.Decode(b, datagram); err != nil {
		panic(err)
	}
	h := n.live.Hear(n.clock(), medium, b)
	if h.Yield && n.phase == Active {
		n.w.tell("%v yields to %v", n.live.self, b.Incarnation)
		n.phase = Joining
		n.lease = min(n.lease, n.w.now)
		n.live.Forgive(n.clock())
	}
	n.turn()
	now := n.clock()
	if n.phase == Active && n.w.detect.Urgent(now, n.tried, n.live.MarkUntil(now)) {
		n.tried = now
		n.send()
	}
}

func (n *liveNode) kill() { n.down, n.downAt = true, n.w.now }

// stall stops a node's process, as SIGSTOP does.
func (n *liveNode) stall(d Time) { n.stalled = n.w.now + d }

// freeze stops the whole machine with its clock and its kernel. What comes
// meanwhile is lost.
func (n *liveNode) freeze(d Time) {
	left := n.lease - n.w.now
	n.stall(d)
	n.lease = n.w.now
	n.w.at(n.stalled, func() {
		n.origin -= Time(float64(d) * n.rate)
		n.waiting = nil
		n.lease = n.w.now + left
		n.w.judge()
	})
}

// forget begins the books anew.
func (w *liveWorld) forget() {
	w.falseDeaths, w.doubles, w.doubleTime, w.unexcused = 0, 0, 0, 0
	w.pauses, w.pauseTime, w.longest = 0, 0, 0
	w.deaths, w.slowest = 0, 0
	for _, n := range w.nodes {
		clear(n.doubt)
	}
}

// healthy says what is not well, once everything should be.
func (w *liveWorld) healthy() error {
	for _, n := range w.nodes {
		if n.down {
			continue
		}
		if !n.holdsLease() || n.phase != Active {
			return fmt.Errorf("%v is %v, its lease %v", n.live.self, n.phase, n.holdsLease())
		}
		for _, p := range w.nodes {
			if p != n && n.live.Alive(p.live.self) == p.down {
				return fmt.Errorf("%v: alive is %v of %v", n.live.self, p.down, p.live.self)
			}
		}
	}
	return nil
}
