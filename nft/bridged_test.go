package nft

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/node"
)

// bridgeOn makes br0 of the node's interface, as on a host of virtual machines: the
// interface and a guest are ports of it, and it has the node's address. It returns the
// wire with the guest as the client.
func (w *wire) bridgeOn(i int, filtered bool, clusterMAC string) *wire {
	w.t.Helper()
	ns, own := w.nodes[i], fmt.Sprintf("10.77.0.%d/16", i+1)
	sysctl(w.t, ns, "bridge/bridge-nf-call-iptables", map[bool]string{true: "1", false: "0"}[filtered])
	ip(w.t, ns, "addr del "+own+" dev eth0", "link add br0 type bridge mcast_snooping 0 forward_delay 0",
		"link set eth0 master br0", "addr add "+own+" dev br0", "link set br0 up")
	if clusterMAC[1]&1 == 0 {
		ip(w.t, ns, "link set br0 promisc on")
	}
	guest := *w
	guest.client = namespace(w.t, fmt.Sprintf("g%d", i))
	ip(w.t, ns, "link add vnet0 type veth peer name eth0 netns "+guest.client.Name, "link set vnet0 master br0 up")
	ip(w.t, guest.client, "link set eth0 up", "addr add 10.77.0.200/16 dev eth0")
	for j := range clientAddrs {
		ip(w.t, guest.client, fmt.Sprintf("addr add 10.77.2.%d/16 dev eth0", j+1))
	}
	guest.knows(vip, clusterMAC)
	w.knows(vip, clusterMAC)
	ip(w.t, w.client, "neigh flush to "+own+" dev eth0")
	for _, on := range []*wire{w, &guest} {
		eventually(w.t, "the node is reached over its bridge", func() bool {
			_, err := on.client.Run("ping", "-c", "1", "-W", "1", own[:len(own)-3])
			return err == nil
		})
	}
	return &guest
}

func guestAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 2, byte(i + 1)}) }

var bridgedCases = []struct {
	name     string
	filtered bool
	mac      net.HardwareAddr
}{
	{"br_netfilter", true, vipMAC},
	{"br_netfilter, unicast cluster MAC", true, net.HardwareAddr{0x02, 0xbf, 0x0a, 0x4d, 0, 0x64}},
	{"no br_netfilter", false, vipMAC},
}

// Frames that a bridge of the node only forwards are none of its own. Guests
// behind it reach the VIP at whoever owns their buckets, and so do clients on the wire;
// also after the agent's death, when the guard alone is there.
func TestGuestsBehindANodesBridgeReachTheVIP(t *testing.T) {
	for _, c := range bridgedCases {
		t.Run(c.name, func(t *testing.T) {
			s := testSpec()
			s.ClusterMAC = c.mac
			s.Services[0].Linger = LingerTCP
			w := newWire(t, 2)
			guest := w.bridgeOn(0, c.filtered, c.mac.String())
			if c.mac[0]&1 == 0 {
				ip(t, w.nodes[1], "link set eth0 promisc on")
			}
			on := s
			on.Interface = "br0"
			f := installed(t, w.nodes[0], on)
			owner := split(t, s, f, installed(t, w.nodes[1], s))
			check := func(when string, expect func(from netip.Addr) string) {
				t.Helper()
				owners := map[string]bool{}
				for i := range 4 {
					for at, side := range map[netip.Addr]*wire{clientAddr(i): w, guestAddr(i): guest} {
						want, within, wantPings := expect(at), soon, 1
						if owners[want] = true; want == "" {
							within, wantPings = never, 0
						}
						if got := side.answers(at, 100, within); got != want {
							t.Errorf("%s: UDP from %s: answers %q, want %q", when, at, got, want)
						}
						if got := side.connects(at, within); got != want {
							t.Errorf("%s: TCP from %s: answers %q, want %q", when, at, got, want)
						}
						if i > 0 {
							continue
						}
						if got := side.answers(at, 4000, within); got != want {
							t.Errorf("%s: a datagram in fragments from %s: answers %q, want %q", when, at, got, want)
						}
						if got := side.pings(at, within); got != wantPings {
							t.Errorf("%s: ping from %s: %d answers, want %d", when, at, got, wantPings)
						}
					}
				}
				if len(owners) != 2 {
					t.Errorf("%s: the clients have buckets of %d owners", when, len(owners))
				}
			}
			check("agent active", owner)
			if c := counters(t, f); c.GuardRedirected.Packets != 0 || c.GuardForwarded.Packets != 0 {
				t.Errorf("the guard dropped %+v and %+v", c.GuardRedirected, c.GuardForwarded)
			}
			if err := f.Abandon(); err != nil {
				t.Fatal(err)
			}
			check("the guard alone", func(from netip.Addr) string {
				if owner(from) == "0" {
					return ""
				}
				return "1"
			})
		})
	}
}

// A connection lives on when its bucket moves away, and nothing else of the bucket is
// accepted: where br_netfilter is on that is decided at input.
func TestFlowsOverABridgeLinger(t *testing.T) {
	for _, filtered := range []bool{true, false} {
		t.Run(fmt.Sprintf("br_netfilter %t", filtered), func(t *testing.T) {
			s := testSpec()
			s.Interface = "br0"
			s.Services[0].Linger = LingerTCP
			w := newTalkingWire(t, 1)
			w.bridgeOn(0, filtered, vipMAC.String())
			f := installed(t, w.nodes[0], s)
			commit(t, f, allBuckets(s, node.Own)...)
			from := clientAddr(0)
			c, err := w.talk("tcp4", from)
			if err != nil {
				t.Fatal(err)
			}
			for _, state := range []node.State{node.Own, node.Linger, node.Adopt, node.Own} {
				commit(t, f, allBuckets(s, state)...)
				if got := asked(t, c); got != "0" {
					t.Errorf("%s: answers %q", state, got)
				}
			}
			commit(t, f, allBuckets(s, node.Linger)...)
			if got := w.connects(from, never); got != "" {
				t.Errorf("a new connection to a bucket that lingers is answered: %q", got)
			}
			before := counters(t, f).Services[0].Refused[node.Linger].Packets
			w.send(packetTo{from: from, protocol: layers.IPProtocolTCP}, &layers.TCP{SrcPort: 30000, DstPort: tcpPort, ACK: true, Seq: 1, Window: 1000})
			eventually(t, "a segment that conntrack does not know is refused", func() bool {
				return counters(t, f).Services[0].Refused[node.Linger].Packets > before
			})
		})
	}
}

// Where br_netfilter is on, destination NAT acts on frames that nobody has asked yet
// whose they are. They must not all be answered by every node that has such a rule, as
// Docker makes for published ports.
func TestNATOnABridgeDoesNotBypassTheBuckets(t *testing.T) {
	s := testSpec()
	s.Interface = "br0"
	s.Services[0].Linger = LingerTCP
	w := newWire(t, 1)
	w.bridgeOn(0, true, vipMAC.String())
	ns := w.nodes[0]
	container := namespace(t, "ct")
	ip(t, ns, "link add d0 type veth peer name eth0 netns "+container.Name, "link set d0 up", "addr add 10.88.0.1/24 dev d0")
	ip(t, container, "link set eth0 up", "addr add 10.88.0.2/24 dev eth0", "route add default via 10.88.0.1")
	w.publishes(ns, container)
	f := installed(t, ns, s) // owns nothing
	for i := range 4 {
		if got := w.answers(clientAddr(i), 100, never); got != "" {
			t.Errorf("%s is answered by %q, and by every other node", clientAddr(i), got)
		}
	}
	if c := counters(t, f); c.GuardRedirected.Packets != 4 {
		t.Errorf("the guard dropped %+v, want 4 packets", c.GuardRedirected)
	}
}

// A container reaches what another one of its host publishes at the VIP, whether this node
// serves or not: that is local.
func TestContainersReachWhatTheirHostPublishes(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerTCP
	w := newWire(t, 1)
	ns, container := w.nodes[0], namespace(t, "ct")
	local := *w
	local.client = namespace(t, "cc")
	ip(t, ns, "link add d0 type bridge", "link set d0 up", "addr add 10.88.0.1/24 dev d0",
		"link add d1 type bridge", "link set d1 up", "addr add 10.89.0.1/24 dev d1",
		"link add v0 type veth peer name eth0 netns "+container.Name, "link set v0 master d0 up",
		"link add v1 type veth peer name eth0 netns "+local.client.Name, "link set v1 master d1 up")
	ip(t, container, "link set eth0 up", "addr add 10.88.0.2/24 dev eth0", "route add default via 10.88.0.1")
	ip(t, local.client, "link set eth0 up", "addr add 10.89.0.2/24 dev eth0", "route add default via 10.89.0.1")
	w.publishes(ns, container)
	f := installed(t, ns, s) // owns nothing
	if got := local.answers(netip.MustParseAddr("10.89.0.2"), 100, soon); got != "container" {
		t.Errorf("a container of this host is answered by %q", got)
	}
	if c := counters(t, f); c.GuardRedirected.Packets != 0 {
		t.Errorf("the guard dropped %+v", c.GuardRedirected)
	}
}

// publishes has the container serve the VIP's port for UDP, by destination NAT, as Docker
// makes it for published ports.
func (w *wire) publishes(ns, container *lab.Namespace) {
	t := w.t
	t.Helper()
	var server net.PacketConn
	if err := container.Do(func() (err error) {
		server, err = net.ListenPacket("udp4", fmt.Sprintf("10.88.0.2:%d", udpPort))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go func() {
		for buf := make([]byte, 1500); ; {
			_, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo([]byte("container"), from)
		}
	}()
	sysctl(t, ns, "ipv4/ip_forward", "1")
	for _, line := range []string{"add table ip publish", "add chain ip publish pre { type nat hook prerouting priority -100; }"} {
		run(t, ns, "nft "+line)
	}
	rule := fmt.Sprintf("nft add rule ip publish pre fib daddr type local ip daddr %s udp dport %d dnat to 10.88.0.2:%d", vip, udpPort, udpPort)
	run(t, ns, rule)
}
