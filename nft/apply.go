package nft

import (
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/peervip/peervip/node"
)

func (t table) native() *nftables.Table {
	lib := &nftables.Table{Family: libraryFamily[t.family], Name: t.name}
	if t.owned {
		lib.Flags = nftables.TableFlagOwner
	}
	return lib
}

// create queues everything that makes the table, with its contents, and returns
// the rules, whose handles the kernel's answer fills in.
func (t table) create(c *nftables.Conn, with contents) ([]*nftables.Rule, error) {
	lib := c.AddTable(t.native())
	for _, name := range t.counters {
		c.AddObj(&nftables.NamedObj{Table: lib, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	}
	for _, ch := range t.chains {
		c.AddChain(ch.native(lib))
	}
	for _, s := range t.sets {
		elements := s.native(lib)
		if err := c.AddSet(elements, s.elementsWith(with)); err != nil {
			return nil, err
		}
	}
	for _, m := range t.maps {
		set := m.native(lib)
		if err := c.AddSet(set, nil); err != nil {
			return nil, err
		}
		if err := c.SetAddElements(set, m.elements(with.committed[m.service])); err != nil {
			return nil, err
		}
	}
	var rules []*nftables.Rule
	for _, ch := range t.chains {
		for _, r := range ch.rules {
			rules = append(rules, c.AddRule(&nftables.Rule{
				Table: lib, Chain: &nftables.Chain{Name: ch.name}, Exprs: r.exprs(t.family),
			}))
		}
	}
	return rules, nil
}

func (c chain) native(t *nftables.Table) *nftables.Chain {
	lib := &nftables.Chain{Table: t, Name: c.name}
	if h := c.hook; h != nil {
		lib.Type = nftables.ChainTypeFilter
		if lib.Hooknum = libraryHook[h.point]; t.Family == nftables.TableFamilyARP {
			lib.Hooknum = nftables.ChainHookRef(arpHook[h.point])
		}
		lib.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(h.priority))
		lib.Device = h.device
		policy := nftables.ChainPolicyAccept
		lib.Policy = &policy
	}
	return lib
}

func (s set) native(t *nftables.Table) *nftables.Set {
	lib := &nftables.Set{
		Table: t, Name: s.name, KeyType: s.typ, Constant: s.size == 0, Size: uint32(s.size), Counter: s.counter,
		Concatenation: strings.Contains(s.typ.Name, " . "), Dynamic: s.timeout > 0, HasTimeout: s.timeout > 0,
	}
	if s.isMap() {
		lib.IsMap, lib.DataType = true, nftables.TypeVerdict
	}
	if s.typ == nftables.TypeClassID || s.typ == nftables.TypeIFName {
		lib.KeyByteOrder = binaryutil.NativeEndian
	}
	return lib
}

// elementsWith are the set's elements at the start.
func (s set) elementsWith(with contents) []nftables.SetElement {
	switch s.name {
	case peerSet:
		return peerElements(with.peers, nil)
	case listedSet, listedPortless:
		return with.listed.elements(s.name)
	}
	all := make([]nftables.SetElement, len(s.elements))
	for i, e := range s.elements {
		all[i].Key = e.key
		if e.chain != "" {
			all[i].VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.chain}
		}
	}
	return all
}

func (m bucketMap) native(t *nftables.Table) *nftables.Set {
	lib := &nftables.Set{
		Table: t, Name: m.name, Size: uint32(m.capacity()),
		KeyType: nftables.TypeInteger, KeyByteOrder: binaryutil.NativeEndian,
	}
	if !m.set {
		lib.IsMap, lib.DataType = true, nftables.TypeVerdict
	}
	return lib
}

// elements returns the map's elements for the states of all buckets.
func (m bucketMap) elements(buckets []node.State) []nftables.SetElement {
	var all []nftables.SetElement
	for b, state := range buckets {
		if to := m.chains[state]; to != "" {
			all = append(all, m.element(b, to))
		}
	}
	return all
}

// element is the element that sends the bucket to the chain, if that is a map's
// way; without a chain it names the bucket for deletion. The key is what the hash
// leaves in a register: a number in the machine's own byte order.
func (m bucketMap) element(bucket int, chain string) nftables.SetElement {
	e := nftables.SetElement{Key: hostUint32(uint32(bucket))}
	if chain != "" && !m.set {
		e.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}
	}
	return e
}

// move queues the elements that change with the moves, after which the buckets are in
// these states: the old one is deleted before the new one is added, since the kernel
// refuses (EEXIST) a key that is there with another verdict. Where it takes fewer bytes,
// all elements are queued anew.
func (m bucketMap) move(c *nftables.Conn, t *nftables.Table, moves []move, after []node.State) error {
	gone := make([]nftables.SetElement, 0, len(moves))
	come := make([]nftables.SetElement, 0, len(moves))
	for _, mv := range moves {
		from, to := m.chains[mv.from], m.chains[mv.to]
		if mv.service != m.service || from == to {
			continue
		}
		if from != "" {
			gone = append(gone, m.element(mv.bucket, ""))
		}
		if to != "" {
			come = append(come, m.element(mv.bucket, to))
		}
	}
	if len(gone) > m.buckets/2 {
		if all := m.elements(after); bytesOf(all) < bytesOf(gone)+bytesOf(come) {
			return m.rewrite(c, t, after)
		}
	}
	set := m.native(t)
	if err := c.SetDeleteElements(set, gone); err != nil {
		return err
	}
	return c.SetAddElements(set, come)
}

// rewrite queues the elements of all buckets in the place of whatever is there.
func (m bucketMap) rewrite(c *nftables.Conn, t *nftables.Table, states []node.State) error {
	set := m.native(t)
	c.FlushSet(set)
	return c.SetAddElements(set, m.elements(states))
}
