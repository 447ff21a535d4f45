package nft

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/hashring"
)

// witnesses is how many live flows a Watch remembers of a slot.
const witnesses = 8

// Watch finds out, again and again, which slots still have a live flow, without
// listing them all each time: it remembers some live flows of each slot, and a
// slot is alive as long as conntrack knows one of them as such. Only when the last
// one is gone are the flows listed again. It is for one goroutine.
//
// With 100000 flows to the VIPs a list costs some 350 ms, and to ask for one
// remembered flow of each of 341 slots 4 ms, and as much for its socket (see LiveFlows).
type Watch struct {
	spec  Spec
	known map[int][]Flow // by slot: live when last seen
	lists int            // that were needed
}

// NewWatch returns a watch over the flows that linger by the spec. A slot is a
// service's index, times the number of buckets, plus the bucket.
func NewWatch(s Spec) *Watch { return &Watch{spec: s, known: map[int][]Flow{}} }

// Live returns those of the slots that have a live flow which lingers, in the
// network namespace of the calling thread. In slots that are not listed the rules drop
// datagrams, so a flow of these lingers in the others only: a server that goes on
// sending would keep it for ever. What was remembered of other slots is forgotten.
func (w *Watch) Live(slots, listed hashring.Set) (hashring.Set, error) {
	live := hashring.NewSet(slots.Cap())
	if err := w.recall(slots, listed, live); err != nil {
		return live, fmt.Errorf("asking for tracked flows: %w", err)
	}
	if live.Equal(slots) {
		return live, nil
	}
	w.lists++
	for _, protocol := range w.protocols() {
		for f, err := range liveFlowsOf(w.spec.VIPs, protocol) {
			if err != nil {
				return live, err
			}
			slot, lingers := w.spec.Lingers(f, listed)
			if !lingers || slot >= slots.Cap() || !slots.Has(slot) {
				continue
			}
			if live.Add(slot); len(w.known[slot]) < witnesses {
				w.known[slot] = append(w.known[slot], f)
			}
		}
	}
	return live, nil
}

// recall adds the slots to live of which a remembered flow lives.
func (w *Watch) recall(slots, listed, live hashring.Set) error {
	if len(w.known) == 0 {
		return nil
	}
	socket, err := openNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer socket.close()
	sockets, errSockets := openNetlink(unix.NETLINK_SOCK_DIAG)
	if errSockets == nil {
		defer sockets.close()
	}
	for slot, flows := range w.known {
		flows = slices.DeleteFunc(flows, func(f Flow) bool {
			_, lingers := w.spec.Lingers(f, listed)
			return !lingers
		})
		for len(flows) > 0 && slot < slots.Cap() && slots.Has(slot) {
			alive, err := socket.isLive(flows[0])
			if err == nil && alive && flows[0].Local && errSockets == nil {
				// One that cannot be asked for is found, or not, in the next list.
				dead, errDead := sockets.dead(flows[0])
				alive = !dead && errDead == nil
			}
			if err != nil {
				return err
			}
			if alive {
				live.Add(slot)
				break
			}
			flows = flows[1:]
		}
		if w.known[slot] = flows; slot >= slots.Cap() || !live.Has(slot) {
			delete(w.known, slot)
		}
	}
	return nil
}

// isLive asks conntrack for the flow.
func (s *netlinkSocket) isLive(f Flow) (bool, error) {
	live := false
	err := s.ask(f.naming(ctRequest(ctGet, unix.NLM_F_ACK)), func(msg []byte) (bool, error) {
		now, err := parseFlow(msg)
		live = now.Live
		return true, err
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return live, err
}

// protocols are those of which flows linger.
func (w *Watch) protocols() []uint8 {
	switch {
	case w.spec.lists():
		return []uint8{anyProtocol}
	case w.spec.linger():
		return []uint8{unix.IPPROTO_TCP, unix.IPPROTO_SCTP}
	}
	return nil
}

// Lingers returns the slot that the flow keeps alive, if it does. A slot is numbered as
// in Watch; what is listed, as in Live.
func (s Spec) Lingers(f Flow, listed hashring.Set) (slot int, lingers bool) {
	of := s.slotOf(f)
	slot = of.service*s.Layout.Buckets + of.bucket
	connected := f.Protocol == unix.IPPROTO_TCP || f.Protocol == unix.IPPROTO_SCTP
	switch s.Services[of.service].Linger {
	case LingerTCP:
		lingers = connected
	case LingerAll:
		lingers = connected || f.Protocol != unix.IPPROTO_ICMP && slot < listed.Cap() && listed.Has(slot)
	}
	return slot, lingers && f.Live
}
