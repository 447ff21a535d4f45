package agent

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
)

// lingerWhole makes running agents, of which "a" has one flow in each bucket that it
// is asked for, or fails to list them.
func lingerWhole(t *testing.T, fails error) (*segment, map[string]*rig) {
	t.Helper()
	s, rigs := &segment{rigs: map[string]*rig{}}, map[string]*rig{}
	var talking atomic.Bool
	for _, name := range []string{"a", "b"} {
		r := newRig(t, name, func(c *Config) { c.Spec.Services[0].Linger = LingerAll })
		r.pick = func(protocols []uint8, slots hashring.Set, most int) (map[int][]nft.Flow, int, error) {
			flows := map[int][]nft.Flow{}
			for slot := range slots.All() {
				flows[slot] = []nft.Flow{someFlow(slot)}
			}
			return flows, 0, fails
		}
		r.live = func(slots, _ hashring.Set) (hashring.Set, error) {
			if !talking.Load() {
				return hashring.NewSet(slots.Cap()), nil
			}
			return slots, nil
		}
		s.add(r)
		rigs[name] = r.start()
	}
	for _, r := range rigs {
		r.loop.Event(gossip.Attempt{Reached: 1})
	}
	s.settled(t, rigs["a"], rigs["b"])
	talking.Store(true)
	for _, r := range rigs {
		r.filter.set(func(f *fakeFilter) { f.listed = nil })
	}
	return s, rigs
}

func someFlow(slot int) nft.Flow {
	return nft.Flow{
		Protocol: protocolUDP, Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(slot)}), 4000),
		VIP: netip.MustParseAddrPort("192.0.2.100:443"),
	}
}

// What the holder has listed, its heir lists too, before it takes the bucket's datagrams.
func TestListsGoFromKernelToKernel(t *testing.T) {
	t.Parallel()
	_, rigs := lingerWhole(t, nil)
	a, b := rigs["a"], rigs["b"]
	_, err := a.loop.wish(t.Context(), node.Wish{Node: "a", Want: node.WantDrain})
	must(t, err)
	var left []nft.Flow
	eventually(t, func() error {
		var wary int
		b.filter.set(func(f *fakeFilter) {
			for _, s := range f.states {
				if s == node.Wary {
					wary++
				}
			}
			left = slices.Clone(f.listed)
		})
		if n := b.filter.owned(); n != buckets || wary > 0 {
			return fmt.Errorf("b has %d buckets, and waits for the lists of %d", n, wary)
		}
		return nil
	})
	var kept []nft.Flow
	a.filter.set(func(f *fakeFilter) { kept = slices.Clone(f.listed) })
	if len(kept) != buckets/2 || !slices.Equal(kept, left) {
		t.Errorf("a lists %v, b %v", kept, left)
	}
}

// When flows cannot be listed, they move, and the bucket with them.
func TestBucketsMoveWithoutLists(t *testing.T) {
	t.Parallel()
	_, rigs := lingerWhole(t, errFake)
	a, b := rigs["a"], rigs["b"]
	_, err := a.loop.wish(t.Context(), node.Wish{Node: "a", Want: node.WantDrain})
	must(t, err)
	eventually(t, func() error {
		if n := b.filter.owned(); n != buckets {
			return fmt.Errorf("b has %d buckets", n)
		}
		return nil
	})
	eventually(t, func() error { // what it does goes before what it says
		if log := a.log.String(); !strings.Contains(log, "cannot be listed, and move at once: "+errFake.Error()) {
			return fmt.Errorf("logged: %s", log)
		}
		return nil
	})
}

// Protocols other than UDP are listed if flows of theirs were there lately.
func TestListsProtocolsThatWereSeen(t *testing.T) {
	var flows []nft.Flow
	a := flowsAgent(t, func() iter.Seq2[nft.Flow, error] {
		return func(yield func(nft.Flow, error) bool) {
			for _, f := range flows {
				if !yield(f, nil) {
					return
				}
			}
		}
	})
	var asked []uint8
	a.pick = func(protocols []uint8, slots hashring.Set, most int) (map[int][]nft.Flow, int, error) {
		asked = protocols
		return nil, 3, errors.New("never mind")
	}
	for _, test := range []struct {
		there, want []uint8
	}{
		{nil, []uint8{17}},
		{[]uint8{6, 132, 1, 17}, []uint8{17}},
		{[]uint8{47, 50, 47}, []uint8{17, 47, 50}},
		{nil, []uint8{17}},
	} {
		if test.there != nil || asked != nil { // the first time nothing was counted yet
			flows = nil
			for _, p := range test.there {
				flows = append(flows, nft.Flow{Protocol: p})
			}
			if _, _, err := a.countFlows(hashring.Set{}, hashring.Set{}); err != nil {
				t.Fatal(err)
			}
		}
		if answer := a.listFlows(node.ListFlows{}); answer.Beyond != 3 || answer.Err == nil || !slices.Equal(asked, test.want) {
			t.Errorf("with flows of the protocols %v: asked for %v, want %v; answered %+v", test.there, asked, test.want, answer)
		}
	}
}
