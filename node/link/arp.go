package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/net/bpf"
)

// arpFrame is an ARP message for IPv4 over Ethernet (RFC 826) with the Ethernet
// addresses of the frame that carried it.
type arpFrame struct {
	dst, src  hwAddr // of the Ethernet header
	operation uint16 // layers.ARPRequest, layers.ARPReply, or anything else
	senderMAC hwAddr
	senderIP  netip.Addr
	targetMAC hwAddr
	targetIP  netip.Addr
}

// parseARP reads a frame as it comes from a packet socket, Ethernet header first.
// What follows the ARP message is padding.
func parseARP(frame []byte) (arpFrame, error) {
	var eth layers.Ethernet
	if err := eth.DecodeFromBytes(frame, gopacket.NilDecodeFeedback); err != nil {
		return arpFrame{}, fmt.Errorf("reading an Ethernet header: %w", err)
	}
	if eth.EthernetType != layers.EthernetTypeARP {
		return arpFrame{}, fmt.Errorf("not ARP: Ethernet type %#04x", uint16(eth.EthernetType))
	}
	var arp layers.ARP
	if err := arp.DecodeFromBytes(eth.Payload, gopacket.NilDecodeFeedback); err != nil {
		return arpFrame{}, fmt.Errorf("reading an ARP message: %w", err)
	}
	if arp.AddrType != layers.LinkTypeEthernet || arp.Protocol != layers.EthernetTypeIPv4 ||
		arp.HwAddressSize != 6 || arp.ProtAddressSize != 4 {
		return arpFrame{}, errors.New("an ARP message for something else than IPv4 over Ethernet")
	}
	return arpFrame{
		dst:       hwAddr(eth.DstMAC),
		src:       hwAddr(eth.SrcMAC),
		operation: arp.Operation,
		senderMAC: hwAddr(arp.SourceHwAddress),
		senderIP:  netip.AddrFrom4([4]byte(arp.SourceProtAddress)),
		targetMAC: hwAddr(arp.DstHwAddress),
		targetIP:  netip.AddrFrom4([4]byte(arp.DstProtAddress)),
	}, nil
}

// bytes is the frame as it goes to the wire, padded to 60 bytes.
func (f arpFrame) bytes() []byte {
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true},
		&layers.Ethernet{SrcMAC: f.src.hardware(), DstMAC: f.dst.hardware(), EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, Operation: f.operation,
			SourceHwAddress: f.senderMAC[:], SourceProtAddress: f.senderIP.AsSlice(),
			DstHwAddress: f.targetMAC[:], DstProtAddress: f.targetIP.AsSlice(),
		})
	if err != nil {
		panic(fmt.Sprintf("link: an ARP frame of fixed size cannot be written: %v", err))
	}
	return buffer.Bytes()
}

// refusal is why a frame gets no answer.
type refusal uint8

const (
	answered      refusal = iota
	silent                // the link is not up: the VIP is not ours to speak of yet
	notRequest            // a reply, or RARP
	notVIP                // asks for another address
	otherStation          // a unicast frame to somebody else's MAC, seen by flooding
	ownFrame              // our own frame, come back by a loop
	noSender              // nobody to answer: no sender's MAC, or a group's
	fromTheShared         // sent in the name of the cluster MAC: a peer
	gratuitous            // tells of the VIP rather than asking for it
)

var refusalNames = [...]string{
	answered: "answered", silent: "not announcing", notRequest: "not a request", notVIP: "not for a VIP",
	otherStation: "for another station", ownFrame: "our own frame", noSender: "no sender to answer",
	fromTheShared: "from the cluster MAC", gratuitous: "gratuitous",
}

func (r refusal) String() string {
	if int(r) < len(refusalNames) {
		return refusalNames[r]
	}
	return fmt.Sprintf("refusal(%d)", uint8(r))
}

// speaker holds what the node says about the VIPs. A nil speaker says nothing.
type speaker struct {
	own     hwAddr // the interface's MAC: the Ethernet source of all that we send
	cluster hwAddr // the MAC that we tell, and never send from, so that no switch learns it on a port
	vips    []netip.Addr
}

// answer decides what a frame gets in reply. Every node answers, broadcast and
// unicast requests and RFC 5227 probes (sender 0.0.0.0), and all say the same.
func (s *speaker) answer(f arpFrame) (arpFrame, refusal) {
	switch {
	case s == nil:
		return arpFrame{}, silent
	case f.operation != layers.ARPRequest:
		return arpFrame{}, notRequest
	case !slices.Contains(s.vips, f.targetIP):
		return arpFrame{}, notVIP
	case f.dst != broadcast && f.dst != s.own && f.dst != s.cluster:
		return arpFrame{}, otherStation
	case f.src == s.own || f.senderMAC == s.own:
		return arpFrame{}, ownFrame
	case f.senderMAC == s.cluster:
		return arpFrame{}, fromTheShared
	case f.senderMAC.group() || f.senderMAC == hwAddr{}:
		return arpFrame{}, noSender
	case f.senderIP == f.targetIP:
		return arpFrame{}, gratuitous
	}
	return arpFrame{
		dst: f.senderMAC, src: s.own, operation: layers.ARPReply,
		senderMAC: s.cluster, senderIP: f.targetIP,
		targetMAC: f.senderMAC, targetIP: f.senderIP,
	}, answered
}

// announcement is a gratuitous ARP for a VIP, in the form of a request, as
// RFC 5227 sections 2.3 and 3 ask for: old implementations believe no other.
func (s *speaker) announcement(vip netip.Addr) arpFrame {
	return arpFrame{
		dst: broadcast, src: s.own, operation: layers.ARPRequest,
		senderMAC: s.cluster, senderIP: vip, targetIP: vip,
	}
}

// request asks the segment who has the target. With sender 0.0.0.0 it is an
// RFC 5227 probe, which leaves no trace in anybody's neighbour table.
func request(own hwAddr, sender, target netip.Addr) arpFrame {
	return arpFrame{
		dst: broadcast, src: own, operation: layers.ARPRequest,
		senderMAC: own, senderIP: sender, targetIP: target,
	}
}

// claims says whether the frame's sender holds one of the VIPs under a MAC
// other than the cluster's. A probe (sender 0.0.0.0) claims nothing.
func (f arpFrame) claims(vips []netip.Addr, cluster hwAddr) bool {
	return f.senderMAC != cluster && slices.Contains(vips, f.senderIP)
}

// isAnswerTo says whether the frame is another host's reply to a request of ours.
// Replies to others, and those that nobody asked for, prove one direction only.
func (f arpFrame) isAnswerTo(own hwAddr) bool {
	return f.operation == layers.ARPReply && f.dst == own && f.src != own && f.senderMAC != own
}

// snapLength is how much of a frame is read; an ARP frame has 42 bytes.
const snapLength = 128

// arpFilter passes what the agent has to look at: everything about a VIP (to
// answer it, or to see somebody else claim it) and every reply (to see that the
// wire forwards). It does not check the rest; parseARP does.
func arpFilter(vips []netip.Addr) []bpf.Instruction {
	const operation, senderIP, targetIP = 14 + 6, 14 + 14, 14 + 24 // offsets in the frame
	pass := bpf.RetConstant{Val: snapLength}
	// Each comparison skips over a return of its own, so no jump grows with the number of VIPs.
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: operation, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: layers.ARPReply, SkipTrue: 1}, pass,
	}
	for _, offset := range []uint32{targetIP, senderIP} {
		program = append(program, bpf.LoadAbsolute{Off: offset, Size: 4})
		for _, vip := range vips {
			program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(vip.AsSlice()), SkipTrue: 1}, pass)
		}
	}
	return append(program, bpf.RetConstant{Val: 0})
}
