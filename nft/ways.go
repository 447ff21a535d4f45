package nft

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/node"
)

// Packets for a VIP may come to this node alone, past the cluster MAC and the buckets: to
// the NIC's own MAC, or by another interface, if the node is a router. Nobody else can
// serve these clients, so they are served here, but only while this node serves. A node
// that takes no new flows (drained, unfit) goes on with those that conntrack knows; one
// without a lease, or whose agent hangs, is silent: the permission is an element that the
// agent renews. What comes by lo, or by a bridge of this host (of containers), is this
// host's own and stays local.
const (
	waySet       = "ways"       // who comes by which interface
	wayOpenSet   = "ways_open"  // the permission to take all
	wayKnownSet  = "ways_known" // the permission to go on with what conntrack knows
	wayChain     = "ways"
	wayLasts     = time.Minute     // how long it is told after the last packet
	wayHeld      = 3 * time.Second // how long a permission lasts that is not renewed
	wayRoom      = 256
	wayListed    = 16
	counterWays  = "other_ways"
	counterNoWay = "other_ways_dropped"
)

// Way is a client that comes past the buckets, lately.
type Way struct {
	Interface string
	From      netip.Addr
	Packets   uint64
}

// withWays adds what decides about packets that come another way.
func withWays(t table, s Spec) table {
	t.counters = append(t.counters, counterWays, counterNoWay)
	t.sets = append(t.sets, ways())
	base := chain{"other_ways", &hook{point: prerouting, priority: transitionPriority}, []rule{
		// Nearly all packets for a VIP; the others are looked at.
		{toVIP(s), iifname(is, s.Interface), etherDst(is, s.ClusterMAC), accept()},
		{toVIP(s), iifkind(kindBridge), accept()},
		{toVIP(s), iifname(isNot, s.Interface), iifname(isNot, "lo"), gotoChain(wayChain)},
	}}
	all := []rule{
		{cameBy(waySet)},
		{count(counterWays)},
	}
	if s.Lease > 0 {
		base.rules = append(base.rules, rule{toVIP(s), iifname(is, s.Interface), markedHost(), gotoChain("own_mac")})
		gate := []rule{{nfprotoIn(wayOpenSet), accept()}}
		t.sets = append(t.sets, permission(wayOpenSet))
		if s.linger() {
			t.sets = append(t.sets, permission(wayKnownSet))
			gate = append(gate, rule{nfprotoIn(wayKnownSet), ctKnown(), accept()})
		}
		gate = append(gate, rule{count(counterNoWay), drop()})
		t.chains = append(t.chains, chain{"own_mac", nil, gate})
		all = append(all, gate...)
	}
	t.chains = append(t.chains, base, chain{wayChain, nil, all})
	return t
}

// ways is the set of who comes by which interface. When it is full others are not told.
func ways() set {
	return set{name: waySet, typ: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr), size: wayRoom, timeout: wayLasts, counter: true}
}

// permission is a set with one element, the protocol that all packets for a VIP have in
// common, or none.
func permission(name string) set {
	return set{name: name, typ: nftables.TypeNFProto, size: leaseRoom, timeout: wayHeld}
}

// nfprotoIn matches a packet whose network protocol is in the set.
func nfprotoIn(set string) term {
	return term{"meta nfproto @" + set, nil, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}}
}

// cameBy keeps the packet's interface and source in the set.
func cameBy(set string) term {
	return term{fmt.Sprintf("update @%s { iifname . ip saddr timeout %dm }", set, int(wayLasts.Minutes())), []protocol{protoIPv4}, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG32_00},
		loadNetwork(unix.NFT_REG32_04, ipSrcOffset, 4),
		&expr.Dynset{SrcRegKey: unix.NFT_REG32_00, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: wayLasts},
	}}
}

// permits is which permission the states of the buckets give; "": none, since no flow of
// this node could be anywhere.
func (s Spec) permits(committed states) string {
	for _, service := range committed {
		if slices.ContainsFunc(service, node.State.AcceptsNew) {
			return wayOpenSet
		}
	}
	if s.linger() {
		return wayKnownSet
	}
	return ""
}

// permit queues that permission in the place of any other.
func (f *Filter) permit(name string) error {
	stack := f.rules.tables[1].native()
	for _, of := range []string{wayOpenSet, wayKnownSet} {
		if of == wayKnownSet && !f.rules.spec.linger() {
			continue
		}
		set := permission(of).native(stack)
		f.conn.FlushSet(set)
		if of != name {
			continue
		}
		if err := f.conn.SetAddElements(set, []nftables.SetElement{{Key: []byte{unix.NFPROTO_IPV4}, Timeout: wayHeld}}); err != nil {
			return err
		}
	}
	return nil
}

// KeepWays gives what comes past the buckets its permission for some seconds more, if the
// lease is held, or takes it away. It is to be called each second.
func (f *Filter) KeepWays(held bool) error {
	const doing = "keeping the other ways in"
	if err := f.usable(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if f.rules.spec.Lease == 0 || !held && !f.open {
		return nil
	}
	name := ""
	if held {
		name = f.rules.spec.permits(f.committed)
	}
	if err := f.transact(func() error { return f.permit(name) }); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	f.open = held
	return nil
}

// ways returns who has come past the buckets within a minute, the most busy first.
func (f *Filter) ways() ([]Way, error) {
	elements, err := f.conn.GetSetElements(ways().native(f.rules.tables[1].native()))
	if err != nil {
		return nil, fmt.Errorf("listing the other ways in: %w", err)
	}
	var all []Way
	for _, e := range elements {
		if len(e.Key) < unix.IFNAMSIZ+4 || e.Counter == nil {
			continue
		}
		name, _, _ := bytes.Cut(e.Key[:unix.IFNAMSIZ], []byte{0})
		from, _ := netip.AddrFromSlice(e.Key[unix.IFNAMSIZ : unix.IFNAMSIZ+4])
		all = append(all, Way{string(name), from, e.Counter.Packets})
	}
	slices.SortFunc(all, func(a, b Way) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Interface, b.Interface), a.From.Compare(b.From))
	})
	return all[:min(len(all), wayListed)], nil
}
