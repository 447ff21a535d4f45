package nft

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/peervip/peervip/e2e/lab"
)

// flood sends beacons to the cluster MAC, or what else p says, from changing sources.
func (w *wire) flood(p packetTo, port uint16, rate int, lasts time.Duration, source func(i int) netip.Addr) int {
	w.t.Helper()
	p.protocol = layers.IPProtocolUDP
	frame := p.frames(&layers.UDP{SrcPort: layers.UDPPort(port), DstPort: layers.UDPPort(port)}, gopacket.Payload("sixteen or more bytes"))[0]
	copy(frame[6:12], w.packetPort(w.client).mac)
	ring := make([][]byte, 128)
	for i := range ring {
		ring[i] = append([]byte(nil), frame...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), lasts)
	defer cancel()
	sent, err := w.client.Flood(ctx, "eth0", rate, func(i int) []byte {
		frame := ring[i%len(ring)]
		setSource(frame, source(i))
		return frame
	})
	if err != nil {
		w.t.Error(err)
	}
	return sent
}

// setSource changes the source of an IPv4 frame with UDP, which then has no checksum.
func setSource(frame []byte, a netip.Addr) {
	const ip = 14
	b := a.As4()
	copy(frame[ip+ipSrcOffset:], b[:])
	clear(frame[ip+10 : ip+12])
	clear(frame[ip+26 : ip+28])
	var sum uint32
	for i := ip; i < ip+20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(frame[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(frame[ip+10:], ^uint16(sum))
}

// spread are sources that never come twice within some seconds.
func spread(i int) netip.Addr {
	n := uint32(i) * 2654435761 // an odd number: all 2^22 below are different
	return netip.AddrFrom4([4]byte{10, 77, 128 | byte(n>>8)&0x3f, byte(n)}).Next()
}

func always(a netip.Addr) func(int) netip.Addr { return func(int) netip.Addr { return a } }

// listener counts datagrams by their source.
type listener struct {
	conn net.PacketConn
	mu   sync.Mutex
	from map[netip.Addr]int
	done chan struct{}
}

func listenAt(t testing.TB, ns *lab.Namespace, at netip.AddrPort) *listener {
	t.Helper()
	l := &listener{from: map[netip.Addr]int{}, done: make(chan struct{})}
	if err := ns.Do(func() (err error) {
		l.conn, err = net.ListenPacket("udp4", at.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(l.done)
		for buf := make([]byte, 2000); ; {
			_, from, err := l.conn.(*net.UDPConn).ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			l.mu.Lock()
			l.from[from.Addr()]++
			l.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		l.conn.Close()
		<-l.done
	})
	return l
}

func (l *listener) got(from netip.Addr) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.from[from]
}

// beaconWays are the ways to this node's beacons for which a source is believed.
func beaconWays(w *wire) map[string]packetTo {
	own := w.beaconFrom(0).from
	mac := must(net.ParseMAC(w.nodeMAC(0)))
	return map[string]packetTo{
		"on the wire": {ttl: fromNeighbor},
		"by unicast":  {ttl: 64, to: own, mac: mac},
	}
}

// A newcomer is heard before it is known, but one stranger cannot keep a node busy, and
// peers do not pay for it.
func TestBeaconsOfOneStrangerAreRationed(t *testing.T) {
	for way := range beaconWays(newWire(t, 1)) {
		t.Run(way, func(t *testing.T) {
			s := leaseSpec(time.Hour)
			w := newWire(t, 1)
			sysctl(t, w.nodes[0], "ipv4/conf/all/rp_filter", "0")
			sysctl(t, w.nodes[0], "ipv4/conf/eth0/rp_filter", "0")
			f := installed(t, w.nodes[0], s)
			peer := netip.MustParseAddr("10.77.0.2")
			setPeers(t, f, peer.String())
			start := time.Now()
			sent := w.flood(beaconWays(w)[way], beaconPort, 10000, time.Second, always(clientAddr(0)))
			took := time.Since(start)
			var c BeaconCounters
			eventually(t, "all are counted", func() bool {
				c = counters(t, f).Beacons
				return c.Unknown.Packets+c.Excess.Packets == uint64(sent)
			})
			each := beaconRations.each
			if most := uint64(each.burst) + uint64(took.Seconds()*float64(each.rate)) + 10; c.Unknown.Packets < uint64(each.burst) || c.Unknown.Packets > most {
				t.Errorf("in %s %d of %d were accepted, want %d to %d", took, c.Unknown.Packets, sent, each.burst, most)
			}
			sent = w.flood(beaconWays(w)[way], beaconPort, 10000, 500*time.Millisecond, always(peer))
			after := counters(t, f).Beacons
			if after.Excess != c.Excess || after.Unknown != c.Unknown {
				t.Errorf("of %d of a peer some were rationed: %+v, before %+v", sent, after, c)
			}
		})
	}
}

// Sixteen honest strangers are all heard, by all that they say.
func TestHonestStrangersAreHeard(t *testing.T) {
	w := newWire(t, 1)
	f := installed(t, w.nodes[0], leaseSpec(time.Hour))
	sent := w.flood(packetTo{ttl: fromNeighbor}, beaconPort, 16*50, 2*time.Second, func(i int) netip.Addr { return clientAddr(i % 16) })
	eventually(t, "all are accepted", func() bool { return counters(t, f).Beacons.Unknown.Packets == uint64(sent) })
}

// Who forges sources does not hide an honest stranger, and does not keep the node busy:
// neither with ever new sources, nor with some that it uses over and over.
func TestAFloodDoesNotHideAnHonestStranger(t *testing.T) {
	const lasts = 3600 * time.Millisecond
	for _, flood := range []struct {
		name   string
		source func(int) netip.Addr
	}{
		{"one source", always(clientAddr(9))},
		{"ever new sources", func(i int) netip.Addr {
			return netip.AddrFrom4([4]byte{10, 77, 1 + byte(i/250/100%200), 1 + byte(i%250)}) // 250 at a time, each for half a second
		}},
		{"16384 sources in turn", spread},
	} {
		for way := range beaconWays(newWire(t, 1)) {
			if way == "by unicast" && flood.name != "ever new sources" {
				continue // the rules are the same
			}
			t.Run(flood.name+" "+way, func(t *testing.T) {
				w := newWire(t, 1)
				sysctl(t, w.nodes[0], "ipv4/conf/all/rp_filter", "0")
				sysctl(t, w.nodes[0], "ipv4/conf/eth0/rp_filter", "0")
				f := installed(t, w.nodes[0], leaseSpec(time.Hour))
				at := netip.AddrPortFrom(vip, beaconPort)
				if way == "by unicast" {
					at = netip.AddrPortFrom(w.beaconFrom(0).from, beaconPort)
				}
				l := listenAt(t, w.nodes[0], at)
				honest := clientAddr(0)
				done := make(chan int, 1)
				go func() { done <- w.flood(beaconWays(w)[way], beaconPort, 50000, lasts, flood.source) }()
				time.Sleep(time.Second) // the flood was there first
				var heard []int
				for range 2 {
					before := l.got(honest)
					w.flood(beaconWays(w)[way], beaconPort, 50, time.Second, always(honest))
					heard = append(heard, l.got(honest)-before)
				}
				sent := <-done
				c := counters(t, f).Beacons
				t.Logf("%d sent in %s; the honest stranger was heard %v times in two seconds; passed %d, dropped %d", sent, lasts, heard, c.Unknown.Packets, c.Excess.Packets)
				if heard[1] < 5 {
					t.Errorf("the honest stranger was heard %v times in two seconds, want 5 in the second at the latest", heard)
				}
				all := beaconRations.all
				if most := uint64(all.burst) + uint64(all.rate)*uint64(lasts/time.Second+2); c.Unknown.Packets > most {
					t.Errorf("%d passed, want at most %d", c.Unknown.Packets, most)
				}
			})
		}
	}
}

// A container on the node, or one of its users, has no beacons to send to the VIP.
func TestBeaconsForTheVIPComeByTheWireAlone(t *testing.T) {
	w := newWire(t, 1)
	ns := w.nodes[0]
	f := installed(t, ns, leaseSpec(time.Hour))
	l := listenAt(t, ns, netip.AddrPortFrom(vip, beaconPort))
	inside := namespace(t, "-box")
	ip(t, ns, "link add box0 type veth peer name eth0 netns "+inside.Name, "addr add 10.99.0.1/24 dev box0", "link set box0 up")
	ip(t, inside, "addr add 10.99.0.2/24 dev eth0", "link set eth0 up", "route add default via 10.99.0.1")
	for i, from := range []*lab.Namespace{inside, ns} {
		if err := from.Do(func() error {
			out, err := net.Dial("udp4", netip.AddrPortFrom(vip, beaconPort).String())
			if err != nil {
				return err
			}
			defer out.Close()
			_, err = out.Write([]byte("sixteen or more bytes"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprintf("%d are counted as foreign", i+1), func() bool { return counters(t, f).Beacons.Foreign.Packets == uint64(i+1) })
	}
	if len(l.from) != 0 {
		t.Errorf("heard from %v", l.from)
	}
}

// Gossip's port is rationed too: a stranger's datagrams, a member's that somebody may
// forge, and connections that a stranger opens. What others send to that port of other
// hosts is none of ours.
func TestGossipIsRationed(t *testing.T) {
	w := newWire(t, 2)
	ns := w.nodes[0]
	for _, key := range []string{"ipv4/conf/all/rp_filter", "ipv4/conf/eth0/rp_filter"} {
		sysctl(t, ns, key, "0")
	}
	sysctl(t, ns, "ipv4/ip_forward", "1")
	f := installed(t, ns, leaseSpec(time.Hour))
	peer := w.beaconFrom(1).from
	setPeers(t, f, peer.String())
	own := w.beaconFrom(0).from
	l := listenAt(t, ns, netip.AddrPortFrom(own, gossipPort))
	to := packetTo{to: own, mac: must(net.ParseMAC(w.nodeMAC(0)))}
	for _, of := range []struct {
		who    string
		source netip.Addr
		each   ration
	}{{"a stranger", clientAddr(0), gossipRations.each}, {"a member", peer, peerGossip}} {
		start := time.Now()
		sent := w.flood(to, gossipPort, 10000, time.Second, always(of.source))
		most := int(of.each.burst) + int(time.Since(start).Seconds()*float64(of.each.rate)) + 10
		eventually(t, of.who+" is heard", func() bool { return l.got(of.source) >= int(of.each.burst) })
		if got := l.got(of.source); got > most {
			t.Errorf("%d of %d of %s were heard, want at most %d", got, sent, of.who, most)
		}
	}
	if left := run(t, ns, "cat /proc/thread-self/net/nf_conntrack"); len(left) > 0 {
		t.Errorf("tracked:\n%s", left)
	}
	before := counters(t, f).GossipExcess
	other := to
	other.to = w.beaconFrom(1).from // by way of this node, which routes
	other.ttl = 64
	w.flood(other, gossipPort, 5000, 300*time.Millisecond, always(clientAddr(1)))
	if after := counters(t, f).GossipExcess; after != before {
		t.Errorf("what is for another host was rationed: %+v, before %+v", after, before)
	}

	var server net.Listener
	if err := ns.Do(func() (err error) {
		server, err = net.Listen("tcp4", netip.AddrPortFrom(own, gossipPort).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	dial := func(ns *lab.Namespace, from netip.Addr) (opened int) {
		if err := ns.Do(func() error {
			d := net.Dialer{Timeout: 200 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
			for range 2 * int(callsEach.burst) {
				if c, err := d.Dial("tcp4", netip.AddrPortFrom(own, gossipPort).String()); err == nil {
					opened++
					c.Close()
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return opened
	}
	if got := dial(w.nodes[1], peer); got != 2*int(callsEach.burst) {
		t.Errorf("a member opened %d connections", got)
	}
	if got := dial(w.client, clientAddr(0)); got < int(callsEach.burst) {
		t.Errorf("a stranger opened %d connections, want the first %d", got, callsEach.burst)
	}
	if after := counters(t, f).GossipExcess; after == before {
		t.Error("no connection of the stranger was too many")
	}
}
