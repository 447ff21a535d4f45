package nft

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func TestListFlowsOfSlots(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerAll
	ns := trackingHost(t)
	for b := range 4 {
		for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			track(t, ns, nl.TCP_CONNTRACK_ESTABLISHED, flowOf(clientIn(s, b), protocol))
		}
	}
	second := flowOf(clientIn(s, 2), unix.IPPROTO_UDP)
	second.Client = netip.AddrPortFrom(second.Client.Addr(), 2000)
	track(t, ns, 0, second)
	for _, test := range []struct {
		name      string
		protocols []uint8
		slots     []int
		most      int
		found     map[int]int
		beyond    int
	}{
		{"some slots", []uint8{unix.IPPROTO_UDP}, []int{1, 2, 9}, 10, map[int]int{1: 1, 2: 2}, 0},
		{"a protocol that is not listed", []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP}, []int{1}, 10, map[int]int{1: 1}, 0},
		{"a protocol twice", []uint8{unix.IPPROTO_UDP, unix.IPPROTO_UDP}, []int{2}, 10, map[int]int{2: 2}, 0},
		{"too many", []uint8{unix.IPPROTO_UDP}, []int{2}, 1, map[int]int{2: 1}, 1},
		{"no room", []uint8{unix.IPPROTO_UDP}, []int{1, 2}, 0, nil, 3},
		{"no protocol", nil, []int{1}, 10, nil, 0},
	} {
		var got map[int][]Flow
		var beyond int
		err := ns.Do(func() (err error) {
			got, beyond, err = ListFlows(s, test.protocols, slots(s, test.slots...), test.most)
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		same := len(got) == len(test.found)
		for slot, n := range test.found {
			same = same && len(got[slot]) == n
		}
		if !same || beyond != test.beyond {
			t.Errorf("%s: found %v and %d more, want %v and %d", test.name, got, beyond, test.found, test.beyond)
		}
	}
	s.Services[0].Linger = LingerTCP
	if got, _, err := ListFlows(s, []uint8{unix.IPPROTO_UDP}, slots(s, 1), 10); len(got) > 0 || err != nil {
		t.Errorf("of a service that lingers for TCP: %v, %v", got, err)
	}
	for protocol, want := range map[uint8]bool{
		unix.IPPROTO_UDP: true, unix.IPPROTO_GRE: true, unix.IPPROTO_TCP: false, unix.IPPROTO_SCTP: false, unix.IPPROTO_ICMP: false,
	} {
		if Listable(protocol) != want {
			t.Errorf("protocol %d is listable: %t", protocol, !want)
		}
	}
}
