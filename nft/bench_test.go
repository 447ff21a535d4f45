package nft

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// One transaction that moves so many buckets, in both maps.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 341, 1024, 16384} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := testSpec()
			s.Layout.Buckets = hashring.MaxBuckets
			f := installed(b, host(b), s)
			own, adopt := allBuckets(s, node.Own)[:n], allBuckets(s, node.Adopt)[:n]
			for i := 0; b.Loop(); i++ {
				commit(b, f, [][]Change{own, adopt}[i%2]...)
			}
		})
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

// What a packet costs that this node does not answer, the sender's part
// included: with a bare drop, which is the floor, and with the filter.
func BenchmarkDroppedPacket(b *testing.B) {
	b.Run("bare drop", func(b *testing.B) {
		w := newLink(b)
		file := filepath.Join(b.TempDir(), "drop.nft")
		rules := `table netdev floor { chain c { type filter hook ingress device "eth0" priority -500; drop; }; }`
		if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
			b.Fatal(err)
		}
		run(b, w.receiver, "nft -f "+file)
		b.ReportMetric(w.send(b, b.N), "ns/packet")
	})
	b.Run("filter", func(b *testing.B) {
		w := newLink(b)
		s := testSpec()
		s.Layout.Buckets = 1024
		f := installed(b, w.receiver, s)
		own := allBuckets(s, node.Own)
		bucket := s.Layout.Bucket(clientAddr(0))
		commit(b, f, append(own[:bucket:bucket], own[bucket+1:]...)...) // all but the sender's
		b.ReportMetric(w.send(b, b.N), "ns/packet")
		if got := counters(b, f).Services[0].Dropped.Packets; got < uint64(b.N)*99/100 {
			b.Errorf("%d of %d packets were dropped by their bucket", got, b.N)
		}
	})
}

// link is two namespaces joined by a cable.
type link struct {
	sender, receiver *lab.Namespace
}

func newLink(b *testing.B) link {
	b.Helper()
	l := link{namespace(b, "s"), namespace(b, "r")}
	ip(b, l.sender, "link add eth0 type veth peer name eth0 netns "+l.receiver.Name, "link set eth0 up")
	ip(b, l.receiver, "link set eth0 up")
	eventually(b, "the cable is up", func() bool {
		return strings.Contains(run(b, l.sender, "ip link show eth0"), "state UP")
	})
	return l
}

// send sends n 60-byte UDP frames to the VIP from one core, and returns the
// nanoseconds that each took: of the fastest run of many, since whatever else
// the machine does only adds to them.
func (l link) send(b testing.TB, n int) float64 {
	b.Helper()
	best := math.Inf(1)
	frame := append(append(append([]byte{}, vipMAC...), 2, 0, 0, 0, 0, 1, 8, 0),
		0x45, 0, 0, 46, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
	client, destination := clientAddr(0).As4(), vip.As4()
	frame = append(append(frame, client[:]...), destination[:]...)
	frame = append(frame, make([]byte, 60-len(frame))...)
	err := l.sender.Do(func() error {
		var one unix.CPUSet
		one.Set(runtime.NumCPU() - 1)
		if err := unix.SchedSetaffinity(0, &one); err != nil { // of this thread, which ends with Do
			return err
		}
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: eth0.Index, Protocol: 0x0008}); err != nil {
			return err
		}
		for left := n; left > 0; {
			burst := min(left, 5000)
			start := time.Now()
			for range burst {
				if _, err := unix.Write(fd, frame); err != nil {
					return err
				}
			}
			best = min(best, float64(time.Since(start).Nanoseconds())/float64(burst))
			left -= burst
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return best
}
