package agent

import (
	"maps"
	"slices"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
)

const protocolUDP = 17 // IANA

// flowPicker lists the flows of the slots that only lists can tell apart, as
// nft.ListFlows does.
type flowPicker func(protocols []uint8, slots hashring.Set, most int) (map[int][]nft.Flow, int, error)

// listFlows answers the core. New flows wait for it, so it looks for UDP, and for
// those protocols only that were seen when flows were last counted: a walk through
// the kernel's table for each.
func (a *agent) listFlows(e node.ListFlows) node.FlowsListed {
	protocols := []uint8{protocolUDP}
	if seen := a.listable.Load(); seen != nil {
		protocols = *seen
	}
	bySlot, beyond, err := a.pick(protocols, e.Slots, e.Most)
	answer := node.FlowsListed{Beyond: beyond, Err: err}
	for _, slot := range slices.Sorted(maps.Keys(bySlot)) {
		flows := make(node.FlowList, len(bySlot[slot]))
		for i, f := range bySlot[slot] {
			flows[i] = node.Flow{Protocol: f.Protocol, Client: f.Client, VIP: f.VIP}
		}
		answer.Slots = append(answer.Slots, node.SlotFlows{Slot: slot, Flows: flows})
	}
	return answer
}

// filterFlows are the flows as the packet filter has them.
func filterFlows(flows []node.Flow) []nft.Flow {
	list := make([]nft.Flow, len(flows))
	for i, f := range flows {
		list[i] = nft.Flow{Protocol: f.Protocol, Client: f.Client, VIP: f.VIP}
	}
	return list
}
