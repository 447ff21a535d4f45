package nft

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// Beacons come by the path of a client's packets and are for every node, whatever
// bucket their source has and whether or not it holds its lease. They must come
// from this segment: a router would have lowered the TTL, as for VRRP (RFC 9568
// 5.1.1.3, 8). Who is a peer the agent says; the first beacons of another one are
// accepted too, since it may be about to join, but not many.
const (
	peerSet      = "peers"
	beaconChain  = "beacons"
	fromNeighbor = 255 // the TTL of what came through no router

	counterBeaconsUnknown = "beacons_unknown"
	counterBeaconsExcess  = "beacons_excess"
	counterBeaconsForeign = "beacons_foreign"

	// PeerLimit is the most peers that SetPeers takes.
	PeerLimit = 256
)

// toBeacons sends beacons, of all that comes for a VIP, to their chain.
func toBeacons(s Spec) []rule {
	if s.BeaconPort == 0 {
		return nil
	}
	to := rule{udpTo(s.BeaconPort)}
	if len(s.VIPs) > 1 {
		to = append(to, ipDst(s.VIPs[0]))
	}
	return []rule{append(to, gotoChain(beaconChain))}
}

// withBeacons adds the chain for beacons.
func withBeacons(t table, s Spec) table {
	if s.BeaconPort == 0 {
		return t
	}
	t.counters = append(t.counters, counterBeaconsUnknown, counterBeaconsExcess, counterBeaconsForeign)
	t.sets = append(append(t.sets, peersOf()), beaconRations.sets()...)
	t.chains = append(t.chains, beaconRations.chains(beaconChain, []rule{
		{ttl(isNot, fromNeighbor), count(counterBeaconsForeign), drop()},
		{ipSrcIn(peerSet), setPktType("host"), accept()},
	}, rule{count(counterBeaconsUnknown), setPktType("host"), accept()})...)
	return t
}

// withArrivedBeacons adds the chain for beacons that come to the stack: the
// cluster's must not need room in the conntrack table. What came in pieces, or to
// a NIC's own MAC address, has not been looked at and is none.
func withArrivedBeacons(t table, s Spec) table {
	if s.BeaconPort == 0 {
		return t
	}
	t.counters = append(t.counters, counterBeaconsForeign)
	t.chains = append(t.chains, chain{beaconChain, nil, []rule{
		{notMarkedHost(), count(counterBeaconsForeign), drop()},
		{etherDst(isNot, s.ClusterMAC), count(counterBeaconsForeign), drop()},
		{notrack()},
	}})
	return t
}

// has says whether the table has a set of that name.
func (t table) has(name string) bool {
	return slices.ContainsFunc(t.sets, func(s set) bool { return s.name == name })
}

func peersOf() set {
	return set{name: peerSet, typ: nftables.TypeIPAddr, size: 4 * PeerLimit, counter: true}
}

// SetPeers says from which addresses beacons come: those of the other nodes, and
// this node's own too, if it wants those counted that come back to it. What is
// counted by source goes on for an address that stays.
func (f *Filter) SetPeers(addrs []netip.Addr) error {
	doing := fmt.Sprintf("setting %d peers", len(addrs))
	if err := f.usable(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if f.rules.spec.BeaconPort == 0 {
		return fmt.Errorf("%s: the rules were made without a beacon port", doing)
	}
	wanted := map[netip.Addr]bool{}
	for _, a := range addrs {
		if !a.Is4() {
			return fmt.Errorf("%s: %s is not an IPv4 address", doing, a)
		}
		wanted[a] = true
	}
	if len(wanted) > PeerLimit {
		return fmt.Errorf("%s: there is room for %d", doing, PeerLimit)
	}
	if f.peers != nil && maps.Equal(wanted, f.peers) {
		return nil
	}
	err := f.transact(func() error {
		for _, t := range f.rules.tables {
			if !t.has(peerSet) {
				continue
			}
			peers := peersOf().native(t.native())
			if f.peers == nil {
				f.conn.FlushSet(peers)
			}
			if err := f.conn.SetDeleteElements(peers, peerElements(f.peers, wanted)); err != nil {
				return err
			}
			if err := f.conn.SetAddElements(peers, peerElements(wanted, f.peers)); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, ErrUncertain) {
		f.peers = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	f.peers = wanted
	return nil
}

// peerElements are the elements of those addresses that are not among others.
func peerElements(addrs, others map[netip.Addr]bool) []nftables.SetElement {
	var all []nftables.SetElement
	for a := range addrs {
		if !others[a] {
			all = append(all, nftables.SetElement{Key: a.AsSlice()})
		}
	}
	return all
}
