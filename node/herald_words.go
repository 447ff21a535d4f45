package node

import (
	"fmt"
	"slices"
	"strings"
)

// What beacons keep this node from, in words, for the core and for people.

// cutOff follows the wire-proof slowly, so that neither a start nor single losses
// move buckets: it believes the worse after D, the better after Return.
func (h *Herald) cutOff(now Time) bool {
	ok, others := h.live.WireProof(now)
	cut, wait := !ok && others && h.attached > 0, h.detect.D
	if h.heralded.CutOff {
		wait = h.detect.Return
	}
	switch {
	case cut == h.heralded.CutOff:
		h.cutSince = 0
	case h.cutSince == 0:
		h.cutSince = now
	case now-h.cutSince >= wait:
		h.cutSince = 0
		return cut
	}
	return h.heralded.CutOff
}

func names(list []Incarnation) string {
	var all []string
	for _, inc := range list {
		all = append(all, inc.Name)
	}
	return strings.Join(slices.Compact(all), ", ")
}

// unknown says who hears somebody serve whom this node has never heard of; "": nobody.
func (h *Herald) unknown(now Time) string {
	if by := h.live.hearOthers(now); len(by) > 0 {
		return fmt.Sprintf("%s hears the beacons of a node that this one hears nothing of, by beacons or gossip: open cluster.port and cluster.beacon_port on the way to it", names(by))
	}
	return ""
}

// apart says who is too many steps away for this node to hold it alive; "": nobody is.
func (h *Herald) apart(now Time) string {
	list := h.live.apart(now)
	if len(list) == 0 {
		return ""
	}
	var far, by []Incarnation
	for _, n := range list {
		far, by = append(far, n.Incarnation), append(by, n.voucher)
	}
	return fmt.Sprintf("%s and this node (%s) are more than one step apart: %s hears somebody who hears %s, and this node hears nobody who does; so it takes no bucket that the others do not see as nobody's; let their beacons pass (UDP to cluster.beacon_port)",
		names(far), h.self.Name, names(by), names(far))
}

// barred says why this node must not begin to serve, by what beacons say; "": it may.
func (h *Herald) barred(now Time) string {
	if by := h.live.Denied(now); len(by) > 0 {
		return fmt.Sprintf("%s holds this node dead, or another by its name alive: does it hear this node (UDP to cluster.beacon_port), and is the name given once?", names(by))
	}
	if back := h.live.Returning(now); len(back) > 0 {
		return fmt.Sprintf("%s is coming back from the dead", names(back))
	}
	if by := h.live.doubters(now); len(by) > 0 {
		return fmt.Sprintf("%s still holds this node dead: does it hear this node (UDP to cluster.beacon_port)?", names(by))
	}
	if by := h.live.doubting(now); len(by) > 0 {
		return fmt.Sprintf("somebody whom %s hears holds this node dead: does it hear this node (UDP to cluster.beacon_port)?", names(by))
	}
	if !h.live.MayArm(now) {
		return "not everybody who speaks has heard this node yet (UDP to cluster.beacon_port)"
	}
	return ""
}

// HeraldStatus is what the herald knows, for people.
type HeraldStatus struct {
	// Lease: held; or wanted, and this node is silent until its peers have heard it;
	// or not wanted.
	Held, Wanted bool
	Lapses       Lapses
	// CutOff: for D at least, which a start or a single loss is not worth telling.
	CutOff bool
	// WireProof and OthersProof: see Liveness.WireProof.
	WireProof, OthersProof bool
	Barred                 string
	Muted                  bool
	Format                 uint8  // of this node's beacons
	FormatFor              string // who keeps it from a later one; "": nobody
	Neighbours             []NeighbourStatus
}

// Status returns what is known now.
func (h *Herald) Status(now Time) HeraldStatus {
	now = h.at(now)
	h.lapse(now)
	s := HeraldStatus{
		Held: h.leaseUntil > 0, Wanted: h.word.Lease, Lapses: h.lapses, CutOff: h.heralded.CutOff && now-h.cutAt >= h.detect.D,
		Barred: h.heralded.Barred, Muted: h.mute(), Neighbours: h.live.Status(now),
	}
	s.WireProof, s.OthersProof = h.live.WireProof(now)
	s.Format, s.FormatFor = h.Format()
	return s
}
