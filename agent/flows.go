package agent

import (
	"iter"
	"slices"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
)

const protocolTCP = 6 // IANA

// flowLister lists the flows to the VIPs that this node's kernel tracks.
type flowLister func() iter.Seq2[nft.Flow, error]

// countFlows counts by service: of TCP the connections that are open. All traffic
// belongs to the one service there is. Waiting are the flows that linger in these slots,
// of which those that are listed keep datagram flows too.
func (a *agent) countFlows(slots, listed hashring.Set) (counts []int, waiting int, err error) {
	counts, listable := make([]int, len(a.cfg.Spec.Services)), []uint8{protocolUDP}
	for f, err := range a.flows() {
		if err != nil {
			return make([]int, len(counts)), 0, err
		}
		if slots.Cap() > 0 {
			if slot, lingers := a.lingers(f, listed); lingers && slots.Has(slot) {
				waiting++
			}
		}
		if f.Protocol != protocolTCP || f.Established {
			counts[len(counts)-1]++
		}
		if nft.Listable(f.Protocol) && !slices.Contains(listable, f.Protocol) {
			listable = append(listable, f.Protocol)
		}
	}
	a.listable.Store(&listable)
	return counts, waiting, nil
}

// cutFlows ends the flows of the slots that live here: both ends get a reset, and
// need not wait for an answer that never comes.
func cutFlows(cfg Config, layout hashring.Layout) func(hashring.Set) error {
	return func(slots hashring.Set) error {
		_, err := nft.Destroy(cfg.Spec.VIPs, func(f nft.Flow) bool { return slots.Has(layout.Bucket(f.Client.Addr())) })
		return err
	}
}
