package nft

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/node"
)

// beaconSocket listens for beacons on the VIP.
func beaconSocket(t testing.TB, ns *lab.Namespace) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	err := ns.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", netip.AddrPortFrom(vip, beaconPort).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// received says from where a beacon comes within the time, if one does.
func received(t testing.TB, conn net.PacketConn, within time.Duration) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(within))
	_, from, err := conn.ReadFrom(make([]byte, 100))
	if err != nil {
		return ""
	}
	return from.(*net.UDPAddr).IP.String()
}

func setPeers(t testing.TB, f *Filter, peers ...string) {
	t.Helper()
	var addrs []netip.Addr
	for _, p := range peers {
		addrs = append(addrs, netip.MustParseAddr(p))
	}
	if err := f.SetPeers(addrs); err != nil {
		t.Fatal(err)
	}
}

// Every node gets every peer's beacons, on the path of a client's packets, though
// it has neither buckets nor a lease.
func TestBeaconsReachEveryNode(t *testing.T) {
	s := leaseSpec(150 * time.Millisecond)
	s.VIPs = append(s.VIPs, netip.MustParseAddr("10.77.0.101"))
	w := newWire(t, 3)
	var filters []*Filter
	var sockets []net.PacketConn
	for _, ns := range w.nodes {
		f := installed(t, ns, s)
		setPeers(t, f, "10.77.0.1", "10.77.0.2", "10.77.0.3")
		filters, sockets = append(filters, f), append(sockets, beaconSocket(t, ns))
	}
	for from := range w.nodes {
		w.send(w.beaconFrom(from), beacon()...)
		want := w.beaconFrom(from).from.String()
		for to, conn := range sockets {
			if to == from {
				continue
			}
			if got := received(t, conn, soon); got != want {
				t.Errorf("node %d receives a beacon from %q, want %s", to, got, want)
			}
		}
	}
	for to, f := range filters {
		c := counters(t, f)
		size := uint64(20 + 8 + len("sixteen or more bytes"))
		want := BeaconCounters{BySource: map[netip.Addr]Counter{}}
		for from := range w.nodes {
			want.BySource[w.beaconFrom(from).from] = Counter{1, size}
		}
		want.BySource[w.beaconFrom(to).from] = Counter{}
		if diff := cmp.Diff(want, c.Beacons); diff != "" {
			t.Errorf("node %d counted (-want +got):\n%s", to, diff)
		}
		if c.Accepted().Packets != 0 || c.Dropped().Packets != 0 {
			t.Errorf("node %d counted beacons as clients' packets: %+v", to, c)
		}
		if left := flows(t, w.nodes[to], vip); len(left) != 0 {
			t.Errorf("node %d tracks beacons: %v", to, left)
		}
	}
}

// What a router has sent on, or comes in pieces, or not to the cluster MAC, is no
// beacon, even if this node has its bucket.
func TestForeignBeaconsAreDropped(t *testing.T) {
	s := leaseSpec(time.Hour)
	w := newWire(t, 1)
	ns := w.nodes[0]
	f := installed(t, ns, s)
	arm(t, f, allBuckets(s, node.Own)...)
	from := netip.MustParseAddr("10.77.0.2")
	setPeers(t, f, from.String())
	conn := beaconSocket(t, ns)
	mac := must(net.ParseMAC(w.nodeMAC(0)))
	ip(t, w.client, "addr add "+from.String()+"/16 dev eth0") // or the stack looks in vain for whom it came from
	for i, test := range []struct {
		what string
		packetTo
	}{
		{"through a router", packetTo{ttl: 254}},
		{"with a client's TTL", packetTo{ttl: 64}},
		{"with no TTL", packetTo{ttl: 1}},
		{"in pieces", packetTo{ttl: 255, pieces: true}},
		{"to the NIC's own MAC", packetTo{ttl: 255, mac: mac}},
	} {
		test.from, test.protocol = from, layers.IPProtocolUDP
		w.send(test.packetTo, beacon()...)
		eventually(t, "it is counted: "+test.what, func() bool { return counters(t, f).Beacons.Foreign.Packets == uint64(i+1) })
	}
	w.send(packetTo{ttl: 255, from: from, protocol: layers.IPProtocolUDP}, &layers.UDP{SrcPort: 1, DstPort: beaconPort}, gopacket.Payload("the first that passes"))
	conn.SetReadDeadline(time.Now().Add(soon))
	buf := make([]byte, 100)
	n, _, err := conn.ReadFrom(buf)
	if got := string(buf[:n]); err != nil || got != "the first that passes" {
		t.Errorf("received %q, error %v", got, err)
	}
	if c := counters(t, f).Beacons; c.Accepted().Packets != 1 || c.BySource[from].Packets != 1 {
		t.Errorf("counted %+v", c)
	}
}

func TestPeersMayChangeWhileTheyAreCounted(t *testing.T) {
	s := leaseSpec(time.Hour)
	w := newWire(t, 1)
	f := installed(t, w.nodes[0], s)
	sources := func() string {
		var all []string
		for addr, c := range counters(t, f).Beacons.BySource {
			all = append(all, fmt.Sprintf("%s:%d", addr, c.Packets))
		}
		return strings.Join(sorted(all), " ")
	}
	hear := func(addr string) {
		p := packetTo{ttl: 255, protocol: layers.IPProtocolUDP, from: netip.MustParseAddr(addr)}
		before := counters(t, f).Beacons.Accepted()
		w.send(p, beacon()...)
		eventually(t, "it is counted", func() bool { return counters(t, f).Beacons.Accepted() != before })
	}
	setPeers(t, f, "10.77.0.2", "10.77.0.3")
	hear("10.77.0.2")
	hear("10.77.0.3")
	setPeers(t, f, "10.77.0.3", "10.77.0.4", "10.77.0.4")
	hear("10.77.0.2")
	hear("10.77.0.4")
	if got, want := sources(), "10.77.0.3:1 10.77.0.4:1"; got != want {
		t.Errorf("counted %s, want %s", got, want)
	}
	if got := counters(t, f).Beacons.Unknown.Packets; got != 1 {
		t.Errorf("%d from unknown sources", got)
	}
	setPeers(t, f, "10.77.0.4", "10.77.0.3")
	if err := f.Reinstall(); err != nil {
		t.Fatal(err)
	}
	if got, want := sources(), "10.77.0.3:0 10.77.0.4:0"; got != want {
		t.Errorf("after Reinstall %s, want %s", got, want)
	}
	f.peers = nil // as after an answer that was lost
	setPeers(t, f, "10.77.0.5")
	if got, want := sources(), "10.77.0.5:0"; got != want {
		t.Errorf("after a lost answer %s, want %s", got, want)
	}
	setPeers(t, f)
	if got := sources(); got != "" {
		t.Errorf("no peers: %s", got)
	}

	var many []netip.Addr
	for i := range PeerLimit + 1 {
		many = append(many, netip.AddrFrom4([4]byte{10, 78, byte(i >> 8), byte(i)}))
	}
	for range 10 { // what is deleted still counts for a while
		if err := f.SetPeers(many[:PeerLimit]); err != nil {
			t.Fatal(err)
		}
		setPeers(t, f)
	}
	for want, peers := range map[string][]netip.Addr{
		"setting 257 peers: there is room for 256":    many,
		"setting 1 peers: fe80::1 is not an IPv4":     {netip.MustParseAddr("fe80::1")},
		"setting 1 peers: invalid IP is not an IPv4 ": {{}},
	} {
		if err := f.SetPeers(peers); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if err := installed(t, host(t), testSpec()).SetPeers(nil); err == nil || !strings.Contains(err.Error(), "without a beacon port") {
		t.Errorf("error %v", err)
	}
}

// The cluster must not need room in a full conntrack table, on either medium.
func TestBeaconsAreNotTracked(t *testing.T) {
	w := newWire(t, 2)
	for _, ns := range w.nodes {
		installed(t, ns, leaseSpec(time.Hour))
	}
	sendsUDP(t, w.nodes[0], beaconPort, "10.77.0.2", beaconPort)
	w.send(w.beaconFrom(0), beacon()...)
	w.send(packetTo{in: w.nodes[0], from: w.beaconFrom(0).from, ttl: 255, protocol: layers.IPProtocolUDP}, &layers.UDP{SrcPort: 9, DstPort: beaconPort}, gopacket.Payload("from any port"))
	sendsUDP(t, w.nodes[0], beaconPort+1, "10.77.0.2", beaconPort+1)
	for i, ns := range w.nodes {
		var tracked string
		eventually(t, fmt.Sprintf("node %d tracks the other port", i), func() bool {
			tracked = run(t, ns, "cat /proc/thread-self/net/nf_conntrack")
			return strings.Contains(tracked, fmt.Sprintf("dport=%d", beaconPort+1))
		})
		if strings.Contains(tracked, fmt.Sprintf("dport=%d ", beaconPort)) {
			t.Errorf("node %d tracks beacons:\n%s", i, tracked)
		}
	}
}
