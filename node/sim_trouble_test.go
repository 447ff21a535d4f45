package node

import "time"

// trouble is a fault that a random run has for a while, among others.
type trouble struct {
	name string
	open string // why it is left out of random runs; "": it is not
	// most is how long it lasts at most.
	most Time
	// begin lets it begin at a node, and returns what ends it.
	begin func(w *world, n *simNode) (end func())
}

// troubles are those kinds. A seed that one of them breaks is worth a line in open only
// until it is mended.
var troubles = []trouble{
	{name: "nobody hears it", most: 2 * time.Second, begin: func(w *world, n *simNode) func() {
		return w.deafenLinks(w.linksOf(n, true, false))
	}},
	{name: "it hears nobody", most: 2 * time.Second, begin: func(w *world, n *simNode) func() {
		return w.deafenLinks(w.linksOf(n, false, true))
	}},
	{name: "it and another do not hear each other", most: 6 * time.Second, begin: func(w *world, n *simNode) func() {
		other := w.some().index
		return w.deafenLinks([][2]int{{n.index, other}, {other, n.index}})
	}},
	{name: "another does not hear it", most: 6 * time.Second, begin: func(w *world, n *simNode) func() {
		return w.deafenLinks([][2]int{{n.index, w.some().index}})
	}},
	{name: "nothing passes between it and another", most: 6 * time.Second, begin: func(w *world, n *simNode) func() {
		other := w.some().index
		end := w.deafenLinks([][2]int{{n.index, other}, {other, n.index}})
		found := w.loseMessages(func(from, to *simNode, _ *Message) bool {
			return from == n && to.index == other || from.index == other && to == n
		})
		return func() { end(); found() }
	}},
	{name: "messages of it are lost", most: 4 * time.Second, begin: func(w *world, n *simNode) func() {
		return w.loseMessages(fromNode(n.index))
	}},
	{name: "messages to it are lost", most: 4 * time.Second, begin: func(w *world, n *simNode) func() {
		return w.loseMessages(toNode(n.index))
	}},
	{name: "its large messages are lost", most: 4 * time.Second, begin: func(w *world, n *simNode) func() {
		return w.loseMessages(sized(fromNode(n.index), true))
	}},
	{name: "its kernel refuses", most: 8 * time.Second, begin: func(w *world, n *simNode) func() {
		n.refuses = true
		return func() { n.refuses = false }
	}},
	{name: "its kernel refuses some commits", most: 12 * time.Second, begin: func(w *world, n *simNode) func() {
		n.fails = 0.33
		return func() { n.fails = 0 }
	}},
	{name: "its kernel loses answers", most: 8 * time.Second, begin: func(w *world, n *simNode) func() {
		n.forgets = 0.5
		return func() { n.forgets = 0 }
	}},
	{name: "its kernel is slow", most: 8 * time.Second, begin: func(w *world, n *simNode) func() {
		n.slow = w.randomly(time.Second)
		return func() { n.slow = 0 }
	}},
	{name: "its kernel arms no lease", most: 5 * time.Second, begin: func(w *world, n *simNode) func() {
		n.unarmable = true
		return func() { n.unarmable = false }
	}},
	{name: "its loop is late", most: 5 * time.Second, begin: func(w *world, n *simNode) func() {
		n.late = 50*ms + w.randomly(500*ms)
		return func() { n.late = 0 }
	}},
}

// trouble lets some trouble begin at a node.
func (w *world) trouble(n *simNode) {
	t := troubles[w.rng.IntN(len(troubles))]
	if t.open != "" {
		return
	}
	w.log("%s: %s", n.name, t.name)
	end := t.begin(w, n)
	w.at(w.randomly(t.most), func() {
		w.log("%s: no longer: %s", n.name, t.name)
		end()
	})
}

// linksOf are the links from the node to all others, to it, or both.
func (w *world) linksOf(n *simNode, from, to bool) (links [][2]int) {
	for i := range w.nodes {
		if from {
			links = append(links, [2]int{n.index, i})
		}
		if to {
			links = append(links, [2]int{i, n.index})
		}
	}
	return links
}

// deafenLinks lets no beacons pass there, and returns what ends that.
func (w *world) deafenLinks(links [][2]int) (end func()) {
	for _, l := range links {
		w.deafen(l[0], l[1])
	}
	return func() {
		for _, l := range links {
			delete(w.wireCut, l)
			delete(w.unicastCut, l)
		}
	}
}

// loseMessages loses those messages, and returns what ends that.
func (w *world) loseMessages(which func(from, to *simNode, m *Message) bool) (end func()) {
	over := false
	w.drop(func(from, to *simNode, m *Message) bool { return !over && which(from, to, m) })
	return func() { over = true }
}

// endTroubles ends all that may be wrong with nodes.
func (w *world) endTroubles() {
	w.drops = nil
	for _, n := range w.nodes {
		n.refuses, n.refusesChanges, n.slow, n.blocked = false, false, 0, false
		n.fails, n.forgets, n.late, n.unarmable = 0, 0, 0, false
	}
}

// ownClocks gives the nodes clocks that began at other times, and run up to 5 % apart.
func (w *world) ownClocks() {
	for _, n := range w.nodes {
		n.clock = simClock{origin: w.randomly(time.Hour), drift: 0.05*w.rng.Float64() - 0.025}
	}
}
