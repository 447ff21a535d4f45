package nft

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/node"
)

// Rules of nft alone: what can be had at the least.
const (
	bareDrop   = `table netdev floor { chain c { type filter hook ingress device "eth0" priority -500; drop; }; }`
	bareAccept = `table netdev floor { chain c { type filter hook ingress device "eth0" priority -500; meta pkttype set host accept; }; }
table inet floor { chain c { ct state established accept; }; }`
)

// variant is rules that a packet is sent through.
type variant struct {
	name  string
	rules string // of nft alone, or
	spec  func(Spec) Spec
	state node.State // of the sender's bucket
	third node.State // of a third of the others; the rest is owned
	want  func(Counters) uint64
}

func bare(s Spec) Spec { return s }

func lingering(s Spec) Spec {
	s.Services[0].Linger = LingerTCP
	return s
}

func leased(s Spec) Spec {
	s.BeaconPort, s.LeaseMark, s.Lease = beaconPort, leaseMark, time.Hour
	return lingering(s)
}

func dropsOf(c Counters) uint64 { return c.Services[0].Dropped.Packets }

func acceptsIn(state node.State) func(Counters) uint64 {
	return func(c Counters) uint64 { return c.Services[0].Accepted[state].Packets }
}

// What a packet costs that this node does not answer, and one that it takes, the
// sender's part and, of the second kind, the stack's included.
func BenchmarkDroppedPacket(b *testing.B) {
	compare(b, []variant{
		{name: "nft-alone", rules: bareDrop},
		{name: "filter", spec: bare, state: node.None, third: node.Own, want: dropsOf},
		{name: "linger", spec: lingering, state: node.None, third: node.Own, want: dropsOf},
		{name: "lease", spec: leased, state: node.None, third: node.Own, want: dropsOf},
		{name: "third-adopted", spec: leased, state: node.None, third: node.Adopt, want: dropsOf},
	})
}

func BenchmarkAcceptedPacket(b *testing.B) {
	compare(b, []variant{
		{name: "nft-alone", rules: bareAccept},
		{name: "filter", spec: bare, state: node.Own, third: node.Own, want: acceptsIn(node.Own)},
		{name: "linger", spec: lingering, state: node.Own, third: node.Own, want: acceptsIn(node.Own)},
		{name: "lease", spec: leased, state: node.Own, third: node.Own, want: acceptsIn(node.Own)},
		{name: "third-adopted", spec: leased, state: node.Own, third: node.Adopt, want: acceptsIn(node.Own)},
		{name: "itself-adopted", spec: leased, state: node.Adopt, third: node.Adopt, want: acceptsIn(node.Adopt)},
	})
}

// compare sends each variant's packets in turn, and reports the nanoseconds that
// one took in its fastest turn, since whatever else the machine does only adds to
// them.
func compare(b *testing.B, variants []variant) {
	const turn = 300 // packets
	links, filters := make([]link, len(variants)), make([]*Filter, len(variants))
	best := make([]time.Duration, len(variants))
	for i, v := range variants {
		links[i], best[i] = newLink(b), time.Hour
		filters[i] = v.install(b, links[i])
	}
	var one unix.CPUSet
	one.Set(runtime.NumCPU() - 1)
	runtime.LockOSThread() // and the thread ends with the benchmark's goroutine
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		b.Fatal(err)
	}
	frame := udpFrame()
	turns := 0
	for b.Loop() {
		turns++
		for i, l := range links {
			start := time.Now()
			for range turn {
				if _, err := unix.Write(l.fd, frame); err != nil {
					b.Fatal(err)
				}
			}
			best[i] = min(best[i], time.Since(start))
		}
	}
	for i, v := range variants {
		b.ReportMetric(float64(best[i].Nanoseconds())/turn, v.name+"-ns")
		if f := filters[i]; f != nil && v.want(counters(b, f)) < uint64(turns*turn*99/100) {
			b.Errorf("%s: %d of %d packets were seen where they should", v.name, v.want(counters(b, f)), turns*turn)
		}
	}
	b.ReportMetric(0, "ns/op") // of all variants together
}

// install puts the variant's rules in place; of nft's own there is no filter.
func (v variant) install(b *testing.B, l link) *Filter {
	b.Helper()
	if v.rules != "" {
		file := filepath.Join(b.TempDir(), "rules.nft")
		if err := os.WriteFile(file, []byte(v.rules), 0o600); err != nil {
			b.Fatal(err)
		}
		run(b, l.receiver, "nft -f "+file)
		return nil
	}
	s := testSpec()
	s.Layout.Buckets = 1024
	s = v.spec(s)
	f := installed(b, l.receiver, s)
	changes := append(allBuckets(s, node.Own), third(s, v.third)...)
	changes = append(changes, Change{Bucket: s.Layout.Bucket(clientAddr(0)), State: v.state})
	if s.Lease != 0 {
		arm(b, f, changes...)
	} else {
		commit(b, f, changes...)
	}
	return f
}

// link is two namespaces joined by a cable, and a socket for frames at its end.
type link struct {
	sender, receiver *lab.Namespace
	fd               int
}

func newLink(b *testing.B) link {
	b.Helper()
	l := link{sender: namespace(b, "s"), receiver: namespace(b, "r")}
	ip(b, l.sender, "link add eth0 type veth peer name eth0 netns "+l.receiver.Name, "link set eth0 up")
	ip(b, l.receiver, "link set eth0 up", fmt.Sprintf("addr add %s/32 dev lo", vip), "route add default dev eth0")
	eventually(b, "the cable is up", func() bool {
		return strings.Contains(run(b, l.sender, "ip link show eth0"), "state UP")
	})
	// A server that is too slow: its socket takes what it has room for.
	var server net.PacketConn
	err := errors.Join(
		l.receiver.Do(func() (err error) {
			server, err = net.ListenPacket("udp4", fmt.Sprintf("%s:%d", vip, udpPort))
			return err
		}),
		l.sender.Do(func() error {
			eth0, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			if l.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); err != nil {
				return err
			}
			return unix.Bind(l.fd, &unix.SockaddrLinklayer{Ifindex: eth0.Index, Protocol: 0x0008})
		}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		server.Close()
		unix.Close(l.fd)
	})
	return l
}

// udpFrame is a frame of 60 bytes from the client to the server.
func udpFrame() []byte {
	p := packetTo{protocol: layers.IPProtocolUDP}
	return p.frames(&layers.UDP{SrcPort: 4000, DstPort: udpPort}, gopacket.Payload(make([]byte, 46-28)))[0]
}
