package nft

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/peervip/peervip/node"
)

const natPort = 9000

// container puts a server behind destination NAT, as a container's published port
// is: a namespace of its own, which the node routes to.
func (w *wire) container(i int) {
	w.t.Helper()
	ns, inside := w.nodes[i], namespace(w.t, "i")
	ip(w.t, ns, "link add inside type veth peer name eth0 netns "+inside.Name, "addr add 10.88.0.1/24 dev inside", "link set inside up")
	ip(w.t, inside, "addr add 10.88.0.2/24 dev eth0", "link set eth0 up", "route add default via 10.88.0.1")
	sysctl(w.t, ns, "ipv4/ip_forward", "1")
	run(w.t, ns, "nft add table ip nat")
	run(w.t, ns, "nft add chain ip nat c { type nat hook prerouting priority dstnat; }")
	run(w.t, ns, fmt.Sprintf("nft add rule ip nat c ip daddr %s tcp dport %d dnat to 10.88.0.2", vip, natPort))
	holder(w.t, inside, "tcp4", fmt.Sprintf("10.88.0.2:%d", natPort))
}

// The states hold for servers behind destination NAT: the tag is read before it,
// and resets are looked at after the way back through it.
func TestServersBehindDestinationNAT(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerTCP
	w := newWire(t, 1)
	ns := w.nodes[0]
	w.container(0)
	f := installed(t, ns, s)
	commit(t, f, allBuckets(s, node.Own)...)
	from := clientAddr(1)
	c := opens(t, w.client, from.String(), fmt.Sprintf("%s:%d", vip, natPort))
	commit(t, f, allBuckets(s, node.Linger)...)
	before := counters(t, f)
	if _, err := c.Write([]byte("still there?")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection goes on", func() bool {
		return counters(t, f).Services[0].Accepted[node.Linger].Packets > before.Services[0].Accepted[node.Linger].Packets
	})
	if live := watched(t, ns, NewWatch(s), slots(s, s.Layout.Bucket(from))); len(live) != 1 {
		t.Errorf("live: %v", live)
	}
	if got := destroy(t, ns, func(f Flow) bool { return f.Client.Addr() == from }); got != (Destroyed{Flows: 1}) {
		t.Errorf("destroyed %+v, want a flow", got)
	}
}

// segment is a TCP segment that the client sees.
type segment struct {
	from netip.Addr
	layers.TCP
}

// segments yields those that come to the client, until the time is up.
func (w *wire) segments(within time.Duration) func(func(segment) bool) {
	port := w.packetPort(w.client)
	if err := port.SetReadDeadline(time.Now().Add(within)); err != nil {
		w.t.Fatal(err)
	}
	return func(yield func(segment) bool) {
		buf := make([]byte, 2000)
		for {
			n, _, err := port.ReadFrom(buf)
			if err != nil {
				return
			}
			p := gopacket.NewPacket(buf[:n], layers.LayerTypeEthernet, gopacket.Default)
			ip, isIP := p.NetworkLayer().(*layers.IPv4)
			tcp, isTCP := p.TransportLayer().(*layers.TCP)
			if !isIP || !isTCP {
				continue
			}
			from, _ := netip.AddrFromSlice(ip.SrcIP.To4())
			if !yield(segment{from, *tcp}) {
				return
			}
		}
	}
}

// Of a handshake that is not complete, no reset leaves for a segment that makes no
// sense here, while the bucket moves; in a bucket that this node owns it does.
func TestResetsOfUnfinishedHandshakesAreHeld(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerTCP
	w := newWire(t, 1)
	w.container(0)
	f := installed(t, w.nodes[0], s)
	// The client's stack knows nothing of this handshake, and must not say so.
	run(t, w.client, "nft add table inet silence")
	run(t, w.client, "nft add chain inet silence c { type filter hook output priority -400; }")
	run(t, w.client, "nft add rule inet silence c tcp flags & rst == rst drop")
	w.packetPort(w.client) // listens from now on
	clientPort := layers.TCPPort(20000)
	for _, port := range []layers.TCPPort{tcpPort, natPort} {
		for _, state := range []node.State{node.Adopt, node.Linger, node.Own} {
			clientPort++
			send := func(t layers.TCP) {
				t.SrcPort, t.DstPort, t.Window = clientPort, port, 1000
				w.send(packetTo{protocol: layers.IPProtocolTCP}, &t)
			}
			commit(t, f, allBuckets(s, node.Own)...)
			send(layers.TCP{SYN: true, Seq: 1000})
			var theirs uint32
			for got := range w.segments(soon) {
				if got.from == vip && got.SYN && got.ACK && got.DstPort == clientPort {
					theirs = got.Seq
					break
				}
			}
			if theirs == 0 {
				t.Fatalf("port %d: no answer to a SYN", port)
			}
			commit(t, f, allBuckets(s, state)...)
			before := counters(t, f).ResetsHeld.Packets
			send(layers.TCP{ACK: true, Seq: 1001, Ack: theirs - 1<<20}) // the other node's number
			reset := false
			within := never
			if state == node.Own {
				within = soon
			}
			for got := range w.segments(within) {
				if reset = got.from == vip && got.RST && got.DstPort == clientPort; reset {
					break
				}
			}
			held := counters(t, f).ResetsHeld.Packets - before
			if want := state == node.Own; reset != want || (held == 1) == want {
				t.Errorf("port %d, %s: reset %t, %d held", port, state, reset, held)
			}
		}
	}
	// A closed port refuses connections in a bucket that moves, too.
	commit(t, f, allBuckets(s, node.Adopt)...)
	w.send(packetTo{protocol: layers.IPProtocolTCP}, &layers.TCP{SrcPort: 30000, DstPort: 81, SYN: true, Seq: 1, Window: 1000})
	refused := false
	for got := range w.segments(soon) {
		if refused = got.RST && got.DstPort == 30000; refused {
			break
		}
	}
	if !refused {
		t.Error("a connection to a closed port is not refused")
	}
}
