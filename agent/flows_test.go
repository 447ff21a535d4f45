package agent

import (
	"errors"
	"iter"
	"net/netip"
	"testing"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
)

// sevenFlows are three open connections of two clients, one that is closing, and
// four datagram flows.
func sevenFlows() iter.Seq2[nft.Flow, error] {
	return func(yield func(nft.Flow, error) bool) {
		for _, f := range []nft.Flow{
			{Client: netip.MustParseAddrPort("192.0.2.200:1"), Protocol: protocolTCP, Established: true},
			{Client: netip.MustParseAddrPort("192.0.2.200:2"), Protocol: protocolTCP, Established: true},
			{Client: netip.MustParseAddrPort("192.0.2.201:1"), Protocol: protocolTCP, Established: true},
			{Client: netip.MustParseAddrPort("192.0.2.202:1"), Protocol: protocolTCP},
			{Client: netip.MustParseAddrPort("192.0.2.203:1"), Protocol: 17},
			{Client: netip.MustParseAddrPort("192.0.2.203:2"), Protocol: 17},
			{Client: netip.MustParseAddrPort("192.0.2.203:3"), Protocol: 17},
			{Client: netip.MustParseAddrPort("192.0.2.204:0"), Protocol: 1},
		} {
			if !yield(f, nil) {
				return
			}
		}
	}
}

// connectionsLinger is nft.Spec.Lingers of one service that lingers for TCP.
func connectionsLinger(layout hashring.Layout) func(nft.Flow, hashring.Set) (int, bool) {
	return func(f nft.Flow, _ hashring.Set) (int, bool) {
		return layout.Bucket(f.Client.Addr()), f.Protocol == protocolTCP && f.Established
	}
}

func flowsAgent(t *testing.T, flows flowLister) *agent {
	layout, err := hashring.NewLayout("test", 0, 1024)
	must(t, err)
	return &agent{cfg: Config{Spec: Spec{Services: make([]Service, 1)}}, layout: layout, flows: flows, lingers: connectionsLinger(layout)}
}

func TestCountFlows(t *testing.T) {
	a := flowsAgent(t, sevenFlows)
	counts, waiting, err := a.countFlows(hashring.Set{}, hashring.Set{})
	must(t, err)
	if len(counts) != 1 || counts[0] != 7 || waiting != 0 {
		t.Errorf("counted %v, want 7: a connection that is closing is none; waits for %d, and waits for nobody", counts, waiting)
	}
	one := hashring.NewSet(1024)
	one.Add(a.layout.Bucket(netip.MustParseAddr("192.0.2.200")))
	if _, waiting, err = a.countFlows(one, hashring.NewSet(1024)); err != nil || waiting != 2 {
		t.Errorf("waits for %d connections of one bucket, want 2 (%v)", waiting, err)
	}
}

func TestFlowsThatCannotBeListed(t *testing.T) {
	broken := errors.New("no conntrack")
	a := flowsAgent(t, func() iter.Seq2[nft.Flow, error] {
		return func(yield func(nft.Flow, error) bool) { yield(nft.Flow{}, broken) }
	})
	if _, _, err := a.countFlows(hashring.Set{}, hashring.Set{}); !errors.Is(err, broken) {
		t.Errorf("counting: %v", err)
	}
}
