package nft

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/hashring"
)

// A hundred thousand connections in 1024 buckets, of which a third lingers: a list
// of all, and what a Watch asks.
func BenchmarkLiveFlows(b *testing.B) {
	const connections = 100000
	s := testSpec()
	s.Services[0].Linger, s.Layout.Buckets = LingerTCP, 1024
	ns := trackingHost(b)
	all := make([]Flow, connections)
	for i := range all {
		all[i] = flowOf(netip.AddrFrom4([4]byte{10, 78, byte(i >> 8), byte(i)}), unix.IPPROTO_TCP)
		all[i].VIP = netip.AddrPortFrom(vip, uint16(443+i>>16))
	}
	track(b, ns, nl.TCP_CONNTRACK_ESTABLISHED, all...)
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if got := len(flows(b, ns, vip)); got != connections {
				b.Fatalf("%d flows, want %d", got, connections)
			}
		}
	})
	b.Run("watch 341 slots", func(b *testing.B) {
		w := NewWatch(s)
		lingering := hashring.NewSet(s.Layout.Buckets)
		for slot := range 341 {
			lingering.Add(3 * slot)
		}
		watched(b, ns, w, lingering)
		for b.Loop() {
			if got := len(watched(b, ns, w, lingering)); got != 341 {
				b.Fatalf("%d slots live", got)
			}
		}
		if w.lists != 1 {
			b.Errorf("%d lists", w.lists)
		}
	})
}
