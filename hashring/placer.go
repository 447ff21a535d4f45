package hashring

import (
	"fmt"
	"slices"
	"strings"
)

// Placer places the buckets among members again and again, and keeps what each member
// costs for each bucket: it depends on name and weight alone, and to compute it is most of
// the work. A change of one member costs the hashes of one. It must be used by one
// goroutine.
type Placer struct {
	buckets int
	costs   []uint64 // of bucket b in column c at b*stride + c
	stride  int
	columns map[string]column
	used    uint64 // counts the placements
}

// column is where the costs of a member are.
type column struct {
	index  int
	weight int64
	used   uint64 // the last placement that needed it
}

// NewPlacer returns a placer of that many buckets.
func NewPlacer(buckets int) *Placer {
	return &Placer{buckets: buckets, columns: map[string]column{}}
}

// Place says which member owns which bucket, as the function Place does.
func (p *Placer) Place(members []Member) Table {
	ms := slices.Clone(members)
	slices.SortFunc(ms, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })

	t := Table{
		names:  make([]string, len(ms)),
		owners: make([]int32, p.buckets),
		counts: make([]int, len(ms)),
	}
	weights := make([]int64, len(ms))
	fit := make([]int64, len(ms)) // weight of the fit, 0 for the others
	for i, m := range ms {
		if m.Name == "" || i > 0 && t.names[i-1] == m.Name {
			panic(fmt.Sprintf("hashring: placing two members of the name %q, or one without", m.Name))
		}
		t.names[i] = m.Name
		weights[i] = int64(min(max(m.Weight, 0), MaxWeight))
		if m.Fit {
			fit[i] = weights[i]
		}
	}

	for b := range t.owners {
		t.owners[b] = nobody
	}
	if sum(fit) == 0 {
		return t
	}
	r := p.ranking(t.names, weights)

	all := make([]int32, p.buckets)
	for b := range all {
		all[b] = int32(b)
	}
	quota := apportion(p.buckets, weights, make([]int, len(ms)))
	r.match(all, quota, t.owners)

	var orphans []int32
	for b, owner := range t.owners {
		if fit[owner] == 0 {
			orphans = append(orphans, int32(b))
			continue
		}
		t.counts[owner]++
	}
	room := apportion(len(orphans), fit, t.counts)
	r.match(orphans, room, t.owners)
	for i := range room {
		t.counts[i] += room[i]
	}
	return t
}

// ranking has the costs of all members of a weight. The columns of others are given up when
// the room is needed, those first that were not used for longest.
func (p *Placer) ranking(names []string, weights []int64) ranking {
	p.used++
	var fresh []int
	for m, name := range names {
		c, ok := p.columns[name]
		switch {
		case weights[m] == 0:
		case !ok || c.weight != weights[m]:
			fresh = append(fresh, m)
			fallthrough
		default:
			if ok {
				c.used = p.used
				p.columns[name] = c
			}
		}
	}
	for _, m := range fresh {
		c, ok := p.columns[names[m]]
		if !ok {
			c.index = p.room(len(names))
		}
		c.weight, c.used = weights[m], p.used
		p.columns[names[m]] = c
		s := newScorer(names[m], c.weight)
		for b := range p.buckets {
			p.costs[b*p.stride+c.index] = s.cost(b)
		}
	}
	r := ranking{stride: p.stride, costs: p.costs, columns: make([]int32, len(names))}
	for m, name := range names {
		r.columns[m] = nobody
		if weights[m] > 0 {
			r.columns[m] = int32(p.columns[name].index)
		}
	}
	return r
}

// room returns a column that is free: there are as many as the placement has members, and
// some more, so that who comes back finds its costs.
func (p *Placer) room(members int) int {
	if len(p.columns) < p.stride {
		taken := make([]bool, p.stride)
		for _, c := range p.columns {
			taken[c.index] = true
		}
		return slices.Index(taken, false)
	}
	oldest, found := "", false
	for name, c := range p.columns {
		if c.used == p.used {
			continue
		}
		if o := p.columns[oldest]; !found || c.used < o.used || c.used == o.used && name < oldest {
			oldest, found = name, true
		}
	}
	if found && p.stride > members {
		index := p.columns[oldest].index
		delete(p.columns, oldest)
		return index
	}
	// Wider: one and a half times what is needed.
	stride := members + members/2 + 1
	costs := make([]uint64, p.buckets*stride)
	for b := range p.buckets {
		copy(costs[b*stride:], p.costs[b*p.stride:][:p.stride])
	}
	free := p.stride
	p.costs, p.stride = costs, stride
	return free
}
