package agent

import (
	"fmt"
	"strings"

	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// hostCounts are counts of what the host's own rules do to the VIPs' traffic.
type hostCounts struct {
	untracked, redirected, other trend
	ways                         []nft.Way // as of the last count
}

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
	if c := m.counters; c != nil {
		h.other.grew(c.OtherWays.Packets, now)
		h.ways = c.Ways
	}
	if h.other.recent(now, lately) && len(h.ways) > 0 {
		var who []string
		for _, w := range h.ways[:min(len(h.ways), 4)] {
			who = append(who, fmt.Sprintf("%s by %s", w.From, w.Interface))
		}
		if more := len(h.ways) - len(who); more > 0 {
			who = append(who, fmt.Sprintf("%d more", more))
		}
		list.add("clients come to the VIP past the buckets, by another interface than %s: %s: this node alone serves them, while it serves, and nobody takes them over: route the VIP to a host on its own segment that is no node", l.cfg.Interface, strings.Join(who, ", "))
	}
	if n := &h.untracked; n.recent(now, lately) {
		list.add("conntrack does not see the connections of the VIP, as of %s so far (a notrack rule?): moves break them: take the rule away, or set linger: none", node.Count(n.last, "packets"))
	}
	if n := &h.redirected; n.recent(now, lately) {
		list.add("%s for the VIP redirected (destination NAT) on the way across a bridge, before anybody could ask which node has to answer, and dropped: sysctl net.bridge.bridge-nf-call-iptables=0", node.Count(n.last, "packets"))
	}
}

// onHost adds to the spec of the packet filter what depends on this host.
func onHost(spec nft.Spec, wire *link.Link) nft.Spec {
	spec.ARP, spec.Bridge = wire.ARPFiltered(), wire.OnBridge()
	spec.Reassembles, spec.NoRoutes = nft.Reassembles(), !nft.SeesRoutes()
	return spec
}
