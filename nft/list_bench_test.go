package nft

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// What new datagram flows wait for under `linger: all` when buckets move: the listing of
// some among a hundred thousand connections, and a transaction on either side that
// brings 341 buckets to a state with these flows listed.
func BenchmarkListedFlows(b *testing.B) {
	const connections = 100000
	s := testSpec()
	s.Services[0].Linger, s.Layout.Buckets = LingerAll, 1024
	moving := hashring.NewSet(s.Layout.Buckets)
	linger, own := []Change(nil), []Change(nil)
	for i := range 341 {
		moving.Add(3 * i)
		linger = append(linger, Change{Bucket: 3 * i, State: node.Linger})
		own = append(own, Change{Bucket: 3 * i, State: node.Own})
	}
	ns := trackingHost(b)
	all := make([]Flow, connections)
	for i := range all {
		all[i] = flowOf(netip.AddrFrom4([4]byte{10, 78, byte(i >> 8), byte(i)}), unix.IPPROTO_TCP)
		all[i].VIP = netip.AddrPortFrom(vip, uint16(443+i>>16))
	}
	track(b, ns, nl.TCP_CONNTRACK_ESTABLISHED, all...)
	for _, listed := range []int{64, 1024, 8192} {
		var datagrams []Flow
		for client := netip.AddrFrom4([4]byte{10, 90, 0, 0}); len(datagrams) < listed; client = client.Next() {
			if moving.Has(s.Layout.Bucket(client)) {
				datagrams = append(datagrams, flowOf(client, unix.IPPROTO_UDP))
			}
		}
		track(b, ns, 0, datagrams...)
		b.Run(fmt.Sprintf("list/%d", listed), func(b *testing.B) {
			for b.Loop() {
				err := ns.Do(func() error {
					bySlot, _, err := ListFlows(s, []uint8{unix.IPPROTO_UDP}, moving, listed)
					if err == nil && len(bySlot) < 60 {
						err = fmt.Errorf("flows of %d slots only", len(bySlot))
					}
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("commit/%d", listed), func(b *testing.B) {
			f := installed(b, host(b), s)
			for b.Loop() {
				apply(b, f, Transaction{Changes: linger, List: datagrams})
				b.StopTimer()
				apply(b, f, Transaction{Changes: own})
				b.StartTimer()
			}
		})
		for _, f := range datagrams {
			forgetFlow(b, ns, f)
		}
	}
}
