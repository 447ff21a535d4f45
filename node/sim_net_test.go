package node

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// simNet says how bad the network is, and the kernels and failure detectors.
type simNet struct {
	delay      func(*rand.Rand) Time
	loss, dup  float64
	commit     func(*rand.Rand) Time
	commitFail float64
	list       Time // what listing flows takes at most
	detect     func(*rand.Rand) Time
}

// What a calm network's message and a calm kernel's commit take at most.
const (
	calmDelay  = 2*ms + ms/10
	calmCommit = 3*ms + ms/10
	calmList   = 5 * ms
)

func calmNet() simNet {
	return simNet{
		delay:  func(r *rand.Rand) Time { return ms/10 + Time(r.Int64N(int64(calmDelay-ms/10))) },
		commit: func(r *rand.Rand) Time { return ms/10 + Time(r.Int64N(int64(calmCommit-ms/10))) },
		list:   calmList,
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

// fate is what becomes of a message that a scenario intercepts. The zero fate
// leaves it to the network.
type fate struct {
	lost bool
	late Time // in addition to the network's delay
}

// transmit is the network. In an eighth of the runs every message goes through the
// codec; in the others the very value is delivered, and corrupts both sides if
// one of them keeps what it should have cloned.
func (w *world) transmit(n *simNode, e Send) {
	to := w.nodes[slices.IndexFunc(w.nodes, func(o *simNode) bool { return o.name == e.To })]
	if w.tracing {
		w.log("%s -> %s: %s%s", n.name, e.To, describeWay(e.Message), describe(e.Message))
	}
	var f fate
	if w.intercept != nil {
		f = w.intercept(n, to, e.Message)
	}
	if f.lost || n.format != to.format || w.dropped(n, to, e.Message) {
		return
	}
	w.count(n, to, e.Message)
	m := w.coded(n, e.Message)
	w.recordMessage(to, m)
	copies := 1
	if w.rng.Float64() < w.net.dup {
		copies = 2
	}
	for range copies {
		link := [2]int{n.index, to.index}
		lost := w.gossipCut[link]
		if e.Unlisted {
			lost = w.unicastCut[link]
		}
		if lost || w.cut[link] || w.rng.Float64() < w.net.loss {
			continue
		}
		w.at(f.late+w.net.delay(w.rng), func() { w.step(to, Received{m}) })
	}
}

func (w *world) coded(from *simNode, m *Message) *Message {
	if !w.coding {
		return m
	}
	m, err := Decode(m.Encode())
	if err != nil {
		w.fault("nobody can read what %s sent: %v", from.name, err)
	}
	return m
}

// describeWay says how a message goes that takes a way through a third.
func describeWay(m *Message) string {
	switch {
	case m.For == "":
		return ""
	case m.Via == "":
		return fmt.Sprintf("(to be passed on to %s) ", m.For)
	}
	return fmt.Sprintf("(passed on, of %s) ", m.From.Name)
}

func describe(m *Message) string {
	switch {
	case m.Delta != nil:
		s := m.Delta
		text := fmt.Sprintf("statement %d<-%d %s view %x changes %d", s.Version, s.From, s.Phase, s.View&0xffff, s.Claims.Count())
		for _, g := range s.Granted {
			text += fmt.Sprintf(", promised (%d) to %x: %s", g.ID, g.To, g.Slots)
		}
		return text
	case m.Ack != nil:
		return fmt.Sprintf("ack %d lost=%v at %d", m.Ack.Version, m.Ack.Lost, m.Said)
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
	case m.ListAsk != nil:
		return fmt.Sprintf("asks for lists (%d) %s", m.ListAsk.ID, m.ListAsk.Slots)
	case m.Lists != nil:
		return fmt.Sprintf("lists (%d) of %d slots", m.Lists.ID, len(m.Lists.Slots))
	}
	return "flows"
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

// reachable says whether gossip passes between two nodes.
func (w *world) reachable(a, b int) bool {
	return w.shareKey(a, b) && !w.cut[[2]int{a, b}] && !w.cut[[2]int{b, a}] && !w.gossipCut[[2]int{a, b}] && !w.gossipCut[[2]int{b, a}]
}

// cutGossip cuts a node from the gossip of all others, while beacons pass.
func (w *world) cutGossip(n *simNode) {
	w.log("the gossip of %s is cut", n.name)
	for i := range w.nodes {
		w.gossipCut[[2]int{n.index, i}], w.gossipCut[[2]int{i, n.index}] = true, true
	}
	w.gossipAll()
}

// gossip tells n about p after a while, if what n believes is wrong then.
func (w *world) gossip(n, p *simNode) {
	core := n.core
	alive := p.core != nil && w.reachable(n.index, p.index)
	nonce, seen := n.sees[p.index]
	switch {
	case alive && (!seen || nonce != p.boot):
		// A joiner learns the whole list in one exchange, so no member is late.
		w.at(ms+w.randomly(20*ms), func() {
			if n.core != core || p.core == nil || !w.reachable(n.index, p.index) || n.sees[p.index] == p.boot {
				return
			}
			n.sees[p.index] = p.boot
			if n.format != p.format { // its metadata says so
				w.step(n, PeerUnreadable{Name: p.name, Address: p.address(), Why: p.name + " speaks another format"})
				return
			}
			w.step(n, PeerAlive{
				Incarnation: Incarnation{p.name, p.boot}, Address: p.address().String(), SpecRevision: p.revision, SpecDigest: uint64(p.revision),
				Reads: Formats{Message: FormatMax, Beacon: p.herald.reads},
			})
			w.exchange(p, n)
		})
	case !alive && seen:
		delay := w.net.detect(w.rng)
		if w.beacons { // then gossip need not hurry
			delay += time.Second
		}
		if w.detect != nil {
			delay = w.detect(n, p)
		}
		if p.left {
			delay = w.net.delay(w.rng)
		}
		w.at(delay, func() {
			if n.core != core || n.sees[p.index] != nonce ||
				p.core != nil && p.boot == nonce && w.reachable(n.index, p.index) {
				return
			}
			delete(n.sees, p.index)
			left := p.left && p.core == nil
			if left && w.rng.IntN(4) == 0 { // the news of it outran the goodbye
				w.step(n, PeerDead{Name: p.name})
			}
			w.step(n, PeerDead{Name: p.name, Left: left})
			w.gossip(n, p)
		})
	}
}

// exchange is the state exchange that comes with a join.
func (w *world) exchange(from, to *simNode) {
	for _, m := range from.core.Exchange() {
		m = w.coded(from, m)
		if !w.dropped(from, to, m) {
			w.at(w.net.delay(w.rng), func() { w.step(to, Received{m}) })
		}
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
	clear(w.wireCut)
	clear(w.unicastCut)
	clear(w.gossipCut)
	w.gossipAll()
}
