package node

import (
	"slices"
	"time"
)

// books are what the simulator notes of the kernels, to judge the invariants by:
//
//  1. Never two nodes accept new flows of one bucket, but in a split (see judge).
//  2. After quiet, every bucket has exactly one owner, the placement's.
//  3. A planned change leaves no bucket without an owner longer than one handoff.
//  5. Nothing waits for ever.
type books struct {
	owners      []int  // by slot: how many kernels accept it now
	doubleSince []Time // by slot, 0: not double
	orphanSince []Time // by slot, 0: owned
	worstDouble Time
	worstOrphan Time
	worstGap    Time // of the orphans, as long as some node could serve all the time
	takes       int

	flows  [][]*simFlow // that live, by slot
	resets int          // of flows, by another node than theirs
	// strictFlows makes the end of a flow by another node, or by its own that no
	// longer accepts it, a fault (invariant 4).
	strictFlows bool

	// strict makes two owners a fault from now on (invariant 1); doubleLimit and
	// gapLimit (invariant 3), if they are not 0, make one what lasts longer.
	strict      bool
	doubleLimit Time
	gapLimit    Time
	// servedSince is, by service, since when there has always been a node that
	// could take buckets of it; 0: there is none.
	servedSince []Time
}

func newBooks(slots int) books {
	return books{
		flows: make([][]*simFlow, slots), owners: make([]int, slots), doubleSince: make([]Time, slots), orphanSince: make([]Time, slots),
	}
}

// forgetPast starts the measurements anew.
func (b *books) forgetPast() { b.worstDouble, b.worstOrphan, b.worstGap = 0, 0, 0 }

// set changes what one kernel accepts and keeps the books of invariants 1 and 3.
func (w *world) set(n *simNode, slot Slot, state State) {
	if n.states[slot] == state {
		return
	}
	w.judgeLoss(n, slot, state)
	w.unlistAll(n, slot)
	n.states[slot] = state
	w.judgeResets(slot)
	accept := state.AcceptsNew()
	if n.kernel.Has(slot) == accept {
		return
	}
	if accept {
		n.kernel.Add(slot)
		w.takes++
		n.takes++
		if n.leased {
			w.serve(slot)
		}
		return
	}
	n.kernel.Remove(slot)
	if n.leased {
		w.unserve(n, slot)
	}
}

// serve notes that the node takes new flows of a slot, and has its lease.
func (w *world) serve(slot Slot) {
	w.owners[slot]++
	w.endGap(slot)
	if w.owners[slot] == 2 {
		w.doubleSince[slot] = w.now
	}
	if w.owners[slot] > 1 {
		w.judgeDouble(slot)
	}
}

// unserve notes the end of that.
func (w *world) unserve(n *simNode, slot Slot) {
	w.owners[slot]--
	switch w.owners[slot] {
	case 0:
		w.orphanSince[slot] = w.now
	case 1:
		double := w.now - w.doubleSince[slot]
		w.worstDouble = max(w.worstDouble, double)
		if w.doubleLimit > 0 && double > w.doubleLimit {
			w.fault("invariant 1: slot %d had two owners for %v", slot, double)
		}
		w.doubleSince[slot] = 0
	}
}

// endGap notes how long a slot was without an owner.
func (w *world) endGap(slot Slot) {
	since := w.orphanSince[slot]
	w.orphanSince[slot] = 0
	if since == 0 {
		return
	}
	gap := w.now - since
	w.worstOrphan = max(w.worstOrphan, gap)
	served := w.servedSince[slot/w.buckets]
	if served == 0 || served > since {
		return
	}
	w.worstGap = max(w.worstGap, gap)
	if w.gapLimit > 0 && gap > w.gapLimit {
		w.fault("invariant 3: slot %d had no owner for %v, though there was a node that could serve", slot, gap)
	}
}

// noteServers keeps servedSince. A node counts once it has been active and fit
// for a second, by which time the others know.
func (w *world) noteServers() {
	if w.servedSince == nil {
		w.servedSince = make([]Time, w.services)
	}
	for _, n := range w.nodes {
		if n.core == nil || n.core.phase != Active {
			n.steadyAt = 0
		} else if n.steadyAt == 0 {
			n.steadyAt = w.now
		}
	}
	for service := range w.servedSince {
		served := slices.ContainsFunc(w.nodes, func(n *simNode) bool {
			return n.steadyAt > 0 && w.now >= n.steadyAt+time.Second &&
				!n.core.unfit[service] && w.time(n) >= n.core.lastVoluntary+time.Second
		})
		if !served {
			w.servedSince[service] = 0
		} else if w.servedSince[service] == 0 {
			w.servedSince[service] = w.now
		}
	}
}

func (w *world) up() (up []*simNode) {
	for _, n := range w.nodes {
		if n.core != nil {
			up = append(up, n)
		}
	}
	return up
}

// settle checks invariants 2 and 5 after quiet: every bucket has exactly one
// owner, the placement's, and nothing waits.
func (w *world) settle() {
	up := w.up()
	if len(up) == 0 {
		return
	}
	for _, n := range up {
		c := n.core
		w.settleLists(n)
		if c.requesting() || len(c.grants) > 0 || c.open != nil || !c.want.Equal(c.kernel) ||
			!c.lingering.Empty() || !c.kernelLinger.Empty() || !c.kernelAdopt.Empty() ||
			!c.requested.Empty() || !c.promised.Empty() || c.inQuestion() || c.voluntaryDue() {
			w.fault("invariant 5: %s still waits for something: %d requests, %d grants, open %v, %d wanted, %d in the kernel",
				n.name, len(c.requests), len(c.grants), c.open != nil, c.want.Count(), c.kernel.Count())
		}
		for slot, state := range n.states {
			if c.kernelState(slot) != state {
				w.fault("%s believes that slot %d is %s, and it is %s", n.name, slot, c.kernelState(slot), state)
				break
			}
		}
		if c.view.Digest() != up[0].core.view.Digest() || !c.agreed() {
			w.fault("invariant 5: %s and %s have different views after quiet", n.name, up[0].name)
		}
		for _, wish := range c.keptWishes("") {
			node := wish.Node
			if p := c.peers[node]; p != nil && p.alive {
				w.fault("invariant 5: %s still keeps a wish for %s: %+v", n.name, node, wish)
			}
		}
	}
	for slot, count := range w.owners {
		pl := up[0].core.places[slot/w.buckets]
		switch {
		case pl.rank == rankFit:
			owner := pl.table.Owner(slot % w.buckets)
			i := slices.IndexFunc(up, func(n *simNode) bool { return n.name == owner })
			if count != 1 || i < 0 || !up[i].kernel.Has(slot) {
				w.fault("invariant 2: slot %d: %d owners after quiet, it should be %s alone", slot, count, owner)
			}
		case pl.rank == rankUnfit && w.dropUnhealthy, pl.rank == rankNever:
			if count != 0 {
				w.fault("invariant 2: slot %d: %d owners, though nobody should serve it", slot, count)
			}
		case count != 1:
			w.fault("invariant 2: slot %d: %d owners after quiet, nobody is fit and one should keep it", slot, count)
		}
	}
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
