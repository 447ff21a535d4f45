package nft

// A bridge of this host may carry frames for a VIP that are none of this node's: of
// guests behind it, or on their way to a node among them. Where br_netfilter is on
// (bridge-nf-call-iptables, 1 by default where Docker, Kubernetes or libvirt load it)
// each of them passes the inet hooks, before anybody has asked whom it is for: it comes
// to prerouting by the bridge, with the packet type of its MAC address, except that a
// frame to somebody else's unicast address has the type host (setup_pre_routing and
// br_nf_forward_ip in net/bridge/br_netfilter_hooks.c). What the bridge also passes up
// to this host then meets the bridge's ingress hook, and no second prerouting
// (ip_sabotage_in): input is the next hook that it comes to.
//
// So nothing that comes by a bridge unmarked is decided at prerouting: it passes, and
// what was not marked on its way up ends at input.

// bridged lets frames pass that a bridge may only be forwarding.
func bridged(s Spec) []rule {
	return []rule{{toVIP(s), iifkind(kindBridge), notMarkedHost(), accept()}}
}

// forwardedByBridge lets frames pass that a bridge forwards. What this host routes has
// the packet type host (ip_forward in net/ipv4/ip_forward.c), and when the VIP has gone
// from here it comes from the cluster MAC. A cluster MAC that is not multicast shows no
// difference between the two.
func forwardedByBridge(s Spec) []rule {
	between := rule{toVIP(s), iifkind(kindBridge), oifkind(kindBridge)}
	if s.ClusterMAC[0]&1 == 0 {
		return []rule{append(between, accept())}
	}
	return []rule{
		append(between[:3:3], notMarkedHost(), accept()),
		append(between[:3:3], etherDst(isNot, s.ClusterMAC), accept()),
	}
}

// redirectedOnBridge drops what destination NAT has made of a frame on the bridge that is
// the node's interface: it is then sent to the bridge's own MAC address, past the buckets
// (br_nf_pre_routing_finish). Nobody has asked whether it is this node's, and every node
// would answer it. What a container of this host sends to its gateway, which is another
// bridge, looks the same by then, and is this host's own: it passes. Where no
// flows linger and the VIPs are not on a bridge the rule is left out, as it would have
// the host track connections.
func redirectedOnBridge(s Spec) []rule {
	if !s.linger() && !s.Bridge {
		return nil
	}
	var rules []rule
	for _, vip := range s.VIPs {
		rules = append(rules, rule{
			iifname(is, s.Interface), iifkind(kindBridge), etherDst(isNot, s.ClusterMAC), ctOriginalTo(vip), notTo(vip), count(counterRedirected), drop(),
		})
	}
	return rules
}

const (
	kindBridge = "bridge"

	counterRedirected = "redirected_dropped"
)
