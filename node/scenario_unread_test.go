package node

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"
)

// messageFaults are of n1: its beacons pass.
var messageFaults = map[string]func(from, to *simNode) bool{
	"out":        func(from, _ *simNode) bool { return from.index == 1 },
	"in":         func(_, to *simNode) bool { return to.index == 1 },
	"in and out": func(from, to *simNode) bool { return from.index == 1 || to.index == 1 },
}

func (w *world) losingMessages(lost func(from, to *simNode) bool) {
	w.drop(func(from, to *simNode, _ *Message) bool { return lost(from, to) })
}

func (w *world) problemOf(n *simNode, part string) bool {
	return slices.ContainsFunc(n.core.Snapshot().Problems, func(line string) bool { return strings.Contains(line, part) })
}

// TestNodeWhoseMessagesDoNotPass is invariant 6: it can neither give nor take, and would stop
// each takeover of the others. It begins to join again, its flows go on, and the others
// take over; when its messages pass again it serves again.
func TestNodeWhoseMessagesDoNotPass(t *testing.T) {
	for name, lost := range messageFaults {
		t.Run(name, func(t *testing.T) {
			scenario(t, 4, func(t *testing.T, w *world) {
				w.gapLimit, w.strictFlows = 0, true
				w.clients(20*ms, 8*time.Second)
				w.run(time.Second)
				w.losingMessages(lost)
				w.run(4 * time.Second)
				if n := w.nodes[1]; n.core.phase != Active {
					t.Errorf("n1 is %s before anybody had anything to say", n.core.phase)
				}
				w.stop(w.nodes[3], false)
				w.run(5 * time.Second)
				if n := w.unowned(); n > 0 {
					t.Errorf("%d buckets have no owner 5 s after a death", n)
				}
				if n := w.nodes[1]; n.core.phase != Joining || n.owns() > 0 {
					t.Errorf("n1 is %s and has %d buckets", n.core.phase, n.owns())
				}
				for _, n := range w.up() {
					if !w.problemOf(n, "n1 is a member and does not serve") && !w.problemOf(n, "messages of n1 do not arrive here") &&
						!w.problemOf(n, "though they get each other's: look for firewalls at cluster.port") {
						t.Errorf("%s does not say that messages of n1 do not pass: %q", n.name, n.core.Snapshot().Problems)
					}
				}
				w.drops = nil
				w.run(6 * time.Second)
				if n := w.nodes[1]; n.core.phase != Active || n.owns() == 0 {
					t.Errorf("n1 is %s and has %d buckets when its messages pass again", n.core.phase, n.owns())
				}
				if n := w.nodes[1].reset; n > 0 {
					t.Errorf("%d flows of n1 were reset", n)
				}
				w.strictFlows = false
				w.run(10 * time.Second)
			})
		})
	}
}

// TestNobodyWithdrawsWhenNoMessagePasses: when all are alike, nobody is the odd one. What
// is owned stands, whatever dies.
func TestNobodyWithdrawsWhenNoMessagePasses(t *testing.T) {
	scenario(t, 4, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.losingMessages(func(_, _ *simNode) bool { return true })
		w.run(2 * time.Second)
		w.setFit(w.nodes[0], 0, false) // which beacons tell
		w.run(10 * time.Second)
		w.stop(w.nodes[3], false)
		w.run(10 * time.Second)
		for _, n := range w.up() {
			if n.core.phase != Active || n.owns() == 0 {
				t.Errorf("%s is %s and has %d buckets", n.name, n.core.phase, n.owns())
			}
			if !w.problemOf(n, "do not arrive here, though its beacons do; ") {
				t.Errorf("%s does not say what waits: %q", n.name, n.core.Snapshot().Problems)
			}
		}
		w.drops = nil
		w.setFit(w.nodes[0], 0, true)
		w.run(8 * time.Second)
	})
}

// TestOfTwoOneGoesOn: messages do not pass between the only two, and a bucket that nobody
// has waits for that. The one with the lower name serves all; while nothing waits, both do.
func TestOfTwoOneGoesOn(t *testing.T) {
	for name, links := range map[string][][2]int{"one way": {{1, 2}}, "the other": {{2, 1}}, "both": {{1, 2}, {2, 1}}} {
		t.Run(name, func(t *testing.T) {
			scenario(t, 3, func(t *testing.T, w *world) {
				w.gapLimit = 0
				w.losingMessages(func(from, to *simNode) bool { return slices.Contains(links, [2]int{from.index, to.index}) })
				w.stop(w.nodes[0], false)
				w.run(5 * time.Second)
				if w.unowned() > 0 || w.nodes[1].core.phase != Active || w.nodes[2].core.phase != Joining {
					t.Errorf("%s, %d buckets have no owner", w.standings(), w.unowned())
				}
				w.drops = nil
				w.run(6 * time.Second)
				if w.nodes[2].owns() == 0 {
					t.Errorf("messages pass again: %s", w.standings())
				}
			})
		})
	}
	scenario(t, 2, func(t *testing.T, w *world) {
		w.losingMessages(func(_, _ *simNode) bool { return true })
		w.wish(w.nodes[1], Wish{Node: "n1", Want: WantWeight, Weight: 50})
		w.run(10 * time.Second)
		if w.unowned() > 0 || w.nodes[0].owns() != w.buckets/2 || w.nodes[1].owns() != w.buckets/2 {
			t.Errorf("nothing waits, and buckets move: %s", w.standings())
		}
		w.drops = nil
		w.run(4 * time.Second)
	})
}

// TestADeafDrainedNodeStopsNobody is invariant 6: n1 is drained and hears no beacons any more, so
// it holds all others dead. It takes nothing over, so they go on, and do not yield to it. When
// it is resumed they do, before it takes what they have (invariant 1).
func TestADeafDrainedNodeStopsNobody(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.wish(w.nodes[0], Wish{Node: "n1", Want: WantDrain})
		w.run(3 * time.Second)
		w.gapLimit = 0
		w.watch()
		end := w.deafenLinks(w.linksOf(w.nodes[1], false, true))
		w.run(500 * ms) // who was heard a moment ago is waited for
		for range 40 {
			if w.run(100 * ms); w.unowned() > 0 {
				t.Fatalf("n1 is deaf: %s", w.standings())
			}
		}
		w.wish(w.nodes[1], Wish{Node: "n1", Want: WantResume})
		w.run(3 * time.Second)
		if w.unowned() > 0 {
			t.Errorf("n1 is resumed: %s", w.standings())
		}
		end()
	})
}

// TestADeafDrainedNodeStopsNoTakeover is invariant 6: n1 is drained and hears nobody but n0, which
// dies. It holds n2 dead then, and answers it no more. It has nothing and takes nothing, as
// its beacons say, so n2 waits for no word of it.
func TestADeafDrainedNodeStopsNoTakeover(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.wish(w.nodes[0], Wish{Node: "n1", Want: WantDrain})
		w.run(10 * time.Second) // longer than a start speaks format 1, which cannot say it
		w.gapLimit = 0
		w.watch()
		w.wireCut[[2]int{2, 1}], w.unicastCut[[2]int{2, 1}] = true, true
		w.run(2 * time.Second)
		w.stop(w.nodes[0], false)
		w.run(3 * time.Second)
		if n := w.unowned(); n > 0 {
			t.Errorf("%d buckets have no owner: %s", n, w.standings())
		}
		delete(w.wireCut, [2]int{2, 1})
		delete(w.unicastCut, [2]int{2, 1})
	})
}

// TestOfTwoHalvesOneGoesOn is invariant 6: messages pass within two halves and not between
// them, so that no node is alone with it. When a bucket waits for that, those give up whose
// messages do not pass to the first.
func TestOfTwoHalvesOneGoesOn(t *testing.T) {
	for _, first := range []int{2, 3} { // the nodes of the first half; one of the other dies
		scenario(t, 5, func(t *testing.T, w *world) {
			w.gapLimit = 0
			w.losingMessages(func(from, to *simNode) bool { return (from.index < first) != (to.index < first) })
			w.run(time.Second)
			w.stop(w.nodes[4], false)
			w.run(14 * time.Second)
			if w.unowned() > 0 || w.nodes[0].core.phase != Active {
				t.Errorf("%d and %d nodes: %s, %d buckets have no owner", first, 4-first, w.standings(), w.unowned())
			}
			w.drops = nil
			w.run(6 * time.Second)
			for _, n := range w.up() {
				if n.owns() == 0 {
					t.Errorf("messages pass again: %s", w.standings())
				}
			}
		})
	}
}

// TestADrainedNodeStopsNobody is invariant 6: messages do not pass between n0, which is drained
// and has nothing, and n1, the only other one that is left, or that starts. The name must not
// decide: n1 gave up its buckets for n0, which took none, and neither served.
func TestADrainedNodeStopsNobody(t *testing.T) {
	for name, lost := range map[string]func(from, to *simNode) bool{
		"out":        func(from, _ *simNode) bool { return from.index == 0 },
		"in":         func(_, to *simNode) bool { return to.index == 0 },
		"in and out": func(from, to *simNode) bool { return from.index == 0 || to.index == 0 },
	} {
		for _, story := range []struct {
			name  string
			nodes int
			do    func(w *world)
		}{
			{"the third dies", 3, func(w *world) { w.stop(w.nodes[2], false) }},
			{"the other restarts", 2, func(w *world) {
				w.stop(w.nodes[1], false)
				w.run(3 * time.Second)
				w.start(w.nodes[1])
				w.run(7 * time.Second)
			}},
		} {
			t.Run(story.name+", "+name, func(t *testing.T) {
				scenario(t, story.nodes, func(t *testing.T, w *world) {
					w.wish(w.nodes[1], Wish{Node: "n0", Want: WantDrain})
					w.run(3 * time.Second)
					w.gapLimit = 0
					w.losingMessages(lost)
					w.run(time.Second)
					story.do(w)
					w.run(5 * time.Second)
					if w.unowned() > 0 {
						t.Errorf("%s: n1 says %q", w.standings(), w.nodes[1].core.Snapshot().Problems)
					}
					w.drops = nil
					w.wish(w.nodes[1], Wish{Node: "n0", Want: WantResume})
					w.run(6 * time.Second)
				})
			})
		}
	}
}

// TestUnreadableJoinerStaysOut: it says so, and stops nobody. Before, it served after 5 s,
// though nobody had acknowledged a word of it, and no orphan was ever taken.
func TestUnreadableJoinerStaysOut(t *testing.T) {
	for name, lost := range map[string]func(from, to *simNode) bool{
		"out":        func(from, _ *simNode) bool { return from.index == 3 },
		"in and out": func(from, to *simNode) bool { return from.index == 3 || to.index == 3 },
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, 4, func(t *testing.T, w *world) {
				w.gapLimit = 0
				w.stop(w.nodes[3], false)
				w.run(3 * time.Second)
				w.losingMessages(lost)
				w.start(w.nodes[3])
				w.run(12 * time.Second)
				if n := w.nodes[3]; n.core.phase != Joining || !w.problemOf(n, "not serving yet") || !w.problemOf(n, "cluster.port") {
					t.Errorf("n3 is %s and says %q", n.core.phase, n.core.Snapshot().Problems)
				}
				w.stop(w.nodes[0], false)
				w.run(time.Second)
				if n := w.unowned(); n > 0 {
					t.Errorf("%d buckets have no owner a second after a death", n)
				}
				w.start(w.nodes[0])
				w.run(3 * time.Second)
				w.drops = nil
			})
		})
	}
}

// TestEverybodySaysWhoIsDeafToWhom, as far as its beacons tell, though everybody is alive
// through others.
func TestEverybodySaysWhoIsDeafToWhom(t *testing.T) {
	for mutual, links := range map[bool][][2]int{false: {{1, 2}}, true: {{1, 2}, {2, 1}}} {
		scenario(t, 4, func(t *testing.T, w *world) {
			want := map[int]string{}
			if mutual { // they do not hear what the other says of them
				want = map[int]string{0: "n1 and n2 do not hear each other.", 1: "n1 does not hear n2.", 3: "n1 and n2 do not hear each other."}
			}
			w.gapLimit = 0
			for _, link := range links {
				w.wireCut[link], w.unicastCut[link] = true, true
			}
			w.run(4 * time.Second)
			for i, n := range w.nodes {
				text := cmp.Or(want[i], "n2 does not hear n1.")
				if !w.problemOf(n, text) || !w.problemOf(n, "cluster.beacon_port") {
					t.Errorf("%s does not say that %s: %q", n.name, text, n.core.Snapshot().Problems)
				}
			}
			w.heal()
			w.run(4 * time.Second)
			for _, n := range w.nodes {
				if w.problemOf(n, "beacons do not pass") {
					t.Errorf("%s still says it: %q", n.name, n.core.Snapshot().Problems)
				}
			}
		})
	}
}
