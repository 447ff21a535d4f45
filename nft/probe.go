package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// ErrNotPermitted says that the process may not change packet filters.
var ErrNotPermitted = errors.New("not permitted to change the packet filter: the capability CAP_NET_ADMIN is missing: run as root, or give it to the service (systemd: AmbientCapabilities=CAP_NET_ADMIN)")

// MissingFeature says what the kernel cannot do.
type MissingFeature struct {
	Feature string // what is missing, in words
	Kernel  string // the first Linux version that has it
	Module  string // the build option that brings it, which a kernel of that version may lack
	Err     error  // the kernel's answer
}

func (e *MissingFeature) Error() string {
	return fmt.Sprintf("the kernel lacks %s: it needs Linux %s or later, built with %s: use a newer or fuller kernel (it answered: %v)",
		e.Feature, e.Kernel, e.Module, e.Err)
}

func (e *MissingFeature) Unwrap() error { return e.Err }

// feature is something that the rules need, and how to ask for it: a table that
// uses it, made and deleted in one transaction.
type feature struct {
	name, kernel, module string
	family               family
	owned                bool
	use                  func(*nftables.Conn, *nftables.Table) error
}

// Probe asks the kernel of the calling thread's network namespace for everything
// that the filter and the lease need. The error is ErrNotPermitted, a
// *MissingFeature, or a failure to ask. It leaves nothing behind: what one
// transaction makes and deletes is never seen.
func Probe() (err error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("opening a netlink connection to the packet filter: %w", err)
	}
	defer func() { err = errors.Join(err, conn.CloseLasting()) }()
	if _, err := conn.ListTables(); err != nil {
		return unusable(err)
	}
	for _, f := range features {
		if err := f.probe(conn); err != nil {
			return f.missing(err)
		}
	}
	return probeFlows()
}

// probeFlows asks for the flows of an address that has none.
func probeFlows() error {
	for _, err := range Flows([]netip.Addr{netip.IPv4Unspecified()}) {
		if err != nil {
			return feature{name: "the filtered listing of tracked flows", kernel: "5.8", module: "CONFIG_NF_CT_NETLINK"}.missing(err)
		}
	}
	return nil
}

func unusable(err error) error {
	if errors.Is(err, unix.EPERM) {
		return ErrNotPermitted
	}
	return feature{name: "nftables", kernel: "3.13", module: "CONFIG_NF_TABLES"}.missing(err)
}

func (f feature) missing(err error) error {
	if errors.Is(err, unix.EPERM) {
		return ErrNotPermitted
	}
	return &MissingFeature{f.name, f.kernel, f.module, err}
}

func (f feature) probe(c *nftables.Conn) error {
	t := &nftables.Table{Family: libraryFamily[f.family], Name: "peervip_probe"}
	if f.owned {
		t.Flags = nftables.TableFlagOwner
	}
	c.AddTable(t)
	err := f.use(c, t)
	c.DelTable(t)
	return errors.Join(err, c.Flush())
}

// features: the oldest first, so that an old kernel is told its greatest lack.
var features = []feature{
	{"nftables' connection tracking match", "3.14", "CONFIG_NF_TABLES_INET and CONFIG_NFT_CT", inet, false, probeChain(tracking())},
	{"nftables' rate limit", "3.14", "CONFIG_NFT_LIMIT", inet, false, probeChain(chain{"c", nil, []rule{{upTo(fragmentRate, fragmentBurst)}}})},
	{"nftables' sets of concatenated values", "4.1", "CONFIG_NF_TABLES_INET and CONFIG_NFT_CT", inet, false, probeLists},
	{"nftables' ingress hook", "4.2", "CONFIG_NF_TABLES_NETDEV and CONFIG_NETFILTER_INGRESS", netdev, false, probeChain(chain{"c", &hook{ingress, ingressPriority, "lo"}, nil})},
	{"nftables' set elements with a timeout that packets prolong", "4.2", "CONFIG_NF_TABLES_NETDEV", netdev, false, probeLease},
	{"nftables' rate limits by source", "4.3", "CONFIG_NFT_LIMIT", inet, false, probeSources},
	{"nftables' setting of the packet type", "4.5", "CONFIG_NF_TABLES_NETDEV", netdev, false, probeChain(chain{"c", nil, []rule{{setPktType("host")}}})},
	{"nftables' hash of the source address and verdict maps", "4.9", "CONFIG_NFT_HASH", netdev, false, probeHash},
	{"nftables' notrack", "4.9", "CONFIG_NFT_CT", inet, false, probeChain(chain{"c", nil, []rule{{notrack()}}})},
	{"nftables' named counters", "4.10", "CONFIG_NF_TABLES_NETDEV", netdev, false, probeCounter},
	{"nftables' sets that count packets by element", "5.7", "CONFIG_NF_TABLES_NETDEV", netdev, false, probePeers},
	{"nftables' tables with an owner", "5.12", "CONFIG_NF_TABLES_INET", inet, true, func(*nftables.Conn, *nftables.Table) error { return nil }},
	{"nftables' egress hook", "5.16", "CONFIG_NF_TABLES_NETDEV and CONFIG_NETFILTER_EGRESS", netdev, false, probeChain(chain{"c", &hook{egress, 0, "lo"}, nil})},
}

func probeChain(ch chain) func(*nftables.Conn, *nftables.Table) error {
	return func(c *nftables.Conn, t *nftables.Table) error {
		c.AddChain(ch.native(t))
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: ch.name}, Exprs: r.exprs(inet)})
		}
		return nil
	}
}

func probeHash(c *nftables.Conn, t *nftables.Table) error {
	s := Spec{Layout: hashring.Layout{Buckets: hashring.MaxBuckets, Seed: 1}}
	m := bucketMap{name: "m", buckets: s.Layout.Buckets, chains: map[node.State]string{node.Own: "own"}}
	set := m.native(t)
	if err := c.AddSet(set, nil); err != nil {
		return err
	}
	c.AddChain(chain{name: "own"}.native(t))
	if err := c.SetAddElements(set, m.elements([]node.State{node.Own})); err != nil {
		return err
	}
	return probeChain(chain{"c", nil, []rule{{bucketVerdict(s, m.name)}}})(c, t)
}

func probeCounter(c *nftables.Conn, t *nftables.Table) error {
	c.AddObj(&nftables.NamedObj{Table: t, Name: "n", Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	return probeChain(chain{"c", nil, []rule{{count("n")}}})(c, t)
}

// probeLease is `update @lease { oifname timeout 1s }`.
func probeLease(c *nftables.Conn, t *nftables.Table) error {
	if err := c.AddSet(leaseOf(Spec{Lease: time.Second}).native(t), nil); err != nil {
		return err
	}
	return probeChain(chain{"c", nil, []rule{{prolong(leaseSet, time.Second)}}})(c, t)
}

func probeSources(c *nftables.Conn, t *nftables.Table) error {
	if err := c.AddSet(sources(callerSet).native(t), nil); err != nil {
		return err
	}
	return probeChain(chain{"c", nil, []rule{{eachOver(callerSet, callsEach)}}})(c, t)
}

func probePeers(c *nftables.Conn, t *nftables.Table) error {
	return c.AddSet(peersOf().native(t), nil)
}

// probeLists is what lingering needs beside: lists of flows, tags, and conntrack's
// word on a connection.
func probeLists(c *nftables.Conn, t *nftables.Table) error {
	for _, s := range flowLists() {
		if err := c.AddSet(s.native(t), nil); err != nil {
			return err
		}
	}
	return probeChain(chain{"c", nil, []rule{
		{flowIn(listedSet), portlessFlowIn(listedPortless), setTag(firstTag), ctAssured()},
	}})(c, t)
}
