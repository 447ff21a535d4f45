package nft

import (
	"fmt"

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
	// GuardUnmarked came to a VIP past all other rules; GuardForwarded this node
	// would have routed back to the wire. The guard dropped both. They start from
	// 0 also when EnsureGuard puts the guard back.
	GuardUnmarked, GuardForwarded Counter
}

// ServiceCounters count the packets of one service.
type ServiceCounters struct {
	Accepted map[node.State]Counter // by the state of the packet's bucket
	Dropped  Counter                // of buckets that this node does not own
}

// Accepted is the sum over all services and states, and the ICMP errors.
func (c Counters) Accepted() Counter {
	sum := c.ICMPErrors
	for _, s := range c.Services {
		for _, a := range s.Accepted {
			sum = sum.plus(a)
		}
	}
	return sum
}

// Dropped is the sum of all that was dropped, the guard's included.
func (c Counters) Dropped() Counter {
	sum := c.FragmentsDropped.plus(c.GuardUnmarked).plus(c.GuardForwarded)
	for _, s := range c.Services {
		sum = sum.plus(s.Dropped)
	}
	return sum
}

// Counters reads all counters from the kernel.
func (f *Filter) Counters() (Counters, error) {
	const doing = "reading packet counters"
	if f.conn == nil {
		return Counters{}, fmt.Errorf("%s: %w", doing, ErrClosed)
	}
	if f.committed == nil {
		return Counters{}, fmt.Errorf("%s: %w", doing, ErrGone)
	}
	sums := map[string]Counter{} // of the tables: packets and reassembled datagrams
	for _, t := range f.rules.tables {
		objects, err := f.conn.GetNamedObjects(t.library())
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
			}
		}
	}
	all := Counters{
		ICMPErrors:       sums[counterICMPErrors],
		Fragments:        sums[counterFragments],
		FragmentsDropped: sums[counterFragmentsDropped],
		ForeignMAC:       sums[counterForeignMAC],
		GuardUnmarked:    sums[counterUnmarked],
		GuardForwarded:   sums[counterForwarded],
	}
	for _, s := range f.rules.spec.Services {
		c := ServiceCounters{map[node.State]Counter{}, sums[droppedCounter(s)]}
		for _, state := range acceptingStates {
			c.Accepted[state] = sums[stateChain(s, state)]
		}
		all.Services = append(all.Services, c)
	}
	return all, nil
}
