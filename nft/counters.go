package nft

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/peervip/peervip/node"
)

// Counter counts packets and the bytes in them, headers above Ethernet included.
type Counter struct{ Packets, Bytes uint64 }

func (c Counter) plus(d Counter) Counter {
	return Counter{c.Packets + d.Packets, c.Bytes + d.Bytes}
}

// Counters are what the rules have counted since the last Install or Reinstall.
type Counters struct {
	// Services are in the order of Spec.Services.
	Services []ServiceCounters
	// ICMPErrors were accepted for any bucket.
	ICMPErrors Counter
	// Fragments were let through to be reassembled; the whole datagrams are
	// counted by their service. FragmentsDropped came too fast.
	Fragments, FragmentsDropped Counter
	// ForeignMAC came to a VIP by the interface but not to the cluster MAC: a
	// client or router holds a stale neighbour entry and bypasses the buckets.
	ForeignMAC Counter
	// Unleased came for buckets that this node had, or in fragments, when it had no
	// lease, and were dropped.
	Unleased Counter
	// ResetsHeld were on their way from a VIP to a client whose bucket moves, for a
	// connection that its handshake has not completed, and were dropped.
	ResetsHeld Counter
	// Untracked came to a VIP, and conntrack did not see them: somebody keeps it from
	// that, and what they belong to breaks when its bucket moves.
	Untracked Counter
	Beacons   BeaconCounters
	// OtherWays came to a VIP by another interface, OtherWaysDropped there or to the
	// NIC's own MAC while this node served nobody. Ways are those who did so lately.
	OtherWays, OtherWaysDropped Counter
	Ways                        []Way
	// GossipExcess came to gossip's port faster than its source may send, or was a
	// connection too many, and was dropped.
	GossipExcess Counter
	// GuardUnmarked came to a VIP past all other rules; GuardForwarded this node
	// would have routed back to the wire. The guard dropped both. They start from
	// 0 also when EnsureGuard puts the guard back.
	GuardUnmarked, GuardForwarded Counter
	// GuardRedirected came by a bridge to a VIP, past the buckets, and destination NAT
	// has sent them elsewhere; the guard dropped them.
	GuardRedirected Counter
}

// ServiceCounters count the packets of one service.
type ServiceCounters struct {
	Accepted map[node.State]Counter // by the state of the packet's bucket
	// Refused were left to another node while their bucket moved: in Adopt to the
	// old owner, in Linger to the new one. Only of a service whose flows linger.
	Refused map[node.State]Counter
	Dropped Counter // of buckets that this node does not own
}

// BeaconCounters count the beacons that came to this node.
type BeaconCounters struct {
	// BySource were accepted, from the addresses of SetPeers.
	BySource map[netip.Addr]Counter
	// Unknown were accepted from other addresses, Excess came too fast from there
	// and were dropped. UnknownOnWire are those of Unknown that came to the cluster MAC.
	Unknown, Excess, UnknownOnWire Counter
	// Foreign were dropped: they came through a router (their TTL says so), in
	// fragments, not to the cluster MAC, or by another interface.
	Foreign Counter
}

// Accepted is the sum over all sources.
func (c BeaconCounters) Accepted() Counter {
	sum := c.Unknown
	for _, b := range c.BySource {
		sum = sum.plus(b)
	}
	return sum
}

// Accepted is the sum over all services and states, and the ICMP errors; beacons
// are not in it.
func (c Counters) Accepted() Counter {
	sum := c.ICMPErrors
	for _, s := range c.Services {
		for _, a := range s.Accepted {
			sum = sum.plus(a)
		}
	}
	return sum
}

// Dropped is the sum of all that came and was dropped, by the guard too; beacons
// are not in it.
func (c Counters) Dropped() Counter {
	sum := c.FragmentsDropped.plus(c.Unleased).plus(c.GuardUnmarked).plus(c.GuardForwarded).plus(c.GuardRedirected).plus(c.OtherWaysDropped)
	for _, s := range c.Services {
		sum = sum.plus(s.Dropped)
		for _, r := range s.Refused {
			sum = sum.plus(r)
		}
	}
	return sum
}

// Counters reads all counters from the kernel.
func (f *Filter) Counters() (Counters, error) {
	const doing = "reading packet counters"
	if err := f.usable(); err != nil {
		return Counters{}, fmt.Errorf("%s: %w", doing, err)
	}
	var unknownOnWire Counter
	sums := map[string]Counter{} // of the tables: packets and reassembled datagrams
	for _, t := range f.rules.tables {
		if len(t.counters) == 0 {
			continue
		}
		objects, err := f.conn.GetNamedObjects(t.native())
		if err != nil {
			return Counters{}, fmt.Errorf("%s of table %s: %w", doing, t, err)
		}
		if len(objects) == 0 && t.owned {
			return Counters{}, fmt.Errorf("%s of table %s: %w", doing, t, ErrGone)
		}
		for _, o := range objects {
			named, ok := o.(*nftables.NamedObj)
			if !ok {
				continue
			}
			if c, ok := named.Obj.(*expr.Counter); ok {
				sums[named.Name] = sums[named.Name].plus(Counter{c.Packets, c.Bytes})
				if t.family == netdev && named.Name == counterBeaconsUnknown {
					unknownOnWire = Counter{c.Packets, c.Bytes}
				}
			}
		}
	}
	all := Counters{
		ICMPErrors:       sums[counterICMPErrors],
		Fragments:        sums[counterFragments],
		FragmentsDropped: sums[counterFragmentsDropped],
		ForeignMAC:       sums[counterForeignMAC],
		Unleased:         sums[counterUnleased],
		ResetsHeld:       sums[counterResetsHeld],
		Untracked:        sums[counterUntracked],
		OtherWays:        sums[counterWays],
		OtherWaysDropped: sums[counterNoWay],
		Beacons: BeaconCounters{
			Unknown: sums[counterBeaconsUnknown], UnknownOnWire: unknownOnWire,
			Excess:  sums[counterBeaconsExcess],
			Foreign: sums[counterBeaconsForeign],
		},
		GossipExcess:   sums[counterGossipExcess],
		GuardUnmarked:  sums[counterUnmarked],
		GuardForwarded: sums[counterForwarded], GuardRedirected: sums[counterRedirected],
	}
	var err error
	if all.Ways, err = f.ways(); err != nil {
		return Counters{}, fmt.Errorf("%s: %w", doing, err)
	}
	for _, s := range f.rules.spec.Services {
		c := ServiceCounters{Accepted: map[node.State]Counter{}, Dropped: sums[droppedCounter(s)]}
		for _, state := range s.states() {
			c.Accepted[state] = sums[stateChain(s, state)]
			if refuses(s, state) {
				if c.Refused == nil {
					c.Refused = map[node.State]Counter{}
				}
				c.Refused[state] = sums[refusedCounter(s, state)]
			}
		}
		all.Services = append(all.Services, c)
	}
	if f.rules.spec.BeaconPort == 0 {
		return all, nil
	}
	peers, err := f.conn.GetSetElements(peersOf().native(f.rules.tables[0].native()))
	if err != nil {
		return Counters{}, fmt.Errorf("%s of peers: %w", doing, err)
	}
	all.Beacons.BySource = make(map[netip.Addr]Counter, len(peers))
	for _, p := range peers {
		if addr, ok := netip.AddrFromSlice(p.Key); ok && p.Counter != nil {
			all.Beacons.BySource[addr] = Counter{p.Counter.Packets, p.Counter.Bytes}
		}
	}
	return all, nil
}
