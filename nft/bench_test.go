package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/node"
)

// One transaction that moves so many buckets, in all maps.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 341, 1024, 16384} {
		for _, step := range []struct{ from, to node.State }{
			{node.Own, node.Linger}, {node.None, node.Adopt}, {node.Adopt, node.Own}, {node.Linger, node.None},
		} {
			b.Run(fmt.Sprintf("%d from %s to %s", n, step.from, step.to), func(b *testing.B) {
				s := leaseSpec(time.Hour)
				s.Layout.Buckets = max(n, 1024)
				f := installed(b, host(b), s)
				from, to := allBuckets(s, step.from)[:n], allBuckets(s, step.to)[:n]
				arm(b, f)
				best := time.Hour
				for b.Loop() {
					b.StopTimer()
					commit(b, f, from...)
					b.StartTimer()
					start := time.Now()
					commit(b, f, to...)
					best = min(best, time.Since(start))
				}
				b.ReportMetric(float64(best.Microseconds()), "best-us")
			})
		}
	}
}

// What a lease costs beside a commit.
func BenchmarkArm(b *testing.B) {
	f := installed(b, host(b), leaseSpec(time.Hour))
	for b.Loop() {
		arm(b, f)
	}
}

func BenchmarkInstallAndClose(b *testing.B) {
	ns := host(b)
	rules := must(Compile(testSpec()))
	for b.Loop() {
		f := must(openIn(ns))
		if err := errors.Join(f.Install(rules), f.Close()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEnsureGuard(b *testing.B) {
	f := installed(b, host(b), testSpec())
	for b.Loop() {
		if restored, err := f.EnsureGuard(); restored || err != nil {
			b.Fatal(restored, err)
		}
	}
}

func BenchmarkCounters(b *testing.B) {
	f := installed(b, host(b), testSpec())
	for b.Loop() {
		counters(b, f)
	}
}

// Listing a hundred flows to the VIP among fifty thousand others.
func BenchmarkFlows(b *testing.B) {
	const decoys, mine = 50000, 100
	ns := namespace(b, "f")
	other := netip.MustParseAddr("10.77.0.1")
	for _, addr := range []netip.Addr{vip, other} {
		ip(b, ns, fmt.Sprintf("addr add %s/32 dev lo", addr))
	}
	run(b, ns, "nft add table inet t; add chain inet t c; add rule inet t c ct state new")
	err := ns.Do(func() error {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IP{127, 0, 0, 1}})
		if err != nil {
			return err
		}
		defer conn.Close()
		for i := range decoys {
			// Loopback takes any port; nobody listens, and the flow is known all the same.
			if _, err := conn.WriteToUDPAddrPort(nil, netip.AddrPortFrom(other, uint16(i+1))); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				return err
			}
		}
		for i := range mine {
			if _, err := conn.WriteToUDPAddrPort(nil, netip.AddrPortFrom(vip, uint16(i+1))); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	if got := len(flows(b, ns, other)); got != decoys {
		b.Fatalf("%d decoys are tracked, want %d", got, decoys)
	}
	for b.Loop() {
		if got := len(flows(b, ns, vip)); got != mine {
			b.Fatalf("%d flows, want %d", got, mine)
		}
	}
}
