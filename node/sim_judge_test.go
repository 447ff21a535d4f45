package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// judge is what the simulator knows of who hears whom, to judge by while faults last.
// Two nodes are split if no beacon of one reaches the other, on any medium, not even
// through one third node that hears it. Only then may both own a bucket.
type judge struct {
	watching bool
	// splitAt is when two nodes, by index, were last seen split; 0: never.
	splitAt map[[2]int]Time
	// healWithin is how long two owners may remain after their split has ended.
	healWithin  Time
	doubled     map[Slot]bool // of which a fault was reported already
	silent      map[*simFlow]Time
	silentOver  Time          // flows of nodes that could serve them, silent for longer, are faults; 0: not judged
	ableSince   [][]Time      // by service and node, since when nothing keeps the node from serving; 0: something does
	unownedOver Time          // slots without an owner for longer, though one node could serve all the time, are faults; 0: not judged
	missed      map[Slot]bool // of which a fault was reported already
	had         []servedBy    // by slot: who served it when the fault that lasts began; nil: not noted
	told        [2]int        // of which owners the last fault is
	toldAt      Time
}

// How long nobody may answer for a flow whose node could all the time, and for a bucket that
// some node could take all the time. In random runs faults overlap, and the next begins before
// the last has been dealt with: one fault alone is for TestFaultsThatLast.
const (
	longestSilence = Time(5 * time.Second)
	longestGap     = Time(8 * time.Second)
)

// judgeAll makes faults of everything that faults which last must not bring about.
func (w *world) judgeAll() {
	w.strict, w.silentOver, w.unownedOver = true, longestSilence, longestGap
	w.watch()
}

// watch begins to look at who hears whom, each interval.
func (w *world) watch() {
	if w.watching {
		return
	}
	w.watching, w.splitAt, w.doubled, w.silent, w.missed = true, map[[2]int]Time{}, map[Slot]bool{}, map[*simFlow]Time{}, map[Slot]bool{}
	if w.healWithin == 0 { // an interval until it is noted, one until a beacon comes
		w.healWithin = 2*w.timing.Interval + calmDelay + calmCommit
		if w.net.loss > 0 {
			w.healWithin = w.timing.D + 250*ms
		}
	}
	var look func()
	look = func() {
		w.noteSplits()
		w.judgeDoubles()
		w.judgeSilence()
		w.judgeGaps()
		w.at(w.timing.Interval, look)
	}
	look()
}

// idle reports whether the node's process does nothing at the moment, or reads nothing.
func (w *world) idle(n *simNode) bool {
	return n.core == nil || w.now < n.stalled || n.blocked || w.now < n.starved
}

// hears says whether beacons of one node reach another now. Who has no wire sends none.
func (w *world) hears(n, from *simNode) bool {
	link := [2]int{from.index, n.index}
	return n.core != nil && from.core != nil && from.core.wire.OK && n.accepts(from) && !w.cut[link] && (w.hearsOnWire(n, from) || !w.unicastCut[link])
}

// hearsOnWire says so of the wire.
func (w *world) hearsOnWire(n, from *simNode) bool {
	link := [2]int{from.index, n.index}
	return n.core != nil && from.core != nil && from.core.wire.OK && n.accepts(from) && !w.cut[link] && !w.wireCut[link] && !n.deaf
}

// believes says whether the beacons of that node mean something to this one. Of a node that
// has never heard this one since it was started they may be recordings.
func (n *simNode) believes(from *simNode) bool {
	if n.core == nil || from.core == nil {
		return false
	}
	of := n.herald.live.find(from.core.cfg.Incarnation)
	return of != nil && of.met
}

// split says whether two nodes know nothing of each other now.
func (w *world) split(a, b *simNode) bool {
	if w.hears(a, b) && a.believes(b) || w.hears(b, a) && b.believes(a) {
		return false
	}
	return !slices.ContainsFunc(w.nodes, func(c *simNode) bool {
		return c != a && c != b && !w.idle(c) && (w.hears(c, a) && w.hears(b, c) && b.believes(c) || w.hears(c, b) && w.hears(a, c) && a.believes(c))
	})
}

// noteSplits keeps splitAt.
func (w *world) noteSplits() {
	whole := func(n *simNode) bool {
		return n.keys == nil && n.format == 0 && !n.deaf && (n.core == nil || n.core.wire.OK)
	}
	if len(w.cut)+len(w.wireCut)+len(w.unicastCut) == 0 && !slices.ContainsFunc(w.nodes, func(n *simNode) bool { return !whole(n) }) {
		return
	}
	for i, a := range w.nodes {
		for _, b := range w.nodes[:i] {
			if a.core != nil && b.core != nil && w.split(a, b) {
				w.splitAt[[2]int{b.index, a.index}] = w.now
			}
		}
	}
}

// maySplit says whether two nodes may own a bucket both, since they are split, or were
// until just now.
func (w *world) maySplit(a, b *simNode) bool {
	if a.index > b.index {
		a, b = b, a
	}
	within := w.healWithin
	if !w.hears(a, b) || !w.hears(b, a) || w.idle(a) || w.idle(b) {
		within += w.timing.D // who is not heard, or does not read, must have time to lose its lease
	}
	since := w.splitAt[[2]int{a.index, b.index}]
	return since > 0 && w.now <= since+within || w.split(a, b)
}

// ownersOf are the nodes that take new flows of the slot.
func (w *world) ownersOf(slot Slot) (list []*simNode) {
	for _, n := range w.nodes {
		if n.leased && n.kernel.Has(slot) {
			list = append(list, n)
		}
	}
	return list
}

// unexcused returns two of those that serve the same, and are not split.
func (w *world) unexcused(list []*simNode) (a, b *simNode) {
	for i, b := range list {
		for _, a := range list[:i] {
			if !w.maySplit(a, b) {
				return a, b
			}
		}
	}
	return nil, nil
}

// judgeDouble is invariant 1 for one slot: two owners only where they are split.
func (w *world) judgeDouble(slot Slot) {
	if !w.strict || w.doubled[slot] {
		return
	}
	if a, b := w.unexcused(w.ownersOf(slot)); a != nil {
		if w.watching {
			w.doubled[slot] = true
		}
		if pair := [2]int{a.index, b.index}; w.now > w.toldAt || pair != w.told { // once for all slots
			w.toldAt, w.told = w.now, pair
		} else {
			return
		}
		w.fault("invariant 1: slot %d has two owners, %s and %s, which are not split", slot, a.name, b.name)
	}
}

func (w *world) judgeDoubles() {
	for slot, owners := range w.owners {
		if owners > 1 {
			w.judgeDouble(slot)
		} else {
			delete(w.doubled, slot)
		}
	}
}

// onTheWire says whether clients reach the node, as far as beacons tell: it hears a
// peer on the wire, and is heard by one, or nobody is.
func (w *world) onTheWire(n *simNode) bool {
	proven := func(n *simNode) bool {
		return slices.ContainsFunc(w.nodes, func(p *simNode) bool { return p != n && w.hearsOnWire(n, p) }) &&
			slices.ContainsFunc(w.nodes, func(p *simNode) bool { return p != n && w.hearsOnWire(p, n) })
	}
	return n.core != nil && (proven(n) || !slices.ContainsFunc(w.nodes, proven))
}

// able says whether nothing keeps the node from serving.
func (w *world) able(n *simNode) bool {
	return w.onTheWire(n) && !w.idle(n) && !n.lame()
}

// lame says whether its kernel does not do what it is told to.
func (n *simNode) lame() bool { return n.refuses || n.unarmable }

// canServe says whether some node can take the slots of a service.
func (w *world) canServe(service int) bool {
	return slices.ContainsFunc(w.nodes, func(n *simNode) bool {
		return w.able(n) && n.fit[service] && n.core.phase == Active
	})
}

// noteOwners keeps had.
func (w *world) noteOwners() {
	w.had = make([]servedBy, len(w.owners))
	for slot := range w.owners {
		if owners := w.ownersOf(slot); len(owners) == 1 {
			w.had[slot] = servedBy{owners[0], owners[0].boot}
		}
	}
}

// servedBy is a node in one of its lives.
type servedBy struct {
	n    *simNode
	boot uint64
}

// stillServes says whether the node, which had the slot, can go on to serve it, though its
// kernel may take no commits.
func (w *world) stillServes(had servedBy, service int) bool {
	n := had.n
	return n != nil && n.boot == had.boot && w.onTheWire(n) && !w.idle(n) && !n.unarmable && n.fit[service] && n.core.phase == Active
}

// unserved is invariant 6: the slots that clients get no answer for, though some node can
// serve them. Where none can, as when all kernels refuse, nothing must move.
func (w *world) unserved() (list []Slot) {
	for service := range w.services {
		can := w.canServe(service)
		for slot := service * w.buckets; slot < (service+1)*w.buckets; slot++ {
			if !can && (w.had == nil || !w.stillServes(w.had[slot], service)) {
				continue
			}
			if !slices.ContainsFunc(w.ownersOf(slot), w.onTheWire) {
				list = append(list, slot)
			}
		}
	}
	return list
}

// judgeSilence makes it a fault if clients of a node that is able get no answer for long.
func (w *world) judgeSilence() {
	if w.silentOver == 0 {
		return
	}
	for slot, flows := range w.flows {
		for _, f := range flows {
			if f.home.leased && f.home.states[slot] != None || !w.able(f.home) {
				delete(w.silent, f)
				continue
			}
			since, ok := w.silent[f]
			if !ok {
				w.silent[f] = w.now
			} else if since > 0 && w.now-since > w.silentOver {
				w.silent[f] = 0
				w.fault("a flow of %s in slot %d gets no answer for %v", f.home.name, slot, w.now-since)
			}
		}
	}
}

// noteAble keeps ableSince.
func (w *world) noteAble() {
	for service := range w.services {
		if len(w.ableSince) <= service {
			w.ableSince = append(w.ableSince, make([]Time, len(w.nodes)))
		}
		for i, n := range w.nodes {
			since := &w.ableSince[service][i]
			if !w.able(n) || n.core.phase != Active || !n.fit[service] || n.core.unfit[service] {
				*since = 0
			} else if *since == 0 {
				*since = w.now
			}
		}
	}
}

// judgeGaps makes it a fault if nobody serves a slot for long, though some node could.
func (w *world) judgeGaps() {
	if w.unownedOver == 0 {
		return
	}
	w.noteAble()
	news := 0
	var text string
	for slot, owners := range w.owners {
		if owners > 0 {
			delete(w.missed, slot)
			continue
		}
		for i, since := range w.ableSince[slot/w.buckets] {
			gap := w.now - max(since, w.orphanSince[slot])
			if since > 0 && gap > w.unownedOver && !w.missed[slot] {
				w.missed[slot] = true
				news++
				text = fmt.Sprintf("slot %d for %v, and all the time %s could", slot, gap, w.nodes[i].name)
			}
		}
	}
	if news > 0 {
		w.fault("invariant 6: nobody serves %d slots: %s; %s", news, text, w.standings())
	}
}

// standings is a line about all nodes.
func (w *world) standings() string {
	var list []string
	for _, n := range w.nodes {
		if n.core == nil {
			list = append(list, n.name+" down")
			continue
		}
		lease := ""
		if !n.leased {
			lease = " without lease"
		}
		list = append(list, fmt.Sprintf("%s %s has %d%s", n.name, n.core.phase, n.owns(), lease))
	}
	return strings.Join(list, ", ")
}

// awaitServed lets time pass and returns what is wrong with the slots' owners: those that
// nobody serves for longer than patience, at one moment or later; "": nothing.
func (w *world) awaitServed(from, until, patience Time) string {
	began := w.now
	since := map[Slot]Time{}
	w.run(from - patience)
	for w.now < began+until {
		w.run(w.timing.D / 4)
		unserved := w.unserved()
		maps.DeleteFunc(since, func(slot Slot, _ Time) bool { return !slices.Contains(unserved, slot) })
		for _, slot := range unserved {
			if since[slot] == 0 {
				since[slot] = w.now
			}
		}
		for _, slot := range unserved {
			if w.now-since[slot] > patience {
				return fmt.Sprintf("%d buckets are served by nobody, bucket %d for over %v; %s", len(unserved), slot, patience, w.standings())
			}
		}
	}
	return ""
}
