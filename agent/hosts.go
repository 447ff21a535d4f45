package agent

import (
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node/link"
)

// hostCounts are counts of what the host's own rules do to the VIPs' traffic.
type hostCounts struct{ untracked, redirected trend }

// hostProblems says what settings and rules of the host stand in the way of the VIPs.
func (l *loop) hostProblems(m measures, list *problemList) {
	for _, fault := range m.faults {
		list.add("%s", fault)
	}
	h, now := &l.news.host, l.now()
	if c := m.counters; c != nil {
		h.untracked.grew(c.Untracked.Packets, now)
		h.redirected.grew(c.GuardRedirected.Packets, now)
	}
	if n := &h.untracked; n.recent(now, lately) {
		list.add("conntrack does not see the connections of the VIP, as of %d packets so far (a notrack rule?): moves break them: take the rule away, or set linger: none", n.last)
	}
	if n := &h.redirected; n.recent(now, lately) {
		list.add("%d packets for the VIP were redirected (destination NAT) as they crossed a bridge, before anybody could ask which node they are for, and were dropped: sysctl net.bridge.bridge-nf-call-iptables=0", n.last)
	}
}

// onHost adds to the spec of the packet filter what depends on this host.
func onHost(spec nft.Spec, wire *link.Link) nft.Spec {
	spec.ARP, spec.Bridge, spec.Reassembles = wire.ARPFiltered(), wire.OnBridge(), nft.Reassembles()
	return spec
}
