package nft

import (
	"github.com/peervip/peervip/hashring"
)

// ListFlows returns the live flows of the slots that only lists can tell apart
// (Transaction.List), in the network namespace of the calling thread: those of the
// protocols, which the kernel picks, one walk through its table for each. It returns
// at most so many, and how many more there are. A slot is as for NewWatch.
func ListFlows(s Spec, protocols []uint8, slots hashring.Set, most int) (bySlot map[int][]Flow, beyond int, err error) {
	bySlot, seen := map[int][]Flow{}, map[listed]bool{}
	for _, protocol := range protocols {
		for f, err := range flowsOf(s.VIPs, protocol) {
			if err != nil {
				return nil, 0, err
			}
			of := s.slotOf(f)
			slot := of.service*s.Layout.Buckets + of.bucket
			as, ok := s.listing(f)
			if !ok || slot >= slots.Cap() || !slots.Has(slot) || seen[as] {
				continue
			}
			if len(seen) >= most {
				beyond++
				continue
			}
			seen[as] = true
			bySlot[slot] = append(bySlot[slot], f)
		}
	}
	return bySlot, beyond, nil
}

// Listable says whether flows of the protocol can only be told apart by lists.
func Listable(protocol uint8) bool {
	_, _, ok := listedAs(Flow{Protocol: protocol})
	return ok
}
