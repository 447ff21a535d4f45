package node

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/peervip/peervip/hashring"
)

// View is the nodes that may serve now, with weight and fitness: an immutable
// value, from which every node computes the same owners.
type View struct {
	members []Member // sorted by name
	soles   map[int]string
	digest  uint64
}

// Sole is a service of which one node serves all buckets (mode "single").
type Sole struct {
	Service int
	// Holder is the node that does so now, or has most of the buckets; "": none.
	Holder string
	// Preempt: the service goes to the node of the highest weight. Else it stays with
	// its holder for as long as that is as fit as any.
	Preempt bool
}

// Member is one node of a view.
type Member struct {
	Incarnation
	// Weight in tenths of the default weight.
	Weight int
	// Phase is Active, Draining or Drained.
	Phase Phase
	// Unfit lists the services whose health checks fail there, ascending.
	Unfit []int
	// CutOff: it has no wire-proof, though others have, or it cannot serve, and Lame is why.
	// The reason is for people, and no part of the digest.
	CutOff bool
	Lame   Lame
}

// NewView builds a view of the members, in any order, and of the services that one of
// them serves as a whole.
func NewView(members []Member, soles ...Sole) View {
	v := View{members: slices.Clone(members), soles: map[int]string{}}
	slices.SortFunc(v.members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	h := xxhash.New()
	var buf []byte
	for _, m := range v.members {
		buf = binary.AppendUvarint(buf[:0], uint64(len(m.Name)))
		buf = append(buf, m.Name...)
		buf = binary.BigEndian.AppendUint64(buf, m.Nonce)
		buf = binary.AppendUvarint(buf, uint64(m.Weight))
		buf = append(buf, byte(m.eligible()))
		buf = binary.AppendUvarint(buf, uint64(len(m.Unfit)))
		for _, service := range m.Unfit {
			buf = binary.AppendUvarint(buf, uint64(service))
		}
		h.Write(buf)
	}
	// Whom a service goes to is part of the view, and who holds it is not: so it does
	// not change when that node has taken it.
	for _, s := range slices.SortedFunc(slices.Values(soles), func(a, b Sole) int { return a.Service - b.Service }) {
		name := v.choose(s)
		v.soles[s.Service] = name
		buf = binary.AppendUvarint(buf[:0], uint64(s.Service))
		h.Write(append(buf, name...))
	}
	v.digest = h.Sum64()
	return v
}

// choose says which member should serve all of a service: of those of the best rank its
// holder, or the one of the highest weight, of equals the first by name; "" if none may.
func (v View) choose(s Sole) string {
	name, weight, best := "", 0, v.best(s.Service)
	for _, m := range v.members {
		switch r := m.rank(s.Service); {
		case r == rankNever || r != best:
		case m.Name == s.Holder && !s.Preempt:
			return m.Name
		case m.Weight > weight:
			name, weight = m.Name, m.Weight
		}
	}
	return name
}

// best is the best rank that some member has for the service.
func (v View) best(service int) rank {
	best := rankNever
	for _, m := range v.members {
		best = max(best, m.rank(service))
	}
	return best
}

// Digest is a fingerprint of the view: two nodes whose digests are equal place
// every bucket alike.
func (v View) Digest() uint64 { return v.digest }

// Members returns the view's nodes, sorted by name. The caller must not change
// them.
func (v View) Members() []Member { return v.members }

// Has reports whether the view has a node of that name.
func (v View) Has(name string) bool {
	return slices.ContainsFunc(v.members, func(m Member) bool { return m.Name == name })
}

// rank orders the reasons for which a node may be given buckets. Only the best
// rank that some member has is used.
type rank byte

const (
	// rankNever: nothing may be given to the node.
	rankNever rank = iota
	// rankHolding: it drains, is cut off or lame, and still keeps what nobody else can take.
	rankHolding
	// rankUnfit: it is active, though a health check fails.
	rankUnfit
	// rankFit: it is active and fit.
	rankFit
)

// eligible is the member's rank for services whose checks pass.
func (m Member) eligible() rank {
	switch {
	case m.Phase == Draining, m.Phase == Active && m.CutOff:
		return rankHolding
	case m.Phase == Active:
		return rankFit
	}
	return rankNever
}

// rank is the member's rank for one service.
func (m Member) rank(service int) rank {
	r := m.eligible()
	if r == rankFit && slices.Contains(m.Unfit, service) {
		return rankUnfit
	}
	return r
}

// placement says who should own each bucket of one service.
type placement struct {
	table hashring.Table
	// rank is the rank of those who are given buckets. Below rankFit nobody is
	// fit, and buckets stay with whom they are; table speaks of orphans only.
	rank rank
}

// place computes the owners of all services' buckets. Services for which the
// same nodes are fit, as nearly always all of them, share one table.
func (v View) place(placer *hashring.Placer, services int) []placement {
	places := make([]placement, services)
	tables := map[string]hashring.Table{} // by who may be given buckets
	for service := range places {
		best := v.best(service)
		sole, single := v.soles[service]
		members := make([]hashring.Member, len(v.members))
		fit := make([]byte, len(v.members))
		for i, m := range v.members {
			members[i] = hashring.Member{Name: m.Name, Weight: m.Weight}
			if best > rankNever && m.rank(service) == best && (!single || m.Name == sole) {
				members[i].Fit, fit[i] = true, 1
			}
		}
		table, ok := tables[string(fit)]
		if !ok {
			table = placer.Place(members)
			tables[string(fit)] = table
		}
		places[service] = placement{table: table, rank: best}
	}
	return places
}
