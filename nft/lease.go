package nft

import (
	"cmp"
	"fmt"
	"time"

	"github.com/google/nftables"
)

// The lease is one element of one set, which runs out by itself. While it is not
// there, this node accepts nothing of any bucket. The kernel prolongs it when a
// beacon with the lease's mark leaves the interface; what leaves without the mark,
// such as a peer's beacon that this node forwards, does not. A beacon never brings
// back a lease that has run out, however late it leaves: only Filter.Apply does.
// The egress hook sees a frame of a packet socket as IPv4 if it is sent with that
// protocol (ETH_P_IP, or 0: the kernel looks), and not past the queueing discipline
// (PACKET_QDISC_BYPASS).
const (
	leaseSet        = "lease"
	unleasedChain   = "unleased"
	counterUnleased = "unleased"

	// Elements that are deleted or have run out count until the kernel's worker has
	// freed them.
	leaseRoom = 64

	// After other users of the egress hook: what they drop has not left.
	egressPriority = 500
)

// withoutLease are the rules for packets that come while there is no lease.
func withoutLease(s Spec) []rule {
	if s.Lease == 0 {
		return nil
	}
	return []rule{{iifnameIn(isNot, leaseSet), gotoChain(unleasedChain)}}
}

// underLease returns rules that take packets only while there is a lease. One rule
// looks itself, which is faster than a rule before it.
func underLease(s Spec, rules []rule) []rule {
	if s.Lease == 0 || len(rules) > 1 {
		return append(withoutLease(s), rules...)
	}
	return []rule{iifnameIn(is, leaseSet).then(rules[0]), {gotoChain(unleasedChain)}}
}

// withLease adds the lease and what prolongs it.
func withLease(t table, s Spec) table {
	if s.Lease == 0 {
		return t
	}
	t.counters = append(t.counters, counterUnleased)
	t.sets = append(t.sets, leaseOf(s))
	t.chains = append(t.chains,
		chain{unleasedChain, nil, []rule{{count(counterUnleased), drop()}}},
		chain{"egress", &hook{egress, egressPriority, s.Interface}, []rule{
			{marked(s.LeaseMark), ipDst(s.VIPs[0]), udpTo(s.BeaconPort), oifnameIn(leaseSet), prolong(leaseSet, s.Lease)},
		}})
	return t
}

// leaseOf is the set of the lease. Its element is the interface's name, which all
// packets have in common, arriving and leaving.
func leaseOf(s Spec) set {
	return set{name: leaseSet, typ: nftables.TypeIFName, size: leaseRoom, timeout: s.Lease}
}

// leaseLibrary is the set in the kernel.
func (f *Filter) leaseLibrary() *nftables.Set {
	return leaseOf(f.rules.spec).native(f.rules.tables[0].native())
}

// arm queues a new lease in the place of the old one, if there is one.
func (f *Filter) arm() error {
	lease := f.leaseLibrary()
	f.conn.FlushSet(lease)
	return f.conn.SetAddElements(lease, []nftables.SetElement{{
		Key: ifname(f.rules.spec.Interface), Timeout: cmp.Or(f.rules.spec.ArmFor, f.rules.spec.Lease),
	}})
}

// DropLease ends the lease: with the next packet this node accepts nothing of any
// bucket. The buckets keep their states. Without a lease in the spec, and when it
// has run out, there is nothing to do.
func (f *Filter) DropLease() error {
	const doing = "dropping the lease"
	if err := f.usable(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if f.rules.spec.Lease == 0 {
		return nil
	}
	err := f.transact(func() error {
		f.conn.FlushSet(f.leaseLibrary())
		return f.permit("")
	})
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	f.open = false
	return nil
}

// LeaseLeft asks the kernel how long the lease still lasts if no beacon prolongs
// it, and whether it is held at all. Without a lease in the spec this node may
// serve for ever, and holds none.
func (f *Filter) LeaseLeft() (left time.Duration, held bool, err error) {
	const doing = "asking for the lease"
	if err := f.usable(); err != nil {
		return 0, false, fmt.Errorf("%s: %w", doing, err)
	}
	if f.rules.spec.Lease == 0 {
		return 0, false, nil
	}
	elements, err := f.conn.GetSetElements(f.leaseLibrary())
	if err != nil {
		return 0, false, fmt.Errorf("%s: %w", doing, err)
	}
	for _, e := range elements {
		left = max(left, e.Expires)
	}
	return left, len(elements) > 0, nil
}
