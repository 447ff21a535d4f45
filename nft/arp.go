package nft

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// The kernel must not answer ARP for a VIP, or its clients would go to one node alone.
// The sysctl arp_ignore would keep it from that, and from answering for every other
// address of lo too, on links that have nothing to do with the VIPs. So these are
// dropped before the kernel's ARP, of the VIPs alone: by an owner table, which no `nft
// flush ruleset` removes, and by one that stays when the agent dies. The agent hears
// them all the same: packet sockets come first. Where both are gone, package link's
// sysctls still hold on the VIPs' own segment.
func arpTable(s Spec, name string, owned bool) table {
	var rules []rule
	for _, vip := range s.VIPs {
		rules = append(rules, rule{arpFor(vip), drop()})
	}
	return table{family: arp, name: name, owned: owned,
		chains: []chain{{"input", &hook{point: input}, rules}},
	}
}

// arpHook are the hooks of ARP, which have numbers of their own
// (include/uapi/linux/netfilter_arp.h).
var arpHook = map[hookPoint]nftables.ChainHook{input: 0}

// arpTargetOffset is where an ARP packet of Ethernet and IPv4 has the address that is
// asked for (RFC 826).
const arpTargetOffset = 24

// arpFor matches an ARP packet about the address.
func arpFor(addr netip.Addr) term {
	return term{fmt.Sprintf("arp daddr ip %s", addr), nil, []expr.Any{
		loadNetwork(1, arpTargetOffset, 4),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr.AsSlice()},
	}}
}

// GuardsARP says whether the kernel of the calling thread's network namespace can do
// what Spec.ARP asks for. Not every kernel is built with it (CONFIG_NF_TABLES_ARP).
func GuardsARP() bool {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return false
	}
	probe := arpTable(Spec{VIPs: []netip.Addr{netip.IPv4Unspecified()}}, "peervip_probe", true)
	err = feature{family: arp, owned: true, use: probeChain(probe.chains[0])}.probe(conn)
	return errors.Join(err, conn.CloseLasting()) == nil
}
