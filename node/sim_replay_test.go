package node

import (
	"testing"
	"time"
)

// recordings are what somebody without the key has recorded of a cluster: gossip,
// whole, and beacons. It can send them again at any time, to anybody.
type recordings struct {
	recording bool
	boots     map[int][]uint64 // of each node's lives
	messages  []recordedMessage
	beaconsOf []*Beacon
}

type recordedMessage struct {
	to *simNode
	m  *Message
}

// mostRecorded bounds what is kept of a kind; what comes later takes a random place.
const mostRecorded = 300

func (w *world) recordBoot(n *simNode) {
	if w.boots == nil {
		w.boots = map[int][]uint64{}
	}
	w.boots[n.index] = append(w.boots[n.index], n.boot)
}

func (w *world) recordMessage(to *simNode, m *Message) {
	if w.recording {
		w.messages = record(w, w.messages, recordedMessage{to, m})
	}
}

func (w *world) recordBeacon(b *Beacon) {
	if w.recording {
		w.beaconsOf = record(w, w.beaconsOf, b)
	}
}

func record[T any](w *world, list []T, item T) []T {
	if len(list) < mostRecorded {
		return append(list, item)
	}
	list[w.rng.IntN(len(list))] = item
	return list
}

// replay sends some recording again. What gossip makes of it lasts until the node that
// it is about has refuted it, or has not answered a probe.
func (w *world) replay() {
	n, p := w.some(), w.some()
	if n == p || n.core == nil {
		return
	}
	_, sees := n.sees[p.index]
	switch kind := w.rng.IntN(6); {
	case kind < 2 && sees:
		w.log("replayed at %s: %s leaves", n.name, p.name)
		w.step(n, PeerDead{Name: p.name, Left: w.rng.IntN(4) > 0})
		w.refute(n, p, 0)
	case kind == 2 && len(w.boots[p.index]) > 1:
		boots := w.boots[p.index]
		old := boots[w.rng.IntN(len(boots)-1)]
		w.log("replayed at %s: %s joins in an earlier life", n.name, p.name)
		w.step(n, PeerAlive{Incarnation: Incarnation{p.name, old}, SpecRevision: p.revision, SpecDigest: uint64(p.revision)})
		w.refute(n, p, old)
	case kind < 5 && len(w.messages) > 0:
		r := w.messages[w.rng.IntN(len(w.messages))]
		w.log("replayed at %s: a message", r.to.name)
		w.step(r.to, Received{r.m})
	case len(w.beaconsOf) > 0:
		b := w.beaconsOf[w.rng.IntN(len(w.beaconsOf))]
		w.log("replayed at %s: a beacon of %s", n.name, b.Name)
		w.hear(n, Medium(w.rng.IntN(mediums)), b)
	}
}

// refute has gossip tell the truth again, after a while: what it says of a node that
// lives, that node refutes, and who does not answer a probe is dead.
func (w *world) refute(n, p *simNode, believes uint64) {
	if n.sees[p.index] = believes; believes == 0 {
		delete(n.sees, p.index)
	}
	core := n.core
	w.at(ms+w.randomly(time.Second), func() {
		if n.core == core {
			w.whenAwake(p, func() { w.gossip(n, p) })
		}
	})
}

// TestReplaysAmongPlannedChanges: recordings of leaves, of joins, of messages and beacons,
// sent again at any moment, give no bucket a second owner, none away, and reset no flow.
func TestReplaysAmongPlannedChanges(t *testing.T) {
	forSeeds(t, 1, func(seed uint64, tracing bool) *world {
		w := settled(seed, tracing, 2+int(seed%4))
		w.gapLimit, w.strict, w.recording = 2*time.Second, true, true
		w.strictFlows = !w.dropUnhealthy
		w.clients(20*ms, 20*time.Second)
		for range 12 {
			w.planned()
			for range w.rng.IntN(6) {
				w.someTime(400 * ms)
				w.replay()
			}
		}
		w.quiet()
		return w
	})
}

// TestReplaysAmongMishaps: the same while nodes stall, crash and restart.
func TestReplaysAmongMishaps(t *testing.T) {
	forSeeds(t, 1, func(seed uint64, tracing bool) *world {
		w := settled(seed, tracing, 2+int(seed%4))
		w.recording = true
		w.judgeAll()
		w.clients(50*ms, 15*time.Second)
		for range 12 {
			w.mishap()
			for range w.rng.IntN(6) {
				w.someTime(300 * ms)
				w.replay()
			}
		}
		w.beaconLoss = 0
		w.quiet()
		return w
	})
}

// TestRecordedLeaveOfALivingNode: gossip says of a
// node that holds its lease and speaks that it has left.
func TestRecordedLeaveOfALivingNode(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.strictFlows = true
		w.clients(20*ms, 10*time.Second)
		w.run(time.Second)
		takes := w.takes
		for range 5 {
			for _, n := range w.nodes[:2] {
				w.step(n, PeerDead{Name: "n2", Left: true})
				w.refute(n, w.nodes[2], 0)
			}
			w.run(2 * time.Second)
		}
		if w.takes != takes {
			t.Errorf("%d buckets were taken from a living node", w.takes-takes)
		}
	})
}

// TestRecordedJoinOfAnEarlierLife: gossip says of a node that speaks that it is in a life
// that has ended.
func TestRecordedJoinOfAnEarlierLife(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.step(w.nodes[2], Leave{KeepFlows: true})
		w.run(time.Second)
		w.start(w.nodes[2])
		w.run(8 * time.Second)
		w.strictFlows = true
		w.clients(20*ms, 10*time.Second)
		w.run(time.Second)
		takes := w.takes
		for range 5 {
			for _, n := range w.nodes[:2] {
				w.step(n, PeerAlive{Incarnation: Incarnation{"n2", w.boots[2][0]}, SpecRevision: 1, SpecDigest: 1})
				w.refute(n, w.nodes[2], w.boots[2][0])
			}
			w.run(2 * time.Second)
		}
		if w.takes != takes {
			t.Errorf("%d buckets were taken from a living node", w.takes-takes)
		}
	})
}

// TestLeaveOfASleeperIsReplayed: a node sleeps for longer than D, and meanwhile gossip says
// that it has left. It is told that it was held dead when it wakes.
func TestLeaveOfASleeperIsReplayed(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0 // this is no planned change
		w.strictFlows = true
		w.clients(20*ms, 10*time.Second)
		w.run(time.Second)
		w.stall(w.nodes[2], 700*ms)
		w.run(400 * ms)
		for _, n := range w.nodes[:2] {
			w.step(n, PeerDead{Name: "n2", Left: true})
			w.refute(n, w.nodes[2], 0)
		}
		w.run(5 * time.Second)
	})
}

// TestNobodyWaitsForALeaver: when a node has said goodbye, what still comes of its beacons
// makes it no stranger, and leaves no trace.
func TestNobodyWaitsForALeaver(t *testing.T) {
	scenario(t, 4, func(t *testing.T, w *world) {
		w.gapLimit = 0
		for _, restart := range []bool{false, true} {
			n := w.nodes[2]
			w.step(n, Leave{KeepFlows: restart})
			for n.core != nil {
				w.run(ms)
			}
			w.run(10 * ms) // for the goodbye
			w.stop(w.nodes[3], false)
			for range 1500 {
				w.run(ms)
				if list := w.nodes[0].core.unlisted(); len(list) > 0 {
					t.Fatalf("%v count as unlisted", list)
				}
			}
			for slot, n := range w.owners {
				if n == 0 {
					t.Fatalf("slot %d has no owner", slot)
				}
			}
			w.run(2 * time.Second)
			for _, s := range w.nodes[0].herald.Status(w.now).Neighbours {
				if s.Name == n.name {
					t.Errorf("%s has left, and is %s in the beacons", s.Name, s.Standing)
				}
			}
			w.start(n)
			w.start(w.nodes[3])
			w.run(8 * time.Second)
		}
	})
}
