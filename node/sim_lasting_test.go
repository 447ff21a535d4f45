package node

import (
	"slices"
	"time"
)

// lasting is a fault that goes on, or an event on top of one.
type lasting struct {
	name string
	do   func(w *world)
}

// troubled is what may be wrong with a node, or special, for as long as a test wants.
type troubled struct {
	clock     simClock   // of its machine
	format    int        // that it speaks and reads: who has another does not understand it
	late      Time       // what its loop takes at most until it gets to an event
	inbox     []Event    // what waits for the loop, if it is late
	fails     float64    // the share of commits that its kernel refuses
	forgets   float64    // the share of commits that it makes, and whose answer is lost
	before    *simBelief // what the filter believes of its kernel after that
	unarmable bool       // its kernel does not arm the lease
}

// simBelief is what a filter believes that its kernel does.
type simBelief struct {
	states []State
	lists  map[Slot]map[Flow]bool
}

// fourth is the node n3; in a smaller world n0.
func (w *world) fourth() *simNode { return w.nodes[3%w.started] }

// drop loses messages from now on; beacons are not messages.
func (w *world) drop(lost func(from, to *simNode, m *Message) bool) { w.drops = append(w.drops, lost) }

// dropped says whether some fault loses the message.
func (w *world) dropped(from, to *simNode, m *Message) bool {
	return slices.ContainsFunc(w.drops, func(lost func(from, to *simNode, m *Message) bool) bool { return lost(from, to, m) })
}

// dropPair loses all messages from one node to another, also those of a state exchange.
func (w *world) dropPair(a, b int) {
	w.drop(func(from, to *simNode, _ *Message) bool { return from.index == a && to.index == b })
}

// deafen lets no beacon of one node reach another.
func (w *world) deafen(from, to int) {
	w.wireCut[[2]int{from, to}], w.unicastCut[[2]int{from, to}] = true, true
}

// cutPair lets nothing pass between two nodes, either way. Listed: memberlist probes
// through others, and holds them members of the same cluster all the same.
func (w *world) cutPair(a, b int, listed bool) {
	for _, link := range [][2]int{{a, b}, {b, a}} {
		w.deafen(link[0], link[1])
		if listed {
			w.dropPair(link[0], link[1])
		} else {
			w.gossipCut[link] = true
		}
	}
	w.gossipAll()
}

// lastingFaults are of n1, or between n1 and n2.
var lastingFaults = []lasting{
	{"no fault", func(*world) {}},

	// Two that do not hear each other.
	{"n1 and n2 cut, gossip has lost them", func(w *world) { w.cutPair(1, 2, false) }},
	{"n1 and n2 cut, still members", func(w *world) { w.cutPair(1, 2, true) }},
	{"n1 to n2 cut", func(w *world) { w.cut[[2]int{1, 2}] = true; w.gossipAll() }},
	{"beacons n1 and n2 lost", func(w *world) { w.deafen(1, 2); w.deafen(2, 1) }},
	{"beacons n1 to n2 lost", func(w *world) { w.deafen(1, 2) }},
	{"wire n1 and n2 cut", func(w *world) { w.wireCut[[2]int{1, 2}], w.wireCut[[2]int{2, 1}] = true, true }},

	// One that others do not hear, or that does not hear them.
	{"nobody hears n1", func(w *world) { w.mute(1) }},
	{"nobody hears n1, its messages are lost", func(w *world) { w.mute(1); w.drop(fromNode(1)) }},
	{"nobody but n0 hears n1", func(w *world) { w.mute(1, 0) }},
	{"n1 hears nobody", func(w *world) { w.deafenAll(1) }},
	{"n1 hears nobody but n0", func(w *world) { w.deafenAll(1, 0) }},
	{"all beacons of n1 lost, in and out", func(w *world) { w.mute(1); w.deafenAll(1) }},
	{"n1 is cut off", func(w *world) { w.partition(1) }},
	{"nobody hears n1 on the wire", func(w *world) { w.cutWireOf(1, true, false) }},
	{"n1 hears nobody on the wire", func(w *world) { w.cutWireOf(1, false, true) }},
	{"wire of n1 cut", func(w *world) { w.cutWireOf(1, true, true) }},
	{"wire of all cut", func(w *world) {
		for i := range w.nodes {
			w.cutWireOf(i, true, true)
		}
	}},
	{"unicast of n1 cut", func(w *world) {
		for i := range w.nodes {
			w.unicastCut[[2]int{1, i}], w.unicastCut[[2]int{i, 1}] = true, true
		}
	}},
	{"gossip of n1 cut", func(w *world) { w.cutGossip(w.nodes[1]) }},
	{"a quarter of beacons lost", func(w *world) { w.beaconLoss = 0.25 }},

	// Messages that do not arrive.
	{"messages n1 to n2 lost", func(w *world) { w.dropPair(1, 2) }},
	{"messages n1 and n2 lost", func(w *world) { w.dropPair(1, 2); w.dropPair(2, 1) }},
	{"messages of n1 lost", func(w *world) { w.drop(fromNode(1)) }},
	{"messages to n1 lost", func(w *world) { w.drop(toNode(1)) }},
	{"messages of n1 lost, in and out", func(w *world) { w.drop(fromNode(1)); w.drop(toNode(1)) }},
	{"large messages of n1 lost", func(w *world) { w.drop(sized(fromNode(1), true)) }},
	{"small messages of n1 lost", func(w *world) { w.drop(sized(fromNode(1), false)) }},
	{"large messages of all lost", func(w *world) { w.drop(sized(anyNode, true)) }},
	{"a third of messages lost", func(w *world) { w.drop(func(_, _ *simNode, _ *Message) bool { return w.rng.IntN(3) == 0 }) }},

	// Kernels that do not do what they are told to.
	{"kernel of n1 refuses", func(w *world) { w.nodes[1].refuses = true }},
	{"kernel of n1 refuses every third commit", func(w *world) { w.nodes[1].fails = 0.33 }},
	{"kernel of n1 loses half of its answers", func(w *world) { w.nodes[1].forgets = 0.5 }},
	{"kernel of n1 loses all answers", func(w *world) { w.nodes[1].forgets = 1 }},
	{"kernel of n1 takes 2 s", func(w *world) { w.nodes[1].slow = 2 * time.Second }},
	{"kernels of all take 300 ms", func(w *world) { w.eachNode(func(n *simNode) { n.slow = 300 * ms }) }},
	{"kernels of all refuse", func(w *world) { w.eachNode(func(n *simNode) { n.refuses = true }) }},
	{"n1 cannot arm", func(w *world) { w.disarm(w.nodes[1]) }},
	{"n1 and n2 cannot arm", func(w *world) { w.disarm(w.nodes[1]); w.disarm(w.nodes[2]) }},

	// Processes and clocks.
	{"loop of n1 is up to 150 ms late", func(w *world) { w.nodes[1].late = 150 * ms }},
	{"loop of n1 is up to 1 s late", func(w *world) { w.nodes[1].late = time.Second }},
	{"loop of n1 hangs now and then", func(w *world) { w.hangs(w.nodes[1], 600*ms, 1500*ms) }},
	{"n1 stalls now and then", func(w *world) { w.stalls(w.nodes[1], w.timing.D*95/100, 800*ms) }},
	{"clocks 5 % apart", func(w *world) { w.drift(w.nodes[1], 0.025); w.drift(w.nodes[2], -0.025) }},

	// A program of another version.
	{"n1 cannot be understood", func(w *world) {
		w.stop(w.nodes[1], false)
		w.nodes[1].format = 1
		w.at(time.Second, func() { w.start(w.nodes[1]) })
	}},
}

func anyNode(_, _ *simNode, _ *Message) bool { return true }

func fromNode(i int) func(from, to *simNode, m *Message) bool {
	return func(from, _ *simNode, _ *Message) bool { return from.index == i }
}

func toNode(i int) func(from, to *simNode, m *Message) bool {
	return func(_, to *simNode, _ *Message) bool { return to.index == i }
}

// simDatagram is the size from which on a message goes by TCP: it is small, as the sets are.
const simDatagram = 320

// sized are the large ones of those messages, or the others.
func sized(which func(from, to *simNode, m *Message) bool, large bool) func(from, to *simNode, m *Message) bool {
	return func(from, to *simNode, m *Message) bool {
		return which(from, to, m) && (len(m.Encode()) > simDatagram) == large
	}
}

// mute lets nobody hear the beacons of a node, on any medium, but those.
func (w *world) mute(i int, but ...int) {
	for j := range w.nodes {
		if !slices.Contains(but, j) {
			w.deafen(i, j)
		}
	}
}

// deafenAll lets a node hear no beacons but of those.
func (w *world) deafenAll(i int, but ...int) {
	for j := range w.nodes {
		if !slices.Contains(but, j) {
			w.deafen(j, i)
		}
	}
}

// cutWireOf cuts the wire of a node, out of it, into it, or both.
func (w *world) cutWireOf(i int, out, in bool) {
	for j := range w.nodes {
		if out {
			w.wireCut[[2]int{i, j}] = true
		}
		if in {
			w.wireCut[[2]int{j, i}] = true
		}
	}
}

func (w *world) eachNode(do func(n *simNode)) {
	for _, n := range w.nodes {
		do(n)
	}
}

// disarm lets a node lose its lease, and its kernel arm none.
func (w *world) disarm(n *simNode) {
	n.unarmable = true
	w.stall(n, w.timing.D*95/100)
}

// hangs lets the core of a node make no progress for a while, again and again.
func (w *world) hangs(n *simNode, span, every Time) {
	n.blocked = true
	w.at(span, func() { n.blocked = false })
	w.at(every, func() { w.hangs(n, span, every) })
}

// stalls stops a node's process for a while, again and again.
func (w *world) stalls(n *simNode, span, every Time) {
	w.stall(n, span)
	w.at(every, func() { w.stalls(n, span, every) })
}

func wants(node func(w *world) *simNode, want WishKind, weight int) func(w *world) {
	return func(w *world) {
		at := w.nodes[0]
		w.wish(at, Wish{Node: node(w).name, Want: want, Weight: weight})
	}
}

func n0(w *world) *simNode { return w.nodes[0] }
func n1(w *world) *simNode { return w.nodes[1] }
func n2(w *world) *simNode { return w.nodes[2] }
func n3(w *world) *simNode { return w.fourth() }

func dies(node func(w *world) *simNode) func(w *world) {
	return func(w *world) { w.stop(node(w), false) }
}

func leaves(node func(w *world) *simNode) func(w *world) {
	return func(w *world) { w.step(node(w), Leave{}) }
}

func starts(node func(w *world) *simNode) func(w *world) {
	return func(w *world) { w.start(node(w)) }
}

func unfit(node func(w *world) *simNode) func(w *world) {
	return func(w *world) { w.setFit(node(w), 0, false) }
}

// restarts is an upgrade: it hands over, keeps its flows, and is back after a second.
func restarts(node func(w *world) *simNode) func(w *world) {
	return func(w *world) {
		n := node(w)
		w.step(n, Leave{KeepFlows: true})
		for end := w.now + 10*time.Second; n.core != nil && w.now < end; {
			w.run(10 * ms)
		}
		w.run(time.Second)
		w.start(n)
	}
}

// after does one thing, and another 6 s later.
func after(first, second func(w *world)) func(w *world) {
	return func(w *world) { first(w); w.run(6 * time.Second); second(w) }
}

// changes are what happens while a fault lasts.
var changes = []lasting{
	{"nothing", func(*world) {}},
	{"n3 dies", dies(n3)},
	{"n0 dies", dies(n0)},
	{"n1 dies", dies(n1)},
	{"n3 drains", wants(n3, WantDrain, 0)},
	{"n1 drains", wants(n1, WantDrain, 0)},
	{"n2 drains", wants(n2, WantDrain, 0)},
	{"n3 leaves", leaves(n3)},
	{"n1 leaves", leaves(n1)},
	{"n1 weighs 300", wants(n1, WantWeight, 300)},
	{"n3 weighs 300", wants(n3, WantWeight, 300)},
	{"n1 unfit", unfit(n1)},
	{"n3 dies and is back", after(dies(n3), starts(n3))},
	{"n1 dies and is back", after(dies(n1), starts(n1))},
	{"n3 restarts", restarts(n3)},
	{"n1 restarts", restarts(n1)},
	{"a new node joins", func(w *world) { w.start(w.nodes[w.started]) }},
	{"n1 drains, n3 dies", after(wants(n1, WantDrain, 0), dies(n3))},
	{"n1 weighs 300, n3 dies", after(wants(n1, WantWeight, 300), dies(n3))},
	{"n1 weighs 20, n3 dies", after(wants(n1, WantWeight, 20), dies(n3))},
	{"n1 unfit, n3 dies", after(unfit(n1), dies(n3))},
	{"n3 drains, n0 dies", after(wants(n3, WantDrain, 0), dies(n0))},
}
