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

func flowsAgent(t *testing.T, flows flowLister) *agent {
	layout, err := hashring.NewLayout("test", 0, 1024)
	must(t, err)
	return &agent{cfg: Config{Spec: Spec{Services: make([]Service, 1)}}, layout: layout, flows: flows}
}

func TestCountFlows(t *testing.T) {
	counts, err := flowsAgent(t, sevenFlows).countFlows()
	must(t, err)
	if len(counts) != 1 || counts[0] != 7 {
		t.Errorf("counted %v, want 7: a connection that is closing is none", counts)
	}
}

func TestFlowsThatCannotBeListed(t *testing.T) {
	broken := errors.New("no conntrack")
	a := flowsAgent(t, func() iter.Seq2[nft.Flow, error] {
		return func(yield func(nft.Flow, error) bool) { yield(nft.Flow{}, broken) }
	})
	if _, err := a.countFlows(); !errors.Is(err, broken) {
		t.Errorf("counting: %v", err)
	}
}
