package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// Spec is what the rules are made from.
type Spec struct {
	// Interface is the name of the interface that the VIPs live on.
	Interface string
	// ClusterMAC is the MAC address that frames for the VIPs come to.
	ClusterMAC net.HardwareAddr
	// VIPs are the shared addresses: at least one, IPv4.
	VIPs []netip.Addr
	// Layout maps clients to buckets; its seed is not 0.
	Layout hashring.Layout
	// Services are the classes of the VIPs' traffic. The last is the default: it
	// gets what no other names.
	Services []Service
	// GossipPort is the port on which the agents talk; UDP from it to it is not
	// tracked, so that a full conntrack table does not part the cluster.
	GossipPort uint16
}

// Service is a class of the VIPs' traffic with buckets of its own.
type Service struct {
	// Name: lower-case letters, digits and hyphens, a letter first.
	Name string
}

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

// acceptingStates are the states whose buckets have an element in a map, and a
// chain and a counter of their own. Adopt takes what own takes; linger takes no
// new flow, and without rules that know the old ones it takes nothing.
var acceptingStates = []node.State{node.Own, node.Adopt}

var serviceName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Compile makes the rules. An error names the field of the spec that is wrong.
func Compile(s Spec) (Ruleset, error) {
	if err := s.check(); err != nil {
		return Ruleset{}, fmt.Errorf("making packet filter rules: %w", err)
	}
	s.VIPs, s.Services, s.ClusterMAC = slices.Clone(s.VIPs), slices.Clone(s.Services), slices.Clone(s.ClusterMAC)
	// The ingress chain is made first: at the owner's death the kernel removes
	// hooks in that order, and what ingress no longer marks the guard drops.
	return Ruleset{s, []table{ingressTable(s), stackTable(s), guardTable(s)}}, nil
}

func (s Spec) check() error {
	if s.Interface == "" || len(s.Interface) > 15 || strings.ContainsAny(s.Interface, "\"*/ \t\n") {
		return fmt.Errorf("interface: %q is no interface name", s.Interface)
	}
	if len(s.ClusterMAC) != 6 {
		return fmt.Errorf("cluster MAC: %q is not 6 bytes long", s.ClusterMAC)
	}
	if len(s.VIPs) == 0 {
		return errors.New("VIPs: there is none: name at least one address")
	}
	for i, vip := range s.VIPs {
		if !vip.Is4() {
			return fmt.Errorf("VIPs: %s is not an IPv4 address", vip)
		}
		if slices.Contains(s.VIPs[:i], vip) {
			return fmt.Errorf("VIPs: %s is there twice", vip)
		}
	}
	if b := s.Layout.Buckets; b < hashring.MinBuckets || b > hashring.MaxBuckets {
		return fmt.Errorf("buckets: %d is out of range: choose a number from %d to %d", b, hashring.MinBuckets, hashring.MaxBuckets)
	}
	if s.Layout.Seed == 0 {
		return errors.New("seed: 0 would have each kernel choose its own: take another")
	}
	if len(s.Services) != 1 {
		return fmt.Errorf("services: there are %d: exactly one can be served", len(s.Services))
	}
	for _, service := range s.Services {
		if !serviceName.MatchString(service.Name) {
			return fmt.Errorf("services: the name %q: use lower-case letters, digits and hyphens, a letter first", service.Name)
		}
	}
	if s.GossipPort == 0 {
		return errors.New("gossip port: it is not set")
	}
	return nil
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
			}, classify(s))},
			// A fragment has no ports, so it cannot be dispatched here: it passes
			// unmarked, and the stack's table decides when it is whole. A cluster MAC
			// that is not multicast would have the stack throw it away before that.
			{"fragments", nil, []rule{
				{upTo(fragmentRate, fragmentBurst), count(counterFragments), setPktType("multicast"), accept()},
				{count(counterFragmentsDropped), drop()},
			}},
		},
	}
	return withServices(t, s)
}

// stackTable decides about reassembled fragments, as ingressTable does about
// whole packets.
func stackTable(s Spec) table {
	t := table{family: inet, name: tableName, owned: true,
		counters: []string{counterICMPErrors, counterForeignMAC},
		sets:     append(vips(s), icmpErrors()),
		chains: []chain{
			{"prerouting", &hook{point: prerouting, priority: reassembledPriority}, []rule{
				{toVIP(s), iifname(is, s.Interface), gotoChain("arrived")},
				{udpBetween(s.GossipPort), notrack()},
			}},
			{"output", &hook{point: output, priority: rawPriority}, []rule{
				{udpBetween(s.GossipPort), notrack()},
			}},
			{"arrived", nil, []rule{
				// A client that still has a NIC's own MAC for the VIP sends to that node
				// alone. It is served, since nobody else sees its packets, and counted,
				// since it bypasses the buckets: an operator should know.
				{etherDst(isNot, s.ClusterMAC), count(counterForeignMAC), accept()},
				{notMarkedHost(), gotoChain("vip")},
			}},
			{"vip", nil, classify(s)},
			tracking(),
		},
	}
	return withServices(t, s)
}

// guardTable keeps the VIP silent on a node whose other tables are gone, and
// stays when the agent dies. It goes by the VIP and not by the MAC address,
// which ARP and other groups use too.
func guardTable(s Spec) table {
	return table{family: inet, name: guardName,
		counters: []string{counterUnmarked, counterForwarded},
		sets:     vips(s),
		chains: []chain{
			{"prerouting", &hook{point: prerouting, priority: rawPriority}, []rule{
				{notMarkedHost(), iifname(isNot, "lo"), toVIP(s), count(counterUnmarked), drop()},
			}},
			// When the VIP has gone from this node and it routes, it would send each
			// packet back to the wire.
			{"forward", &hook{point: forward, priority: rawPriority}, []rule{
				{toVIP(s), count(counterForwarded), drop()},
			}},
			tracking(),
		},
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
// accepting state a chain.
func withServices(t table, s Spec) table {
	for i, service := range s.Services {
		m := bucketMap{bucketMapName(service), i, s.Layout.Buckets, map[node.State]string{}}
		t.counters = append(t.counters, droppedCounter(service))
		for _, state := range acceptingStates {
			name := stateChain(service, state) // of the chain, and of its counter
			m.chains[state] = name
			t.counters = append(t.counters, name)
			t.chains = append(t.chains, chain{name, nil, []rule{
				{count(name), setPktType("host"), accept()},
			}})
		}
		t.maps = append(t.maps, m)
	}
	return t
}

func (s Service) identifier() string { return strings.ReplaceAll(s.Name, "-", "_") }

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

// vips is the set that toVIP looks at, if it does.
func vips(s Spec) []set {
	if len(s.VIPs) == 1 {
		return nil
	}
	v := set{name: vipSet, typ: nftables.TypeIPAddr}
	for _, vip := range s.VIPs {
		v.elements = append(v.elements, element{vip.String(), vip.AsSlice()})
	}
	return []set{v}
}

func icmpErrors() set {
	return set{icmpErrorsSet, nftables.TypeICMPType, []element{
		{"destination-unreachable", []byte{3}},
		{"time-exceeded", []byte{11}},
		{"parameter-problem", []byte{12}},
	}}
}
