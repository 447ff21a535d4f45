package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
)

// What a stranger without the key may cost an agent, above what it costs at rest: of
// memory, and of a processor. On a machine that is busy with other things each datagram is
// dearer: the cheapest of some tries counts.
const (
	floodMemory = 64 << 20
	floodShare  = 0.10
	floodTries  = 3
)

// stranger is a host without the key on the nodes' segment.
type stranger struct {
	t      *testing.T
	l      *lab.Lab
	ns     *lab.Namespace
	addrs  []netip.Addr
	mac    net.HardwareAddr
	victim *lab.Node
	beacon []byte // a frame with a beacon of another node than the victim
}

// Nobody without the key makes an agent large or busy, makes a node pause or moves a
// bucket, by what it sends.
func TestFloodsCostLittle(t *testing.T) {
	binary, err := measured()
	must(t, err)
	l, err := lab.New(t.Context(), lab.Config{Binary: binary, Nodes: 3, Agent: func(_ int, c *lab.AgentConfig) { c.Spec.Detect = standard }})
	must(t, err)
	t.Cleanup(func() { finish(t, l, t.Failed()) })
	start(t, l.Nodes...)
	settle(t, l, l.Nodes...)
	s := &stranger{t: t, l: l, victim: l.Nodes[0]}
	s.ns, s.addrs, err = l.Stranger(50)
	must(t, err)
	s.mac = net.HardwareAddr{0x02, 0x77, 0, 0, 0, 0xfd}
	s.beacon = s.hear(l.Nodes[1].Addr)
	tr := watch(t, l, l.Nodes...)

	const lasts = 2 * time.Second
	rest := s.cost("nothing", lasts, func(ctx context.Context) string { <-ctx.Done(); return "" })
	for _, f := range s.floods() {
		c := s.cost(f.name, lasts, f.send)
		for try := 1; try < floodTries && c.cpu-rest.cpu > floodShare; try++ {
			again := s.cost(f.name+" again", lasts, f.send)
			c = cost{max(c.rss, again.rss), min(c.cpu, again.cpu)}
		}
		if grown := c.rss - rest.rss; grown > floodMemory {
			t.Errorf("%s: the agent has grown by %d MB", f.name, grown>>20)
		}
		if share := c.cpu - rest.cpu; share > floodShare {
			t.Errorf("%s: the agent took %.1f %% of a processor more than at rest", f.name, 100*share)
		}
	}
	for _, n := range l.Nodes {
		if log := n.Log(); strings.Contains(log, "is dead") || strings.Contains(log, "giving up") {
			t.Errorf("%s has taken a node for dead, or was taken for it", n.Name)
		}
	}
	tr.unmovedBy(t, "a flood")
	tr.quiet(t)

	// And a death is found in the midst of one.
	ctx, cancel := context.WithCancel(t.Context())
	flooded := make(chan string, 1)
	forged := s.frame(net.HardwareAddr(s.beacon[:6]), l.Nodes[1].Addr, lab.VIP, lab.BeaconPort, s.forged())
	go func() { flooded <- s.udp(20000, forged, nil)(ctx) }()
	time.Sleep(500 * time.Millisecond)
	must(t, l.Nodes[2].PowerOff())
	died := time.Now()
	settle(t, l, l.Nodes[:2]...)
	t.Logf("a death under a flood: its buckets were served after %v", time.Since(died).Round(time.Millisecond))
	cancel()
	<-flooded
}

// cost is what the victim's agent used while something happened.
type cost struct {
	rss int64   // the most, in bytes
	cpu float64 // of one processor
}

// cost measures and prints one flood.
func (s *stranger) cost(name string, lasts time.Duration, send func(context.Context) string) cost {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), lasts)
	defer cancel()
	before, kernel, paused := s.usage(), kernelTime(s.t), s.pauses()
	began := time.Now()
	var peak atomic.Int64
	peak.Store(before.RSS)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if u, err := s.victim.Usage(); err == nil {
				peak.Store(max(peak.Load(), u.RSS))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	sent := send(ctx)
	<-done
	took := time.Since(began).Seconds()
	after := s.usage()
	c := cost{max(peak.Load(), after.RSS), (after.CPU - before.CPU).Seconds() / took}
	s.t.Logf("%-58s agent %5.1f %% of a processor, %3d MB; kernel, sender and all three nodes: %5.1f %%; pauses %d; %s",
		name+":", 100*c.cpu, c.rss>>20, 100*(kernelTime(s.t)-kernel).Seconds()/took, s.pauses()-paused, sent)
	return c
}

func (s *stranger) usage() lab.Usage {
	s.t.Helper()
	u, err := s.victim.Usage()
	must(s.t, err)
	return u
}

// pauses is how often any node's lease ran out.
func (s *stranger) pauses() (n int) {
	s.t.Helper()
	for _, node := range s.l.Nodes {
		status, err := node.Status(patiently(s.t))
		must(s.t, err)
		n += status.Pauses.Count
	}
	return n
}

// kernelTime is what the machine's processors spent in the kernel: system calls and
// what interrupts leave to do.
func kernelTime(t *testing.T) time.Duration {
	t.Helper()
	stat, err := os.ReadFile("/proc/stat")
	must(t, err)
	var user, nice, system, idle, iowait, irq, softirq int64
	_, err = fmt.Sscanf(string(stat), "cpu %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq)
	must(t, err)
	return time.Duration(system+irq+softirq) * 10 * time.Millisecond // USER_HZ is 100 everywhere
}

type flood struct {
	name string
	send func(context.Context) string
}

func (s *stranger) floods() []flood {
	victim, member := s.victim.Addr, s.l.Nodes[1].Addr
	garbage := []byte("sixteen or more bytes, and none of them means a thing")
	forged := s.forged()
	envelope := append([]byte{244, byte(len(s.victim.Config.Cluster.Name))}, s.victim.Config.Cluster.Name...)
	sealed := append(append(append([]byte(nil), envelope...), 1), make([]byte, 200)...)
	clusterMAC := net.HardwareAddr(bytes.Clone(s.beacon[:6]))
	port := func(n int) layers.UDPPort { return layers.UDPPort(n) }
	const many = 50000
	return []flood{
		{"beacons of one stranger, on the wire", s.udp(many, s.frame(clusterMAC, s.addrs[0], lab.VIP, port(lab.BeaconPort), garbage), nil)},
		{"beacons of ever new strangers, on the wire", s.udp(many, s.frame(clusterMAC, s.addrs[0], lab.VIP, port(lab.BeaconPort), garbage), anybody)},
		{"beacons of 200 strangers, good heads, on the wire", s.udp(many, s.frame(clusterMAC, s.addrs[0], lab.VIP, port(lab.BeaconPort), forged), someOf(200))},
		{"beacons in a member's name, good heads, on the wire", s.udp(many, s.frame(clusterMAC, member, lab.VIP, port(lab.BeaconPort), forged), nil)},
		{"garbage in a member's name, on the wire", s.udp(many, s.frame(clusterMAC, member, lab.VIP, port(lab.BeaconPort), garbage), nil)},
		{"beacons of ever new strangers, by unicast", s.udp(many, s.frame(s.victim.MAC(), s.addrs[0], victim, port(lab.BeaconPort), garbage), anybody)},
		{"beacons in a member's name, good heads, by unicast", s.udp(many, s.frame(s.victim.MAC(), member, victim, port(lab.BeaconPort), forged), nil)},
		{"letters in a member's name, by unicast", s.udp(many, s.frame(s.victim.MAC(), member, victim, port(lab.BeaconPort), append([]byte("pvul\x01"), make([]byte, 200)...)), nil)},
		{"gossip of ever new strangers", s.udp(many, s.frame(s.victim.MAC(), s.addrs[0], victim, port(lab.GossipPort), sealed), anybody)},
		{"gossip in a member's name", s.udp(many, s.frame(s.victim.MAC(), member, victim, port(lab.GossipPort), sealed), nil)},
		{"ARP requests for the VIP", s.arp(15000)},
		{"connections, closed at once", s.calls(1000, 0, nil)},
		{"connections, left idle for a second", s.calls(1000, time.Second, nil)},
		{"connections with garbage", s.calls(1000, 100*time.Millisecond, append(append(append([]byte(nil), envelope...), 10, 0, 0, 0, 200), make([]byte, 200)...))},
		{"connections, half-open", s.halfOpen(1000)},
		{"40 connections that claim to bring 20 MB each", s.claims(40, binary.BigEndian.AppendUint32(append(bytes.Clone(envelope), 10), 20<<20))},
	}
}

// forged is a beacon of another node with a wrong signature.
func (s *stranger) forged() []byte {
	payload := bytes.Clone(s.beacon[14+20+8:])
	payload[len(payload)-1] ^= 1
	return payload
}

// hear waits for a beacon of the node, which every host of the segment gets.
func (s *stranger) hear(from netip.Addr) []byte {
	s.t.Helper()
	fd := -1
	must(s.t, s.ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	}))
	defer unix.Close(fd)
	for buf := make([]byte, 2048); ; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		must(s.t, err)
		packet := gopacket.NewPacket(buf[:n], layers.LayerTypeEthernet, gopacket.NoCopy)
		ip, _ := packet.NetworkLayer().(*layers.IPv4)
		udp, _ := packet.TransportLayer().(*layers.UDP)
		if ip != nil && udp != nil && udp.DstPort == lab.BeaconPort && ip.SrcIP.Equal(from.AsSlice()) && ip.DstIP.Equal(lab.VIP.AsSlice()) {
			return bytes.Clone(buf[:n])
		}
	}
}

// frame is a datagram from the port to the same port, without a checksum.
func (s *stranger) frame(mac net.HardwareAddr, from, to netip.Addr, port layers.UDPPort, payload []byte) []byte {
	return serialized(
		&layers.Ethernet{SrcMAC: s.mac, DstMAC: mac, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 255, Protocol: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()},
		&layers.UDP{SrcPort: port, DstPort: port}, gopacket.Payload(payload))
}

func serialized(content ...gopacket.SerializableLayer) []byte {
	buf := gopacket.NewSerializeBuffer()
	var network gopacket.NetworkLayer
	for _, l := range content {
		switch l := l.(type) {
		case *layers.IPv4:
			network = l
		case *layers.TCP:
			if err := l.SetNetworkLayerForChecksum(network); err != nil {
				panic(err)
			}
		case *layers.UDP:
			if err := l.SetNetworkLayerForChecksum(network); err != nil {
				panic(err)
			}
		}
	}
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, content...); err != nil {
		panic(err)
	}
	return bytes.Clone(buf.Bytes())
}

// anybody is a source that has not been there for a long time.
func anybody(i int) netip.Addr {
	n := uint32(i) * 2654435761
	return netip.AddrFrom4([4]byte{10, 78 + byte(n>>16)&0x7f, byte(n >> 8), byte(n)})
}

// someOf are n sources in turn.
func someOf(n int) func(int) netip.Addr {
	return func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 78, 0, 1 + byte(i%n)}) }
}

// udp sends the frame so many times a second, from changing sources if they change.
func (s *stranger) udp(rate int, frame []byte, source func(int) netip.Addr) func(context.Context) string {
	ring := make([][]byte, 128)
	for i := range ring {
		ring[i] = bytes.Clone(frame)
	}
	return s.send(rate, func(i int) []byte {
		f := ring[i%len(ring)]
		if source != nil {
			resource(f, source(i))
		}
		return f
	})
}

// resource changes the source of a datagram, which has no checksum afterwards.
func resource(frame []byte, a netip.Addr) {
	const ip, udp = 14, 14 + 20
	b := a.As4()
	copy(frame[ip+12:], b[:])
	clear(frame[ip+10 : ip+12])
	clear(frame[udp+6 : udp+8])
	var sum uint32
	for i := ip; i < udp; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(frame[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(frame[ip+10:], ^uint16(sum))
}

func (s *stranger) send(rate int, next func(i int) []byte) func(context.Context) string {
	return func(ctx context.Context) string {
		began := time.Now()
		sent, err := s.ns.Flood(ctx, "eth0", rate, next)
		must(s.t, err)
		return fmt.Sprintf("%.0f a second", float64(sent)/time.Since(began).Seconds())
	}
}

// arp asks for the VIP, each time as another host.
func (s *stranger) arp(rate int) func(context.Context) string {
	ask := serialized(
		&layers.Ethernet{SrcMAC: s.mac, DstMAC: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, Operation: layers.ARPRequest,
			SourceHwAddress: s.mac, SourceProtAddress: s.addrs[0].AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: lab.VIP.AsSlice(), HwAddressSize: 6, ProtAddressSize: 4})
	return s.send(rate, func(int) []byte { return ask })
}

// halfOpen sends SYNs whose answers go nowhere.
func (s *stranger) halfOpen(rate int) func(context.Context) string {
	return s.send(rate, func(i int) []byte {
		return serialized(
			&layers.Ethernet{SrcMAC: s.mac, DstMAC: s.victim.MAC(), EthernetType: layers.EthernetTypeIPv4},
			&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: anybody(i).AsSlice(), DstIP: s.victim.Addr.AsSlice()},
			&layers.TCP{SrcPort: 4711, DstPort: lab.GossipPort, SYN: true, Window: 1000})
	})
}

// workers run work beside each other inside the stranger's host until the context ends.
func (s *stranger) workers(ctx context.Context, n int, work func(worker int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			err := s.ns.Do(func() error { work(i); return nil })
			if err != nil && ctx.Err() == nil {
				s.t.Error(err)
			}
		})
	}
	all.Wait()
}

// calls opens connections, from every address in turn, says the bytes and closes them
// later.
func (s *stranger) calls(rate int, hold time.Duration, say []byte) func(context.Context) string {
	return func(ctx context.Context) string {
		const workers = 10
		var opened, failed atomic.Int64
		var held sync.WaitGroup
		began := time.Now()
		s.workers(ctx, workers, func(w int) {
			tick := time.NewTicker(time.Second * workers / time.Duration(rate))
			defer tick.Stop()
			for i := w; ; i += workers {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				c, err := s.call(ctx, s.addrs[i%len(s.addrs)])
				if err != nil {
					failed.Add(1)
					continue
				}
				opened.Add(1)
				c.Write(say)
				if hold == 0 {
					c.Close()
					continue
				}
				held.Go(func() {
					select {
					case <-ctx.Done():
					case <-time.After(hold):
					}
					c.Close()
				})
			}
		})
		held.Wait()
		took := time.Since(began).Seconds()
		return fmt.Sprintf("%.0f opened and %.0f refused a second", float64(opened.Load())/took, float64(failed.Load())/took)
	}
}

func (s *stranger) call(ctx context.Context, from netip.Addr) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: 300 * time.Millisecond, KeepAlive: -1}
	return d.DialContext(ctx, "tcp4", netip.AddrPortFrom(s.victim.Addr, lab.GossipPort).String())
}

// claims opens connections, says the head of a large message and goes on as long as it
// may.
func (s *stranger) claims(n int, head []byte) func(context.Context) string {
	return func(ctx context.Context) string {
		var sent, opened atomic.Int64
		s.workers(ctx, n, func(w int) {
			chunk := make([]byte, 64<<10)
			for ctx.Err() == nil {
				c, err := s.call(ctx, s.addrs[w%len(s.addrs)])
				if err != nil {
					if errors.Is(err, context.Canceled) {
						return
					}
					time.Sleep(10 * time.Millisecond)
					continue
				}
				opened.Add(1)
				c.SetDeadline(time.Now().Add(time.Second))
				for n, err := c.Write(head); err == nil && ctx.Err() == nil; n, err = c.Write(chunk) {
					sent.Add(int64(n))
				}
				c.Close()
			}
		})
		return fmt.Sprintf("%d connections, %d MB", opened.Load(), sent.Load()>>20)
	}
}
