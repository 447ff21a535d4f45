package agent

import (
	"errors"
	"fmt"
	"iter"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
)

const protocolTCP = 6 // IANA

// flowLister lists the flows to the VIPs that this node's kernel tracks.
type flowLister func() iter.Seq2[nft.Flow, error]

// countFlows counts by service: of TCP the connections that are open. All traffic
// belongs to the one service there is.
func (a *agent) countFlows() ([]int, error) {
	counts := make([]int, len(a.cfg.Spec.Services))
	for f, err := range a.flows() {
		if err != nil {
			return make([]int, len(counts)), err
		}
		if f.Protocol != protocolTCP || f.Established {
			counts[len(counts)-1]++
		}
	}
	return counts, nil
}

// cutFlows ends the open TCP connections of the slots whose sockets are on this
// host: both ends get a reset, and need not wait for an answer that never comes.
func (a *agent) cutFlows(slots hashring.Set) error {
	var failed []error
	for f, err := range a.flows() {
		if err != nil {
			return err
		}
		if f.Protocol != protocolTCP || !f.Established || !slots.Has(a.layout.Bucket(f.Client.Addr())) {
			continue
		}
		err := netlink.SocketDestroy(net.TCPAddrFromAddrPort(f.VIP), net.TCPAddrFromAddrPort(f.Client))
		if err != nil && !errors.Is(err, unix.ENOENT) { // it has just ended, or lives elsewhere
			failed = append(failed, fmt.Errorf("ending the connection of %s to %s: %w", f.Client, f.VIP, err))
		}
	}
	return errors.Join(failed...)
}

// liveSlots returns those of the slots that have an open TCP connection: the
// flows that stay where they are when their bucket moves.
func (a *agent) liveSlots(slots hashring.Set) (hashring.Set, error) {
	live := hashring.NewSet(slots.Cap())
	for f, err := range a.flows() {
		if err != nil {
			return live, err
		}
		if slot := a.layout.Bucket(f.Client.Addr()); f.Protocol == protocolTCP && f.Established && slots.Has(slot) {
			live.Add(slot)
		}
	}
	return live, nil
}
