package nft

import (
	"errors"
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

const (
	soon  = 5 * time.Second        // in which an answer must come
	never = 300 * time.Millisecond // in which an answer that must not come would have
)

// split gives even buckets to the first filter and odd ones to the second, and
// returns who owns a client's.
func split(t testing.TB, s Spec, filters ...*Filter) func(netip.Addr) string {
	t.Helper()
	for i, f := range filters {
		var mine []Change
		for b := i; b < s.Layout.Buckets; b += len(filters) {
			mine = append(mine, Change{Bucket: b, State: node.Own})
		}
		commit(t, f, mine...)
	}
	return func(client netip.Addr) string { return fmt.Sprint(s.Layout.Bucket(client) % len(filters)) }
}

func TestExactlyTheOwnerAnswers(t *testing.T) {
	s := testSpec()
	w := newWire(t, 2)
	owner := split(t, s, installed(t, w.nodes[0], s), installed(t, w.nodes[1], s))
	seen := map[string]bool{}
	for i := range clientAddrs {
		from := clientAddr(i)
		want := owner(from)
		seen[want] = true
		if got := w.answers(from, 100, soon); got != want {
			t.Errorf("UDP from %s: answers %q, want %q", from, got, want)
		}
		if got := w.connects(from, soon); got != want {
			t.Errorf("TCP from %s: answers %q, want %q", from, got, want)
		}
		if got := w.pings(from, soon); got != 1 {
			t.Errorf("ping from %s: %d answers, want 1", from, got)
		}
	}
	if len(seen) != 2 {
		t.Errorf("the clients have buckets of %d owners; the test wants both", len(seen))
	}
}

func TestABucketWithoutStateIsSilent(t *testing.T) {
	s := testSpec()
	w := newWire(t, 1)
	f := installed(t, w.nodes[0], s)
	from := clientAddr(0)
	for _, state := range []node.State{node.None, node.Own, node.Adopt, node.Linger, node.Own, node.None} {
		commit(t, f, Change{Bucket: s.Layout.Bucket(from), State: state})
		want, wantPings, within := "", 0, never
		if state.AcceptsNew() {
			want, wantPings, within = "0", 1, soon
		}
		if got := w.answers(from, 100, within); got != want {
			t.Errorf("%s: UDP answers %q, want %q", state, got, want)
		}
		if got := w.connects(from, within); got != want {
			t.Errorf("%s: TCP answers %q, want %q", state, got, want)
		}
		if got := w.pings(from, within); got != wantPings {
			t.Errorf("%s: %d pings answered, want %d", state, got, wantPings)
		}
	}
}

// Fragments have no ports, so they are decided when they are whole: by the
// default service, in the bucket of their source, on exactly one node.
func TestFragmentedDatagramsAreAnsweredByExactlyTheOwner(t *testing.T) {
	s := testSpec()
	w := newWire(t, 2)
	filters := []*Filter{installed(t, w.nodes[0], s), installed(t, w.nodes[1], s)}
	owner := split(t, s, filters...)
	for _, size := range []int{4 << 10, 60 << 10} {
		for i := range clientAddrs {
			if got, want := w.answers(clientAddr(i), size, soon), owner(clientAddr(i)); got != want {
				t.Errorf("%d bytes from %s: answers %q, want %q", size, clientAddr(i), got, want)
			}
		}
	}
	for i, f := range filters {
		c := counters(t, f)
		if c.Fragments.Packets < 12*(3+41) || c.FragmentsDropped.Packets != 0 {
			t.Errorf("node %d: fragments %+v, dropped %+v", i, c.Fragments, c.FragmentsDropped)
		}
		if c.GuardUnmarked.Packets != 0 {
			t.Errorf("node %d: the guard had to drop %+v", i, c.GuardUnmarked)
		}
		all := c.Services[0].Accepted[node.Own].Packets + c.Services[0].Dropped.Packets
		if all != 2*clientAddrs {
			t.Errorf("node %d: %d datagrams counted, want %d", i, all, 2*clientAddrs)
		}
	}
}

// A unicast cluster MAC comes as somebody else's frame, which the stack would
// drop before it reassembles.
func TestUnicastClusterMAC(t *testing.T) {
	s := testSpec()
	s.ClusterMAC = net.HardwareAddr{0x02, 0xbf, 0x0a, 0x4d, 0, 0x64}
	w := newWire(t, 2)
	w.knows(vip, s.ClusterMAC.String())
	for _, ns := range w.nodes {
		ip(t, ns, "link set eth0 promisc on")
	}
	owner := split(t, s, installed(t, w.nodes[0], s), installed(t, w.nodes[1], s))
	for i := range clientAddrs {
		from := clientAddr(i)
		for _, size := range []int{100, 4 << 10} {
			if got, want := w.answers(from, size, soon), owner(from); got != want {
				t.Errorf("%d bytes from %s: answers %q, want %q", size, from, got, want)
			}
		}
		if got, want := w.connects(from, soon), owner(from); got != want {
			t.Errorf("TCP from %s: answers %q, want %q", from, got, want)
		}
	}
}

// Nothing but frames to the cluster MAC for a VIP is ours: the node's own
// address, other addresses in the same multicast MAC, ARP.
func TestOtherTrafficIsUntouched(t *testing.T) {
	s := testSpec()
	w := newWire(t, 1)
	ns := w.nodes[0]
	f := installed(t, ns, s) // owns nothing
	own := netip.MustParseAddr("10.77.0.1")

	run(t, w.client, "ping -c 1 -W 5 "+own.String())

	// 32 groups share a MAC: a member of another group gets its datagrams.
	group := netip.MustParseAddr("239.255.0.100") // 01:00:5e:7f:00:64
	var member net.PacketConn
	err := ns.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		member, err = net.ListenMulticastUDP("udp4", link, net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, 9999)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	ip(t, w.client, "route add 239.0.0.0/8 dev eth0")
	err = w.client.Do(func() error {
		conn, err := net.Dial("udp4", netip.AddrPortFrom(group, 9999).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("hello"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	member.SetReadDeadline(time.Now().Add(soon))
	if _, _, err := member.ReadFrom(make([]byte, 100)); err != nil {
		t.Errorf("another group with the cluster MAC: %v", err)
	}

	// A frame to the cluster MAC for an address that is no VIP goes its usual way:
	// the kernel takes it, since the frame is multicast and the address its own.
	w.knows(own, vipMAC.String())
	run(t, w.client, "ping -c 1 -W 5 "+own.String())

	if c := counters(t, f); c.Accepted().Packets != 0 || c.Dropped().Packets != 0 || c.ForeignMAC.Packets != 0 {
		t.Errorf("other traffic was counted as the VIP's: %+v", c)
	}
}

// A client that has a NIC's own MAC for the VIP (it cached it from an older VIP)
// reaches nobody else: it is served and counted.
func TestFramesWithAForeignMACAreServedAndCounted(t *testing.T) {
	s := testSpec()
	w := newWire(t, 2)
	filters := []*Filter{installed(t, w.nodes[0], s), installed(t, w.nodes[1], s)}
	owner := split(t, s, filters...)
	w.knows(vip, w.nodeMAC(0))
	var foreigner netip.Addr
	for i := range clientAddrs {
		if owner(clientAddr(i)) == "1" {
			foreigner = clientAddr(i)
		}
	}
	if got := w.answers(foreigner, 100, soon); got != "0" {
		t.Errorf("answers %q, want those of node 0, whose MAC it was", got)
	}
	if c := counters(t, filters[0]); c.ForeignMAC.Packets != 1 || c.Accepted().Packets != 0 {
		t.Errorf("counted foreign %+v, accepted %+v; want 1 and 0", c.ForeignMAC, c.Accepted())
	}
	// A multicast frame with another MAC came to everybody: the guard drops it.
	w.knows(vip, otherMAC)
	if got := w.answers(foreigner, 100, never); got != "" {
		t.Errorf("a multicast frame with another MAC is answered by %q", got)
	}
	w.send(packetTo{mac: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, protocol: layers.IPProtocolUDP},
		&layers.UDP{SrcPort: 9, DstPort: 100}, gopacket.Payload("to all"))
	for i, f := range filters {
		eventually(t, fmt.Sprintf("the guard of node %d drops two packets", i), func() bool { return counters(t, f).GuardUnmarked.Packets == 2 })
		// They hold no stale neighbour entry: who does sends to one node's own MAC.
		if c := counters(t, f); c.ForeignMAC.Packets != uint64(1-i) {
			t.Errorf("node %d counted %+v as foreign", i, c.ForeignMAC)
		}
	}
}

// Routers' addresses hash anywhere, and path MTU discovery needs their errors.
func TestICMPErrorsReachEveryNode(t *testing.T) {
	s := testSpec()
	w := newWire(t, 2)
	filters := []*Filter{installed(t, w.nodes[0], s), installed(t, w.nodes[1], s)} // nobody owns anything
	for _, kind := range []uint8{layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4TypeTimeExceeded, layers.ICMPv4TypeParameterProblem, layers.ICMPv4TypeEchoRequest} {
		w.send(packetTo{protocol: layers.IPProtocolICMPv4}, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0)}, gopacket.Payload(make([]byte, 36)))
	}
	for i, f := range filters {
		eventually(t, fmt.Sprintf("node %d has seen all four", i), func() bool {
			c := counters(t, f)
			return c.ICMPErrors.Packets == 3 && c.Services[0].Dropped.Packets == 1
		})
		if c := counters(t, f); c.GuardUnmarked.Packets != 0 {
			t.Errorf("node %d: the guard dropped %+v", i, c.GuardUnmarked)
		}
	}
}

// A node that routes would send a packet for a VIP that it no longer has back to
// the wire, again and again.
func TestVIPTrafficIsNotForwarded(t *testing.T) {
	s := testSpec()
	w := newWire(t, 1)
	ns := w.nodes[0]
	sysctl(t, ns, "ipv4/ip_forward", "1")
	f := installed(t, ns, s)
	commit(t, f, allBuckets(s, node.Own)...)
	ip(t, ns, fmt.Sprintf("addr del %s/32 dev lo", vip))
	if got := w.pings(clientAddr(0), never); got != 0 {
		t.Errorf("%d pings answered without the VIP", got)
	}
	if c := counters(t, f); c.GuardForwarded.Packets != 1 {
		t.Errorf("forwarding was stopped for %+v, want 1 packet", c.GuardForwarded)
	}
}

func TestOwnTrafficToTheVIPStaysLocal(t *testing.T) {
	s := testSpec()
	w := newWire(t, 2)
	f := installed(t, w.nodes[0], s) // owns nothing
	run(t, w.nodes[0], "ping -c 1 -W 5 "+vip.String())
	if c := counters(t, f); c.Dropped().Packets != 0 {
		t.Errorf("dropped %+v of the node's own", c.Dropped())
	}
}

func TestGossipIsNotTracked(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerTCP
	w := newWire(t, 2)
	installed(t, w.nodes[0], s)
	installed(t, w.nodes[1], s)
	for _, port := range []int{gossipPort, gossipPort + 1} {
		sendsUDP(t, w.nodes[0], port, "10.77.0.2", port)
	}
	for i, ns := range w.nodes {
		var tracked string
		eventually(t, fmt.Sprintf("node %d tracks the other port", i), func() bool {
			tracked = run(t, ns, "cat /proc/thread-self/net/nf_conntrack")
			return strings.Contains(tracked, fmt.Sprintf("dport=%d", gossipPort+1))
		})
		if strings.Contains(tracked, fmt.Sprintf("dport=%d ", gossipPort)) {
			t.Errorf("node %d tracks gossip:\n%s", i, tracked)
		}
	}
}

// sendsUDP sends one datagram from the namespace.
func sendsUDP(t testing.TB, ns *lab.Namespace, from int, to string, port int) {
	t.Helper()
	err := ns.Do(func() error {
		conn, err := net.DialUDP("udp4", &net.UDPAddr{Port: from}, &net.UDPAddr{IP: net.ParseIP(to), Port: port})
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte("hello"))
		return errors.Join(err, conn.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCountersAddUp(t *testing.T) {
	s := testSpec()
	w := newWire(t, 1)
	f := installed(t, w.nodes[0], s)
	from := clientAddr(0)
	bucket := s.Layout.Bucket(from)
	var other netip.Addr
	for i := range clientAddrs {
		if s.Layout.Bucket(clientAddr(i)) != bucket {
			other = clientAddr(i)
		}
	}
	commit(t, f, Change{Bucket: bucket, State: node.Own})
	w.answers(from, 100, soon)
	commit(t, f, Change{Bucket: bucket, State: node.Adopt})
	w.answers(from, 200, soon)
	w.answers(from, 4000, soon) // three fragments
	w.answers(other, 300, never)

	const headers = 20 + 8
	got := counters(t, f)
	want := Counters{
		Services: []ServiceCounters{{
			Accepted: map[node.State]Counter{
				node.Own:   {1, 100 + headers},
				node.Adopt: {2, 200 + 4000 + 2*headers},
			},
			Dropped: Counter{1, 300 + headers},
		}},
		Fragments: Counter{3, 4000 + 8 + 3*20},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if got.Accepted().Packets != 3 || got.Dropped().Packets != 1 {
		t.Errorf("sums: accepted %+v, dropped %+v", got.Accepted(), got.Dropped())
	}
}
