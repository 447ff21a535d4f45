package nft

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"github.com/peervip/peervip/e2e/lab"
)

const (
	tcpPort = 80
	udpPort = 53

	second = 50 * time.Millisecond // in which a second answer would follow the first
)

// wire is a switch with nodes and one client, which has several addresses and
// knows the cluster MAC as the VIP's.
type wire struct {
	t      testing.TB
	hub    *lab.Namespace
	client *lab.Namespace
	nodes  []*lab.Namespace
	ports  map[*lab.Namespace]packetPort
}

// clientAddr is the i-th of the client's addresses: 10.77.1.1 and so on.
func clientAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 1, byte(i + 1)}) }

const clientAddrs = 12

// newWire builds the switch, the nodes and the client; the nodes have the VIP
// and echo servers on it that answer with the node's number.
func newWire(t testing.TB, nodes int) *wire {
	t.Helper()
	w := &wire{t: t, hub: namespace(t, "h"), client: namespace(t, "c"), ports: map[*lab.Namespace]packetPort{}}
	ip(t, w.hub, "link add br0 type bridge mcast_snooping 0", "link set br0 up")
	w.plug(w.client, "c0")
	for i := range clientAddrs {
		ip(t, w.client, fmt.Sprintf("addr add %s/16 dev eth0", clientAddr(i)))
	}
	w.knows(vip, vipMAC.String())
	for i := range nodes {
		ns := namespace(t, fmt.Sprintf("n%d", i))
		w.nodes = append(w.nodes, ns)
		w.connect(i)
		// The kernel must not speak of the VIP with the NIC's own MAC.
		sysctl(t, ns, "ipv4/conf/all/arp_ignore", "1")
		sysctl(t, ns, "ipv4/conf/all/arp_announce", "2")
		ip(t, ns, fmt.Sprintf("addr add %s/32 dev lo scope host", vip))
		serve(t, ns, fmt.Sprint(i))
	}
	return w
}

// connect joins node i to the switch, with an address of its own, and returns
// when the client reaches it.
func (w *wire) connect(i int) {
	w.t.Helper()
	w.plug(w.nodes[i], fmt.Sprintf("n%d", i))
	own := fmt.Sprintf("10.77.0.%d", i+1)
	ip(w.t, w.nodes[i], "addr add "+own+"/16 dev eth0")
	ip(w.t, w.client, "neigh flush to "+own+" dev eth0") // a new interface has a new MAC
	eventually(w.t, "the client reaches node "+own, func() bool {
		_, err := w.client.Run("ping", "-c", "1", "-W", "1", own)
		return err == nil
	})
}

// plug joins the namespace to the switch with an interface eth0.
func (w *wire) plug(ns *lab.Namespace, port string) {
	w.t.Helper()
	ip(w.t, w.hub,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", port, ns.Name),
		fmt.Sprintf("link set %s master br0 up", port))
	ip(w.t, ns, "link set eth0 up")
}

// knows gives the client a fixed neighbour entry.
func (w *wire) knows(addr netip.Addr, mac string) {
	w.t.Helper()
	ip(w.t, w.client, fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud permanent", addr, mac))
}

func (w *wire) nodeMAC(i int) string {
	w.t.Helper()
	var mac string
	err := w.nodes[i].Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = link.HardwareAddr.String()
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return mac
}

// sysctl sets a network setting of the namespace.
func sysctl(t testing.TB, ns *lab.Namespace, key, value string) {
	t.Helper()
	err := ns.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644) })
	if err != nil {
		t.Fatal(err)
	}
}

// serve answers TCP and UDP on the VIP with the name, until the test ends.
func serve(t testing.TB, ns *lab.Namespace, name string) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	err := ns.Do(func() (err error) {
		if tcp, err = net.Listen("tcp4", netip.AddrPortFrom(vip, tcpPort).String()); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp4", netip.AddrPortFrom(vip, udpPort).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, name)
			conn.Close()
		}
	})
	all.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			udp.WriteTo([]byte(name), from)
		}
	})
	t.Cleanup(func() {
		tcp.Close()
		udp.Close()
		all.Wait()
	})
}

// answers says who answers one UDP datagram of the given size from the client's
// address: every answer that comes within the time.
func (w *wire) answers(from netip.Addr, size int, within time.Duration) string {
	w.t.Helper()
	var conn *net.UDPConn
	err := w.client.Do(func() (err error) {
		conn, err = net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(vip, udpPort)))
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, size)); err != nil {
		w.t.Fatal(err)
	}
	return collect(conn, within)
}

// collect reads all that comes: the first answer may take until the time is up, a
// second one gets a moment more.
func collect(conn net.Conn, within time.Duration) string {
	all, buf := "", make([]byte, 1500)
	conn.SetReadDeadline(time.Now().Add(within))
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return all
		}
		all += string(buf[:n])
		conn.SetReadDeadline(time.Now().Add(second))
	}
}

// connects says who answers a TCP connection from the client's address.
func (w *wire) connects(from netip.Addr, within time.Duration) string {
	w.t.Helper()
	dialer := net.Dialer{Timeout: within, LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
	var answer []byte
	err := w.client.Do(func() error {
		conn, err := dialer.Dial("tcp4", netip.AddrPortFrom(vip, tcpPort).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(within))
		answer, err = io.ReadAll(conn)
		return err
	})
	if err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return ""
		}
		return err.Error()
	}
	return string(answer)
}

// pings says how often one echo request to the VIP is answered.
func (w *wire) pings(from netip.Addr, within time.Duration) int {
	w.t.Helper()
	var conn *icmp.PacketConn
	err := w.client.Do(func() (err error) {
		conn, err = icmp.ListenPacket("ip4:icmp", from.String())
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	id := int(time.Now().UnixNano() & 0xffff)
	request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 1}}
	if _, err := conn.WriteTo(must(request.Marshal(nil)), &net.IPAddr{IP: vip.AsSlice()}); err != nil {
		w.t.Fatal(err)
	}
	answers, buf := 0, make([]byte, 1500)
	conn.SetReadDeadline(time.Now().Add(within))
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return answers
		}
		m, err := icmp.ParseMessage(1, buf[:n])
		if err != nil {
			w.t.Fatal(err)
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && m.Type == ipv4.ICMPTypeEchoReply && echo.ID == id {
			answers++
			conn.SetReadDeadline(time.Now().Add(second))
		}
	}
}
