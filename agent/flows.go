package agent

import (
	"iter"

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
