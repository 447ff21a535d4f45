package nft

import (
	"errors"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
)

// packetTo is how an IPv4 packet is addressed. What is not said is what a client
// of the VIP would send.
type packetTo struct {
	in       *lab.Namespace   // where it is sent; nil: at the client
	mac      net.HardwareAddr // nil: the cluster MAC
	from     netip.Addr       // zero: the client's first address
	to       netip.Addr       // zero: the VIP
	ttl      uint8            // 0: 64
	protocol layers.IPProtocol
	mark     int  // of the socket
	pieces   bool // send it as two fragments
}

// frames returns the packet's frames, without a source MAC address.
func (p packetTo) frames(content ...gopacket.SerializableLayer) [][]byte {
	if p.mac == nil {
		p.mac = vipMAC
	}
	if !p.from.IsValid() {
		p.from = clientAddr(0)
	}
	if !p.to.IsValid() {
		p.to = vip
	}
	if p.ttl == 0 {
		p.ttl = 64
	}
	ether := &layers.Ethernet{SrcMAC: make(net.HardwareAddr, 6), DstMAC: p.mac, EthernetType: layers.EthernetTypeIPv4}
	ip := layers.IPv4{Version: 4, IHL: 5, Id: 4711, TTL: p.ttl, Protocol: p.protocol, SrcIP: p.from.AsSlice(), DstIP: p.to.AsSlice()}
	for _, l := range content {
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(&ip); err != nil {
				panic(err)
			}
		}
	}
	body := serialize(content...)
	if !p.pieces {
		return [][]byte{serialize(ether, &ip, gopacket.Payload(body))}
	}
	const half = 16 // a multiple of 8, and room for no more than a header
	first, second := ip, ip
	first.Flags, second.FragOffset = layers.IPv4MoreFragments, half/8
	return [][]byte{
		serialize(ether, &first, gopacket.Payload(body[:half])),
		serialize(ether, &second, gopacket.Payload(body[half:])),
	}
}

func serialize(content ...gopacket.SerializableLayer) []byte {
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, content...); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// send sends one packet.
func (w *wire) send(p packetTo, content ...gopacket.SerializableLayer) {
	w.t.Helper()
	if p.in == nil {
		p.in = w.client
	}
	port := w.packetPort(p.in)
	if err := mark(port.Conn, p.mark); err != nil {
		w.t.Fatal(err)
	}
	for _, frame := range p.frames(content...) {
		copy(frame[6:12], port.mac)
		if _, err := port.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// packetPort is a socket for frames on the namespace's eth0. It stays open until
// the test ends: the kernel takes its time to close one.
type packetPort struct {
	*packet.Conn
	mac net.HardwareAddr
}

func (w *wire) packetPort(ns *lab.Namespace) packetPort {
	w.t.Helper()
	if port, ok := w.ports[ns]; ok {
		return port
	}
	var port packetPort
	err := ns.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		port.mac = link.HardwareAddr
		port.Conn, err = packet.Listen(link, packet.Raw, unix.ETH_P_IP, nil) // frames of another protocol are not IPv4 to the egress hook
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { port.Close() })
	w.ports[ns] = port
	return port
}

func mark(conn *packet.Conn, mark int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
	return errors.Join(err, set)
}
