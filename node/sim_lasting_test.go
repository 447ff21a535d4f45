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
	{"n1 and n2 cut, gossip has lost them", func(w *world) { w.cutPair(1, 2, false) }},
	{"n1 and n2 cut, still members", func(w *world) { w.cutPair(1, 2, true) }},
	{"n1 to n2 cut", func(w *world) { w.cut[[2]int{1, 2}] = true; w.gossipAll() }},
	{"messages n1 to n2 lost", func(w *world) { w.dropPair(1, 2) }},
	{"messages n1 and n2 lost", func(w *world) { w.dropPair(1, 2); w.dropPair(2, 1) }},
	{"messages of n1 lost", func(w *world) {
		w.drop(func(from, _ *simNode, _ *Message) bool { return from.index == 1 })
	}},
	{"kernel of n1 refuses", func(w *world) { w.nodes[1].refuses = true }},
	{"kernel of n1 takes 2 s", func(w *world) { w.nodes[1].slow = 2 * time.Second }},
	{"n1 cannot arm", func(w *world) {
		w.nodes[1].unarmable = true
		w.stall(w.nodes[1], w.timing.D*95/100)
	}},
	{"gossip of n1 cut", func(w *world) { w.cutGossip(w.nodes[1]) }},
	{"wire n1 and n2 cut", func(w *world) { w.wireCut[[2]int{1, 2}], w.wireCut[[2]int{2, 1}] = true, true }},
	{"unicast of n1 cut", func(w *world) {
		for i := range w.nodes {
			w.unicastCut[[2]int{1, i}], w.unicastCut[[2]int{i, 1}] = true, true
		}
	}},
	{"a quarter of beacons lost", func(w *world) { w.beaconLoss = 0.25 }},
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
