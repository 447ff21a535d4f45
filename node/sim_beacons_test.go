package node

import (
	"slices"
)

// The simulator's beacons and leases: what agent/beacons.go and the kernel do.

// simDetect is the detection of scenarios: D is 200 ms.
var simDetect = NewDetect(25*ms, 8)

// rareBeacons is the detection of random runs, half of whose time goes to beacons.
var rareBeacons = NewDetect(50*ms, 8)

const simTick = 4 * ms

// beat is the sending thread: a beacon each interval, up to a fifth of it early, and up to
// a millisecond late.
func (w *world) beat(n *simNode) {
	core := n.core
	w.at(n.clock.span(w.timing.Interval-early(w.rng, w.timing.Interval))+w.randomly(ms), func() {
		if n.core == core {
			w.beat(n)
		}
	})
	w.whenAwake(n, func() {
		w.tellOutside(n)
		if !n.blocked && len(n.backlog) == 0 { // the loop's own timer
			w.inTurn(n, nil)
		}
		w.beacon(n)
	})
}

// whenAwake does something of the node's process once it runs.
func (w *world) whenAwake(n *simNode, do func()) {
	if w.now >= n.stalled {
		do()
		return
	}
	core := n.core
	w.at(n.stalled-w.now, func() {
		if n.core == core {
			w.whenAwake(n, do)
		}
	})
}

// say gives the herald the core's word.
func (w *world) say(n *simNode) {
	news, drop := n.herald.Say(w.time(n), n.core.Bulletin())
	if drop {
		w.setLease(n, 0)
	}
	if news {
		w.kick(n)
	}
	w.tend(n)
}

// kick sends a beacon out of turn.
func (w *world) kick(n *simNode) {
	if n.kicked {
		return
	}
	n.kicked = true
	core := n.core
	w.at(ms/20, func() {
		n.kicked = false
		if n.core == core {
			w.whenAwake(n, func() { w.beacon(n) })
		}
	})
}

func (w *world) beacon(n *simNode) {
	var b Beacon
	n.herald.Attend(w.time(n), len(n.unread) == 0)
	marked, ok := n.herald.Beacon(w.time(n), &b)
	if marked && n.lease > w.now {
		w.setLease(n, w.now+n.clock.span(w.kernelTime(w.timing.L)))
	}
	w.tend(n)
	if !ok {
		return
	}
	w.send(n, &b)
}

// retire is the end of a node's beacons, right before its goodbye. Nodes of earlier
// versions went on to send some until the process ended.
func (w *world) retire(n *simNode) {
	if !w.beacons {
		return
	}
	if w.rng.IntN(2) == 0 {
		n.herald.Retire(w.time(n))
		w.beacon(n)
		return
	}
	herald := n.herald
	for k := range w.rng.IntN(int(w.timing.D / w.timing.Interval)) {
		w.at(Time(k)*n.clock.span(w.timing.Interval), func() {
			var b Beacon
			if _, ok := herald.Beacon(w.time(n), &b); ok {
				w.send(n, &b)
			}
		})
	}
}

// send carries a beacon to whom it may concern.
func (w *world) send(n *simNode, b *Beacon) {
	if b.Format == 1 { // what it cannot carry
		for i := range b.Peers {
			b.Peers[i].Flags &= ackFlags1
		}
	}
	w.recordBeacon(b)
	unicast := n.herald.AppendUnicast(nil, w.time(n))
	for _, to := range w.nodes {
		if to == n || to.core == nil {
			continue
		}
		w.carry(n, to, Wire, b)
		if slices.ContainsFunc(unicast, func(inc Incarnation) bool { return inc.Name == to.name }) {
			w.carry(n, to, Unicast, b)
		}
	}
}

// kernelTime is what the kernel makes of a timeout: whole ticks, rounded down, from
// some tick on.
func (w *world) kernelTime(d Time) Time { return d - w.randomly(2*simTick) }

func (w *world) carry(from, to *simNode, medium Medium, b *Beacon) {
	link := [2]int{from.index, to.index}
	if w.cut[link] || medium == Wire && w.wireCut[link] || medium == Unicast && w.unicastCut[link] || w.deafWire(to, medium) || w.rng.Float64() < max(w.net.loss, w.beaconLoss) {
		return
	}
	core := to.core
	w.at(w.net.delay(w.rng), func() {
		if to.core == core {
			w.whenAwake(to, func() {
				w.read(to, func() {
					if to.accepts(from) && b.Format <= to.herald.reads {
						w.hear(to, medium, b)
					} else {
						w.hearOutside(to, from, b)
					}
				})
			})
		}
	})
}

// deafWire: its switch port does not forward yet.
func (w *world) deafWire(n *simNode, medium Medium) bool { return n.deaf && medium == Wire }

// read is the goroutine that receives, which may not run though others do.
func (w *world) read(n *simNode, hear func()) {
	if w.now >= n.starved && len(n.unread) == 0 {
		hear()
		return
	}
	n.unread = append(n.unread, hear)
	if len(n.unread) > 1 {
		return
	}
	core := n.core
	w.at(max(n.starved-w.now, ms/10), func() {
		unread := n.unread
		n.unread = nil
		for _, hear := range unread {
			if n.core == core {
				hear()
			}
		}
	})
}

func (w *world) hear(n *simNode, medium Medium, b *Beacon) {
	heed := n.herald.Hear(w.time(n), medium, b)
	if heed.Drop {
		w.log("%s: %s holds it dead, the lease is dropped", n.name, b.Name)
		w.setLease(n, 0)
	}
	if heed.Kick {
		w.kick(n)
	}
	w.tend(n)
}

// tend passes on what the herald has to tell, and has a missing lease armed.
func (w *world) tend(n *simNode) {
	core := n.core
	for _, ev := range n.herald.Events(w.time(n)) {
		w.at(ms/20, func() {
			if n.core == core {
				w.step(n, ev)
			}
		})
	}
	if at := n.herald.Deadline(w.time(n)); at < w.time(n)+w.timing.Interval/2 && !n.tending {
		n.tending = true
		w.at(n.clock.there(at)-w.now, func() {
			n.tending = false
			if n.core == core {
				w.whenAwake(n, func() {
					n.herald.Attend(w.time(n), len(n.unread) == 0)
					w.tend(n)
				})
			}
		})
	}
	if _, ok := n.herald.ArmBy(w.time(n)); ok && !n.arming {
		n.arming = true
		w.at(w.randomly(ms/2), func() { w.arm(n, core) })
	}
}

// arm is the goroutine that commits: it asks whether the lease may be armed, and the
// kernel does it, if it can in time.
func (w *world) arm(n *simNode, core *Core) {
	if n.core != core {
		n.arming = false
		return
	}
	if w.now < n.stalled {
		w.at(n.stalled-w.now, func() { w.arm(n, core) })
		return
	}
	began := w.time(n)
	by, ok := n.herald.ArmBy(began)
	if !ok {
		n.arming = false
		return
	}
	w.at(w.net.commit(w.rng), func() {
		n.arming = false
		if n.core != core || w.time(n) > by || n.unarmable {
			return
		}
		w.rewrite(n)
		w.setLease(n, w.now+n.clock.span(w.kernelTime(w.timing.ArmFor())))
		w.whenAwake(n, func() {
			n.herald.Armed(w.time(n), began)
			w.kick(n)
			w.tend(n)
		})
	})
}

// setLease is the kernel's: the lease is valid until then.
func (w *world) setLease(n *simNode, until Time) {
	n.lease = until
	w.lease(n)
	if until > w.now {
		w.at(until-w.now, func() { w.lease(n) })
	}
}

// lease brings the books up to what the kernel does.
func (w *world) lease(n *simNode) {
	holds := !w.beacons || n.lease > w.now
	if holds == n.leased {
		return
	}
	w.log("%s %s the lease", n.name, map[bool]string{true: "has", false: "has no longer"}[holds])
	n.leased = holds
	for slot := range n.kernel.All() {
		if holds {
			w.serve(slot)
		} else {
			w.unserve(n, slot)
		}
	}
	w.judgeTalks()
	if holds {
		for slot, state := range n.states {
			if state == Own {
				w.judgeResets(slot)
			}
		}
	}
}

// stall stops a node's process for a while, as SIGSTOP does.
func (w *world) stall(n *simNode, d Time) {
	w.log("%s is stopped for %v", n.name, d)
	n.stalled = max(n.stalled, w.now+d)
}
