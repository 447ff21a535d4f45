// Package nft is what a packet for the VIP meets in this node's kernel: the
// rules as printable values, the filter that holds them, moves buckets and arms
// the lease, the probe of what the kernel can do, and the flows that conntrack
// knows, to be watched and ended. It must know nothing of placement, membership or
// the meaning of a beacon: it is told which state each bucket has, whether this
// node may serve, and from which addresses beacons come.
package nft

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables"

	"github.com/peervip/peervip/node"
)

// Ruleset is everything that the kernel is told at the start: a value, which
// String prints in nft's language and Filter.Install applies. Both come from
// the same tables, so that what is read is what runs.
type Ruleset struct {
	spec   Spec
	tables []table // in the order in which they are made; the guard is the last
}

// family is a table's address family, as nft writes it.
type family string

const (
	netdev family = "netdev"
	inet   family = "inet"
	arp    family = "arp"
)

var libraryFamily = map[family]nftables.TableFamily{
	arp:    nftables.TableFamilyARP,
	netdev: nftables.TableFamilyNetdev,
	inet:   nftables.TableFamilyINet,
}

type table struct {
	family   family
	name     string
	owned    bool // nobody else can change it, and it vanishes with its owner
	counters []string
	sets     []set
	maps     []bucketMap
	chains   []chain // in an owner table hooks go at the owner's death in this order
}

func (t table) String() string { return fmt.Sprintf("%s %s", t.family, t.name) }

// set is a set of values to match. One without a size is constant: its elements
// are made with it, and nobody can change them.
type set struct {
	name     string
	typ      nftables.SetDatatype
	elements []element
	size     int // the most elements; those deleted a moment ago still count
	// Each element counts the packets that match it.
	counter bool
	// Packets prolong elements, which last so long.
	timeout time.Duration
}

// element of a set; in one whose elements name chains, which is a verdict map, it
// sends packets there.
type element struct {
	text  string
	key   []byte
	chain string
}

func (s set) isMap() bool { return len(s.elements) > 0 && s.elements[0].chain != "" }

// bucketMap holds buckets by their state: it sends the packets of each to the
// chain of its state. A bucket whose state has no chain here has no element.
type bucketMap struct {
	name    string
	service int // index into Spec.Services
	buckets int
	chains  map[node.State]string
	// It is a set: a bucket is in it if its state has a chain, whichever it is.
	set bool
}

// capacity is what the map is declared for. Elements deleted a moment ago count
// until the kernel's worker has freed them, so a batch that replaces every
// element needs room for two of each (net/netfilter/nf_tables_api.c, set->nelems).
func (m bucketMap) capacity() int { return 2 * m.buckets }

type chain struct {
	name  string
	hook  *hook // nil: reached only from other chains
	rules []rule
}

type hook struct {
	point    hookPoint
	priority int
	device   string // netdev family only
}

type hookPoint string

const (
	ingress     hookPoint = "ingress"
	egress      hookPoint = "egress"
	prerouting  hookPoint = "prerouting"
	input       hookPoint = "input"
	forward     hookPoint = "forward"
	output      hookPoint = "output"
	postrouting hookPoint = "postrouting"
)

var libraryHook = map[hookPoint]*nftables.ChainHook{
	ingress:     nftables.ChainHookIngress,
	egress:      nftables.ChainHookEgress,
	prerouting:  nftables.ChainHookPrerouting,
	input:       nftables.ChainHookInput,
	forward:     nftables.ChainHookForward,
	output:      nftables.ChainHookOutput,
	postrouting: nftables.ChainHookPostrouting,
}

// String prints the rules as `nft -f` takes them. Applied that way they do the
// same but belong to nobody: an owner table would vanish as nft exits, so the
// flag is written as a comment.
func (r Ruleset) String() string {
	var b strings.Builder
	for _, t := range r.tables {
		t.print(&b)
	}
	return b.String()
}

func (t table) print(b *strings.Builder) {
	fmt.Fprintf(b, "table %s {", t)
	if t.owned {
		b.WriteString(" # flags owner")
	}
	b.WriteString("\n")
	for _, name := range t.counters {
		fmt.Fprintf(b, "\tcounter %s {\n\t}\n", name)
	}
	for _, s := range t.sets {
		s.print(b)
	}
	for _, m := range t.maps {
		kind, value := "map", " : verdict"
		if m.set {
			kind, value = "set", ""
		}
		// nft has no name for the type of a hash; a number below M is of the same one.
		fmt.Fprintf(b, "\t%s %s {\n\t\ttypeof numgen inc mod %d%s\n\t\tsize %d\n\t}\n",
			kind, m.name, m.buckets, value, m.capacity())
	}
	for _, c := range t.chains {
		fmt.Fprintf(b, "\tchain %s {\n", c.name)
		if h := c.hook; h != nil {
			device := ""
			if h.device != "" {
				device = fmt.Sprintf(" device %q", h.device)
			}
			fmt.Fprintf(b, "\t\ttype filter hook %s%s priority %d; policy accept;\n", h.point, device, h.priority)
		}
		for _, r := range c.rules {
			fmt.Fprintf(b, "\t\t%s\n", r)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
}

func (s set) print(b *strings.Builder) {
	kind, value := "set", ""
	if s.isMap() {
		kind, value = "map", " : verdict"
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s%s\n", kind, s.name, s.typ.Name, value)
	switch {
	case s.size == 0:
		b.WriteString("\t\tflags constant\n")
	case s.timeout > 0:
		fmt.Fprintf(b, "\t\tsize %d\n\t\tflags dynamic,timeout\n", s.size)
	default:
		fmt.Fprintf(b, "\t\tsize %d\n", s.size)
	}
	if s.counter {
		b.WriteString("\t\tcounter\n")
	}
	if len(s.elements) > 0 {
		texts := make([]string, len(s.elements))
		for i, e := range s.elements {
			texts[i] = e.text
			if e.chain != "" {
				texts[i] += " : goto " + e.chain
			}
		}
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(texts, ", "))
	}
	b.WriteString("\t}\n")
}
