package nft

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The agents' own ports are open to strangers, who may be about to join, and by whose
// beacons a node has to see that another cluster serves. A flood must not keep the
// agent busy, nor hide from it who is honest. So what comes from a peer passes, and the
// rest is rationed: each source by itself, lest one takes the others' share; sources
// that were not heard lately, lest one that forges them takes the room of those that
// were; and all together.
//
// The beacons of peers are never rationed: whoever forges a peer's address would have
// the peer's own dropped with them, and a silent peer loses its buckets. Gossip is:
// nothing moves for want of it.
var (
	// Beacons of strangers. A node at the fastest sends 200 a second.
	beaconRations = rations{
		set: "strangers", each: ration{250, 250}, all: ration{10000, 2000}, fresh: ration{1000, 1000},
		excess: counterBeaconsExcess,
	}
	// Gossip's datagrams. A stranger is hardly more than a joiner that one member knows
	// and the others do not yet.
	gossipRations = rations{
		set: "gossip_strangers", each: ration{50, 50}, all: ration{1000, 500}, fresh: ration{200, 200},
		excess: counterGossipExcess,
	}
	// Those of a peer, which has one to a few tens a second to say.
	peerGossip, peersGossip = ration{500, 500}, ration{5000, 2000}
	// Connections that a stranger opens to gossip's port.
	callsEach = ration{5, 20}
)

const (
	beaconPortChain = "beacon_port"
	gossipPortChain = "gossip_port"
	gossipCallChain = "gossip_calls"
	gossipPeerSet   = "gossip_peers"
	callerSet       = "gossip_callers"

	counterGossipExcess = "gossip_excess"

	// sourceRoom is how many sources are told apart, sourceLasts for how long after
	// their last packet. New ones come at most so fast that there is room for them.
	sourceRoom  = 1 << 14
	sourceLasts = 3 * time.Second
)

// ration is how many packets pass in a second, and in a moment.
type ration struct {
	rate  uint64
	burst uint32
}

// rations are for the packets of strangers of one kind.
type rations struct {
	set              string // of the sources heard lately; the counts of each are in another
	each, all, fresh ration // of one source, of all, of sources that are not in the set
	excess           string // the counter of what is dropped
}

// chains returns the chain's rules after those given, and the chain that they send
// sources heard lately to; what passes is treated so.
func (r rations) chains(name string, before []rule, pass rule) []chain {
	known := name + "_known"
	dropped := rule{count(r.excess), drop()}
	return []chain{
		{name, nil, slices.Concat(before, []rule{
			{ipSrcIn(r.set), gotoChain(known)},
			{upTo(r.fresh.rate, r.fresh.burst), gotoChain(known)},
			dropped,
		})},
		{known, nil, []rule{
			slices.Concat(rule{eachUpTo(r.counts(), r.each), upTo(r.all.rate, r.all.burst), heard(r.set)}, pass),
			dropped,
		}},
	}
}

// counts is the set of what comes from each source. It is not the one that is looked
// at, since a look counts too (net/netfilter/nft_lookup.c).
func (r rations) counts() string { return r.set + "_each" }

func (r rations) sets() []set { return []set{sources(r.set), sources(r.counts())} }

func sources(name string) set {
	return set{name: name, typ: nftables.TypeIPAddr, size: sourceRoom, timeout: sourceLasts}
}

// withOwnPorts adds the rations for what comes to this node's agent past the ingress
// chain: datagrams to the beacons' port, which the other nodes send from their own
// addresses, and all that comes to gossip's.
func withOwnPorts(t table, s Spec) table {
	if s.BeaconPort == 0 {
		return t // nobody says who the peers are
	}
	t.counters = append(t.counters, counterBeaconsUnknown, counterBeaconsExcess, counterGossipExcess)
	t.sets = slices.Concat(t.sets, []set{peersOf(), sources(gossipPeerSet), sources(callerSet)}, beaconRations.sets(), gossipRations.sets())
	peers := rule{ipSrcIn(peerSet), accept()}
	t.chains = append(t.chains, beaconRations.chains(beaconPortChain, []rule{
		// A beacon for the VIP comes by the cluster MAC alone, and was looked at there.
		{ipDst(s.VIPs[0]), markedHost(), count(counterBeaconsForeign), drop()},
		{toVIP(s), accept()},
		{notrack()},
		peers,
	}, rule{count(counterBeaconsUnknown), accept()})...)
	t.chains = append(t.chains, gossipRations.chains(gossipPortChain, []rule{
		{notrack()},
		{ipSrcIn(peerSet), eachUpTo(gossipPeerSet, peerGossip), upTo(peersGossip.rate, peersGossip.burst), accept()},
		{ipSrcIn(peerSet), count(counterGossipExcess), drop()},
	}, rule{accept()})...)
	t.chains = append(t.chains, chain{gossipCallChain, nil, []rule{
		peers,
		// A source that finds no room in the set passes: the agent has places for few.
		{eachOver(callerSet, callsEach), count(counterGossipExcess), drop()},
	}})
	return t
}

// toOwnPorts sends what comes to an address of this host for the agent to its chain.
func toOwnPorts(s Spec) []rule {
	if s.BeaconPort == 0 {
		return nil
	}
	here := toThisHost()
	if s.NoRoutes {
		here = term{"meta nfproto ipv4", nil, metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4})}
	}
	return []rule{
		{udpTo(s.BeaconPort), here, gotoChain(beaconPortChain)},
		{udpTo(s.GossipPort), here, gotoChain(gossipPortChain)},
		{tcpTo(s.GossipPort), tcpOpens(is), here, gotoChain(gossipCallChain)},
	}
}

// SeesRoutes says whether the rules of the kernel of the calling thread's network
// namespace can ask which addresses are the host's. Not every kernel is built with it
// (CONFIG_NFT_FIB_INET); see Spec.NoRoutes.
func SeesRoutes() bool {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return false
	}
	err = feature{family: inet, use: probeChain(chain{"c", nil, []rule{{toThisHost()}}})}.probe(conn)
	return errors.Join(err, conn.CloseLasting()) == nil
}

// toThisHost matches an IPv4 packet to one of the host's own addresses, in the inet
// family.
func toThisHost() term {
	return term{"meta nfproto ipv4 fib daddr type local", nil, append(metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4}),
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: hostUint32(unix.RTN_LOCAL)},
	)}
}

// eachUpTo matches while no more than the ration comes from the packet's source, which
// it adds to the set. A source for which the set has no room does not match.
func eachUpTo(set string, r ration) term { return eachSource(set, "", r, false) }

// eachOver matches what exceeds the ration of the packet's source.
func eachOver(set string, r ration) term { return eachSource(set, "over ", r, true) }

// heard keeps the packet's source in the set.
func heard(set string) term {
	return term{fmt.Sprintf("update @%s { ip saddr timeout %ds }", set, int(sourceLasts.Seconds())), []protocol{protoIPv4}, []expr.Any{
		loadNetwork(1, ipSrcOffset, 4),
		&expr.Dynset{SrcRegKey: 1, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: sourceLasts},
	}}
}

func eachSource(set, over string, r ration, isOver bool) term {
	return term{
		fmt.Sprintf("update @%s { ip saddr timeout %ds limit rate %s%d/second burst %d packets }", set, int(sourceLasts.Seconds()), over, r.rate, r.burst),
		[]protocol{protoIPv4},
		[]expr.Any{
			loadNetwork(1, ipSrcOffset, 4),
			&expr.Dynset{SrcRegKey: 1, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: sourceLasts, Exprs: []expr.Any{
				&expr.Limit{Type: expr.LimitTypePkts, Rate: r.rate, Over: isOver, Unit: expr.LimitTimeSecond, Burst: r.burst},
			}},
		},
	}
}
