package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"

	"github.com/peervip/peervip/node"
)

// Names and places in the kernel. Administrators see them in `nft list ruleset`.
const (
	tableName = "peervip"
	guardName = "peervip_guard"

	vipSet        = "vips"
	icmpErrorsSet = "icmp_errors"

	counterICMPErrors       = "icmp_errors"
	counterFragments        = "fragments"
	counterFragmentsDropped = "fragments_dropped"
	counterForeignMAC       = "foreign_mac"
	counterUnmarked         = "unmarked_dropped"
	counterForwarded        = "forwarded_dropped"

	// Before other users of the ingress hook, who mostly take 0 or less by hundreds.
	ingressPriority = -500
	// After defragmentation (-400) and before raw (-300), where others may decide.
	reassembledPriority = -350
	// Where untracking and the guard belong: before conntrack (-200).
	rawPriority = -300

	// Every node reassembles every fragment, so they are rationed: some 240 Mbit/s.
	fragmentRate  = 20000 // packets a second
	fragmentBurst = 4096
)

// Compile makes the rules. An error names the field of the spec that is wrong.
func Compile(s Spec) (Ruleset, error) {
	if err := s.check(); err != nil {
		return Ruleset{}, fmt.Errorf("making packet filter rules: %w", err)
	}
	s.VIPs, s.Services, s.ClusterMAC = slices.Clone(s.VIPs), slices.Clone(s.Services), slices.Clone(s.ClusterMAC)
	// The ingress chain is made first: at the owner's death the kernel removes
	// hooks in that order, and what ingress no longer marks the guard drops.
	tables := []table{ingressTable(s), stackTable(s), guardTable(s)}
	if s.ARP {
		tables = []table{tables[0], tables[1], arpTable(s, tableName, true), arpTable(s, guardName, false), tables[2]}
	}
	return Ruleset{s, tables}, nil
}

// ingressTable decides, before conntrack and routing, about every frame that
// came to the cluster MAC for a VIP. Everything else passes untouched: ARP, and
// the other multicast groups that share the MAC.
func ingressTable(s Spec) table {
	t := table{family: netdev, name: tableName, owned: true,
		counters: []string{counterICMPErrors, counterFragments, counterFragmentsDropped},
		sets:     append(vips(s), icmpErrors()),
		chains: []chain{
			{"ingress", &hook{ingress, ingressPriority, s.Interface}, []rule{
				{etherDst(is, s.ClusterMAC), toVIP(s), gotoChain("vip")},
			}},
			{"vip", nil, slices.Concat([]rule{
				{isFragment(), gotoChain("fragments")},
			}, toBeacons(s), classify(s))},
			// A fragment has no ports, so it cannot be dispatched here: it passes
			// unmarked, and the stack's table decides when it is whole, which it knows by
			// the tag of the first fragment. A cluster MAC
			// that is not multicast would have the stack throw it away before that.
			{"fragments", nil, slices.Concat(withoutLease(s), []rule{
				{upTo(fragmentRate, fragmentBurst), count(counterFragments), setTag(fragmentTag), setPktType("multicast"), accept()},
				{count(counterFragmentsDropped), drop()},
			})},
		},
	}
	t = withServices(t, s)
	t = withBeacons(t, s)
	return withLease(t, s)
}

// stackTable decides about reassembled fragments, as ingressTable does about
// whole packets, and about packets that ingress has left to conntrack's word.
func stackTable(s Spec) table {
	t := table{family: inet, name: tableName, owned: true,
		counters: []string{counterICMPErrors, counterForeignMAC},
		sets:     append(vips(s), icmpErrors()),
		chains: []chain{
			{"prerouting", &hook{point: prerouting, priority: reassembledPriority}, slices.Concat([]rule{
				{toVIP(s), iifname(is, s.Interface), gotoChain("arrived")},
			}, toOwnPorts(s), untracked(s))},
			{"output", &hook{point: output, priority: rawPriority}, untracked(s)},
			{"arrived", nil, slices.Concat([]rule{
				{taggedAs(fragmentTag), setTag(0), gotoChain("vip")},
			}, bridged(s), toBeacons(s), []rule{
				// A client that still has a NIC's own MAC for the VIP sends to that node
				// alone. It is served, since nobody else sees its packets, and counted,
				// since it bypasses the buckets: an operator should know.
				{etherDst(isNot, s.ClusterMAC), markedHost(), count(counterForeignMAC), accept()},
				// What came to broadcast or to another group the guard drops.
			})},
			{"vip", nil, slices.Concat(toBeacons(s), classify(s))},
			reassembly(s),
		},
	}
	t = withArrivedBeacons(t, s)
	t = withOwnPorts(t, s)
	t = withServices(t, s)
	t = withWays(t, s)
	return withTransitions(t, s)
}

// untracked are the rules for the agents' own talk between the nodes' addresses.
func untracked(s Spec) []rule {
	rules := []rule{{udpBetween(s.GossipPort), notrack()}}
	if s.BeaconPort != 0 {
		rules = append(rules, rule{udpBetween(s.BeaconPort), notrack()})
	}
	return rules
}

// guardTable keeps the VIP silent on a node whose other tables are gone, and
// stays when the agent dies. It goes by the VIP and not by the MAC address,
// which ARP and other groups use too.
func guardTable(s Spec) table {
	silence := rule{notMarkedHost(), iifname(isNot, "lo"), toVIP(s), count(counterUnmarked), drop()}
	return table{family: inet, name: guardName,
		counters: []string{counterUnmarked, counterForwarded, counterRedirected},
		sets:     vips(s),
		chains: append([]chain{
			{"prerouting", &hook{point: prerouting, priority: rawPriority}, append(bridged(s), silence)},
			{"input", &hook{point: input, priority: rawPriority}, append(redirectedOnBridge(s), silence)},
			// When the VIP has gone from this node and it routes, it would send each
			// packet back to the wire.
			{"forward", &hook{point: forward, priority: rawPriority}, slices.Concat(redirectedOnBridge(s), forwardedByBridge(s), []rule{
				{toVIP(s), count(counterForwarded), drop()},
			})},
		}, guardTracking(s)...),
	}
}

// tracking is never entered. It is there for its ct rule: conntrack and
// defragmentation run while there is one, and flows that began untracked could
// not linger later. The guard's outlives an agent, the owner table's a flush of
// the guard.
func tracking() chain { return chain{"tracking", nil, []rule{{ctKnown(), accept()}}} }

// classify finds the service of a packet for a VIP, and what becomes of it there.
// ICMP errors are everybody's: they come from routers, whose addresses hash
// anywhere, and only the node that has the flow can use them (RFC 1191). Rules
// that send packets to the chains of other services belong before the default's.
func classify(s Spec) []rule {
	everybodys := rule{icmpTypeIn(icmpErrorsSet), count(counterICMPErrors), setPktType("host"), accept()}
	return append([]rule{everybodys}, decide(s, s.Services[len(s.Services)-1])...)
}

// decide looks up the bucket of a packet of the service: a chain of its state
// takes it, or nobody here does.
func decide(s Spec, service Service) []rule {
	return []rule{
		{bucketVerdict(s, bucketMapName(service))},
		{count(droppedCounter(service)), drop()},
	}
}

// withServices adds what each service has of its own: its map, and for each
// state that takes packets a chain and counters.
func withServices(t table, s Spec) table {
	for i, service := range s.Services {
		m := bucketMap{name: bucketMapName(service), service: i, buckets: s.Layout.Buckets, chains: map[node.State]string{}}
		t.counters = append(t.counters, droppedCounter(service))
		for _, state := range service.states() {
			name := stateChain(service, state) // of the chain, and of its counter
			m.chains[state] = name
			t.counters = append(t.counters, name)
			if refuses(service, state) {
				t.counters = append(t.counters, refusedCounter(service, state))
			}
			rules := stateRules(s, i, state)
			if t.family == netdev {
				rules = underLease(s, rules)
			}
			t.chains = append(t.chains, chain{name, nil, rules})
		}
		t.maps = append(t.maps, m)
	}
	if s.lists() {
		t.sets = append(t.sets, movingAtOnce())
		t.sets = append(t.sets, flowLists()...)
	}
	return t
}

// The prefix keeps the names of two services apart, whatever they are.
func stateChain(s Service, state node.State) string { return state.String() + "_" + s.identifier() }
func bucketMapName(s Service) string                { return "buckets_" + s.identifier() }
func droppedCounter(s Service) string               { return "dropped_" + s.identifier() }

// toVIP matches what is addressed to a VIP. One address is compared, which is
// faster than a look at a set.
func toVIP(s Spec) term {
	if len(s.VIPs) == 1 {
		return ipDst(s.VIPs[0])
	}
	return ipDstIn(vipSet)
}

// fromVIP matches what a VIP sends.
func fromVIP(s Spec) term {
	if len(s.VIPs) == 1 {
		return ipSrc(s.VIPs[0])
	}
	return ipSrcIn(vipSet)
}

// vips is the set that toVIP and fromVIP look at, if they do.
func vips(s Spec) []set {
	if len(s.VIPs) == 1 {
		return nil
	}
	v := set{name: vipSet, typ: nftables.TypeIPAddr}
	for _, vip := range s.VIPs {
		v.elements = append(v.elements, element{text: vip.String(), key: vip.AsSlice()})
	}
	return []set{v}
}

func icmpErrors() set {
	return set{name: icmpErrorsSet, typ: nftables.TypeICMPType, elements: []element{
		{text: "destination-unreachable", key: []byte{3}},
		{text: "time-exceeded", key: []byte{11}},
		{text: "parameter-problem", key: []byte{12}},
	}}
}
