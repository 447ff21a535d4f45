package nft

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"

	"github.com/peervip/peervip/node"
)

// slot is a bucket of a service.
type slot struct{ service, bucket int }

// listed is a flow in one of the sets of listed flows.
type listed struct {
	set, key string
}

// lists are the listed flows of each bucket.
type lists map[slot]map[listed]bool

// listEdit is a change of lists: what leaves, and then what comes.
type listEdit struct{ gone, come map[listed]slot }

func (e listEdit) empty() bool { return len(e.gone) == 0 && len(e.come) == 0 }

// editLists returns what the transaction, which brings the buckets to the states
// after it, does to the lists.
func (f *Filter) editLists(moves []move, t Transaction, after states) (listEdit, error) {
	edit := listEdit{map[listed]slot{}, map[listed]slot{}}
	for _, m := range moves {
		of := slot{m.service, m.bucket}
		for flow := range f.listed[of] {
			edit.gone[flow] = of
		}
	}
	for _, flow := range t.Unlist {
		of := f.rules.spec.slotOf(flow)
		if l, ok := f.rules.spec.listing(flow); ok && f.listed[of][l] {
			edit.gone[l] = of
		}
	}
	for _, flow := range t.List {
		of := f.rules.spec.slotOf(flow)
		l, ok := f.rules.spec.listing(flow)
		if state := after[of.service][of.bucket]; !ok || state == node.Own || state == node.None {
			continue
		}
		_, leaving := edit.gone[l]
		if leaving {
			delete(edit.gone, l)
		} else if !f.listed[of][l] {
			edit.come[l] = of
		}
	}
	if n := f.listed.size() - len(edit.gone) + len(edit.come); n > listLimit {
		return listEdit{}, fmt.Errorf("%d flows would be listed, and there is room for %d: let the services that linger whole (linger: all) linger for tcp alone", n, listLimit)
	}
	return edit, nil
}

// slotOf returns the bucket that the flow belongs to. All traffic is the default
// service's.
func (s Spec) slotOf(f Flow) slot {
	return slot{len(s.Services) - 1, s.Layout.Bucket(f.Client.Addr())}
}

// listing returns how the flow is listed, if flows of its kind are.
func (s Spec) listing(f Flow) (listed, bool) {
	set, key, ok := listedAs(f)
	return listed{set, string(key)}, ok && s.Services[s.slotOf(f).service].Linger == LingerAll
}

func (l lists) size() int {
	n := 0
	for _, of := range l {
		n += len(of)
	}
	return n
}

func (l lists) apply(e listEdit) {
	for flow, of := range e.gone {
		delete(l[of], flow)
		if len(l[of]) == 0 {
			delete(l, of)
		}
	}
	for flow, of := range e.come {
		if l[of] == nil {
			l[of] = map[listed]bool{}
		}
		l[of][flow] = true
	}
}

func (l lists) after(e listEdit) lists {
	next := make(lists, len(l))
	for of, flows := range l {
		next[of] = maps.Clone(flows)
	}
	next.apply(e)
	return next
}

// elements are those of one set.
func (l lists) elements(set string) []nftables.SetElement {
	var all []nftables.SetElement
	for _, of := range l {
		for flow := range of {
			if flow.set == set {
				all = append(all, nftables.SetElement{Key: []byte(flow.key)})
			}
		}
	}
	return all
}

// lists are the table's sets of listed flows.
func (t table) lists() []set {
	return slices.DeleteFunc(slices.Clone(t.sets), func(s set) bool { return s.name != listedSet && s.name != listedPortless })
}

// queue queues the edit for the table.
func (e listEdit) queue(c *nftables.Conn, t table) error {
	if e.empty() {
		return nil
	}
	for _, s := range t.lists() {
		lib := s.native(t.native())
		if err := c.SetDeleteElements(lib, elementsOf(e.gone, s.name)); err != nil {
			return err
		}
		if err := c.SetAddElements(lib, elementsOf(e.come, s.name)); err != nil {
			return err
		}
	}
	return nil
}

func elementsOf(flows map[listed]slot, set string) []nftables.SetElement {
	var all []nftables.SetElement
	for flow := range flows {
		if flow.set == set {
			all = append(all, nftables.SetElement{Key: []byte(flow.key)})
		}
	}
	return all
}
