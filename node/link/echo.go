package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	echoes    = 3
	echoEvery = 300 * time.Millisecond
	// resolveFor is how long answers to the requests of Resolve are waited for.
	resolveFor = 300 * time.Millisecond
	echoLength = 512 // of a frame that is read; an answer has 60 bytes or so
)

// AskVIP asks whether another host answers for the first VIP: three echo requests to the
// cluster MAC, from this node's own address, as a client sends them. It returns the MAC
// that answered; nil: nobody did. It is for a node that does not serve.
//
// The answers come to a packet socket: the kernel would drop them, since their source is
// an address of this host.
func (l *Link) AskVIP(ctx context.Context) (by net.HardwareAddr, err error) {
	if by, err = l.askVIP(ctx); err != nil {
		return nil, fmt.Errorf("asking %s for an echo on %s: %w", l.config.VIPs[0], l.config.Interface, err)
	}
	return by, nil
}

func (l *Link) askVIP(ctx context.Context) (by net.HardwareAddr, err error) {
	now, vip := l.seen.Load(), l.config.VIPs[0]
	if status := now.status(l.config, l.chosen); !status.OK {
		return nil, errors.New(status.Reason)
	}
	own := now.source
	filter, err := bpf.Assemble(echoFilter(vip, own))
	if err != nil {
		return nil, err
	}
	conn, err := l.packetSocket(now.device, unix.ETH_P_IP, filter)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	id := uint16(time.Now().UnixNano())
	for seq := range uint16(echoes) {
		frame := echoRequest(now.mac, l.config.MAC.addr, own, vip, id, seq)
		if _, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: l.config.MAC.HardwareAddr()}); err != nil {
			return nil, err
		}
		err := listenFor(ctx, conn, echoEvery, func(frame []byte) bool {
			by = echoAnswer(frame, id, now.mac)
			return by != nil
		})
		if by != nil || err != nil {
			return by, err
		}
	}
	return nil, nil
}

// packetSocket opens a packet socket for one protocol on the interface.
func (l *Link) packetSocket(device device, protocol int, filter []bpf.RawInstruction) (*packet.Conn, error) {
	on := &net.Interface{Index: device.index, Name: l.config.Interface, HardwareAddr: device.mac.hardware()}
	return packet.Listen(on, packet.Raw, protocol, &packet.Config{Filter: filter})
}

// listenFor gives each frame that comes within that time to take, until that returns true.
func listenFor(ctx context.Context, conn *packet.Conn, wait time.Duration, take func(frame []byte) bool) error {
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) }) // as in hearClaims
	defer stop()
	buffer := make([]byte, echoLength)
	for {
		n, _, err := conn.ReadFrom(buffer)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return ctx.Err()
		case err != nil:
			return err
		case take(buffer[:n]):
			return nil
		}
	}
}

// echoFilter passes ICMP from the VIP to this node. echoAnswer looks at the rest.
func echoFilter(vip, own netip.Addr) []bpf.Instruction {
	const protocol, source, target = ethernetLen + 9, ethernetLen + 12, ethernetLen + 16
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: protocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 5},
		bpf.LoadAbsolute{Off: source, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(vip.AsSlice()), SkipTrue: 3},
		bpf.LoadAbsolute{Off: target, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(own.AsSlice()), SkipTrue: 1},
		bpf.RetConstant{Val: echoLength},
		bpf.RetConstant{Val: 0},
	}
}

func echoRequest(own, cluster hwAddr, from, vip netip.Addr, id, seq uint16) []byte {
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: own.hardware(), DstMAC: cluster.hardware(), EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: from.AsSlice(), DstIP: vip.AsSlice()},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: id, Seq: seq},
		gopacket.Payload("peervip: is this address served?"))
	if err != nil {
		panic(fmt.Sprintf("link: an echo request of fixed size cannot be written: %v", err))
	}
	return buffer.Bytes()
}

// echoAnswer returns the MAC of another host that has sent the frame, if that is an echo
// reply with this id; else nil.
func echoAnswer(frame []byte, id uint16, own hwAddr) net.HardwareAddr {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if !ok || icmp.TypeCode.Type() != layers.ICMPv4TypeEchoReply || icmp.Id != id {
		return nil
	}
	if from := hwAddr(frame[6:12]); from != own {
		return from.hardware()
	}
	return nil
}

// Resolve asks the segment for the MACs of addresses and returns those that answer, by
// ARP. An address that nobody has is left out.
func (l *Link) Resolve(ctx context.Context, targets []netip.Addr) (found map[netip.Addr]net.HardwareAddr, err error) {
	now := l.seen.Load()
	if !now.working() {
		return nil, nil
	}
	conn, err := l.listenARP(now.device)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	missing := map[netip.Addr]bool{}
	for _, target := range targets {
		if target = target.Unmap(); target.Is4() {
			missing[target] = true
			if err := transmit(conn, request(now.mac, now.source, target)); err != nil {
				return nil, err
			}
		}
	}
	found = map[netip.Addr]net.HardwareAddr{}
	return found, listenFor(ctx, conn, resolveFor, func(frame []byte) bool {
		if f, err := parseARP(frame); err == nil && f.isAnswerTo(now.mac) && missing[f.senderIP] {
			found[f.senderIP] = f.senderMAC.hardware()
			delete(missing, f.senderIP)
		}
		return len(missing) == 0
	})
}
