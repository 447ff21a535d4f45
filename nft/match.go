package nft

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// etherDst matches the frame's destination MAC address.
func etherDst(e equality, mac net.HardwareAddr) term {
	return term{fmt.Sprintf("ether daddr %s%s", e, mac), []protocol{protoEthernet}, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 6},
		&expr.Cmp{Op: e.op(), Register: 1, Data: mac},
	}}
}

// Where an IPv4 header has its addresses (RFC 791 3.1).
const (
	ipSrcOffset = 12
	ipDstOffset = 16
)

// ipDst matches an IPv4 destination address.
func ipDst(addr netip.Addr) term { return ipAddr("daddr", ipDstOffset, addr) }

// ipSrc matches an IPv4 source address.
func ipSrc(addr netip.Addr) term { return ipAddr("saddr", ipSrcOffset, addr) }

// notTo matches an IPv4 destination that is another than the address.
func notTo(addr netip.Addr) term {
	return term{fmt.Sprintf("ip daddr != %s", addr), []protocol{protoIPv4}, []expr.Any{
		loadNetwork(1, ipDstOffset, 4),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: addr.AsSlice()},
	}}
}

// ipDstIn matches an IPv4 destination address that is in the set.
func ipDstIn(set string) term { return ipAddrIn("daddr", ipDstOffset, set) }

// ipSrcIn matches an IPv4 source address that is in the set.
func ipSrcIn(set string) term { return ipAddrIn("saddr", ipSrcOffset, set) }

func ipAddr(name string, offset uint32, addr netip.Addr) term {
	return term{fmt.Sprintf("ip %s %s", name, addr), []protocol{protoIPv4}, []expr.Any{
		loadNetwork(1, offset, 4),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr.AsSlice()},
	}}
}

func ipAddrIn(name string, offset uint32, set string) term {
	return term{fmt.Sprintf("ip %s @%s", name, set), []protocol{protoIPv4}, []expr.Any{
		loadNetwork(1, offset, 4),
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}}
}

func loadNetwork(register, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func loadTransport(register, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

// ttl matches the time to live: what came through no router still has 255.
func ttl(e equality, hops uint8) term {
	return term{fmt.Sprintf("ip ttl %s%d", e, hops), []protocol{protoIPv4}, []expr.Any{
		loadNetwork(1, 8, 1),
		&expr.Cmp{Op: e.op(), Register: 1, Data: []byte{hops}},
	}}
}

// isFragment matches a piece of a fragmented IPv4 datagram: one with an offset,
// or with more to come (RFC 791 3.1). The first piece is one too.
func isFragment() term {
	return term{"ip frag-off & 0x3fff != 0", []protocol{protoIPv4}, []expr.Any{
		loadNetwork(1, 6, 2),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: netUint16(0x3fff), Xor: []byte{0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}},
	}}
}

// icmpTypeIn matches an ICMP message whose type is in the set.
func icmpTypeIn(set string) term {
	return term{"icmp type @" + set, []protocol{protoIPv4, protoICMP}, []expr.Any{
		loadTransport(1, 0, 1),
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}}
}

// udpBetween matches UDP from the port to the same port.
func udpBetween(port uint16) term {
	return term{fmt.Sprintf("udp sport %d udp dport %d", port, port), []protocol{protoUDP}, []expr.Any{
		loadTransport(1, 0, 4),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append(netUint16(port), netUint16(port)...)},
	}}
}

// udpTo matches UDP to the port.
func udpTo(port uint16) term { return portTo("udp", protoUDP, port) }

// tcpTo matches TCP to the port.
func tcpTo(port uint16) term { return portTo("tcp", protoTCP, port) }

func portTo(name string, p protocol, port uint16) term {
	return term{fmt.Sprintf("%s dport %d", name, port), []protocol{p}, []expr.Any{
		loadTransport(1, 2, 2),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: netUint16(port)},
	}}
}

// The bits of a TCP header's flags that tell kinds of segments apart (RFC 9293
// 3.1). Those of ECN are left out: a client that offers it sets them in its SYN.
const (
	tcpFin = 1 << 0
	tcpSyn = 1 << 1
	tcpRst = 1 << 2
	tcpAck = 1 << 4
)

// tcpOpens matches a TCP segment that opens a connection: a SYN alone.
func tcpOpens(e equality) term { return tcpFlags(e, "syn", tcpSyn) }

// tcpBareReset matches a reset without an acknowledgement. It is what a host
// answers to a segment of a connection that it does not have (RFC 9293 3.5.2); to
// a SYN for a closed port, and when an application gives up, resets have one.
func tcpBareReset() term { return tcpFlags(is, "rst", tcpRst) }

func tcpFlags(e equality, name string, flag byte) term {
	operator := "=="
	if e == isNot {
		operator = "!="
	}
	return term{fmt.Sprintf("tcp flags & (fin | syn | rst | ack) %s %s", operator, name), []protocol{protoTCP}, []expr.Any{
		loadTransport(1, 13, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpFin | tcpSyn | tcpRst | tcpAck}, Xor: []byte{0}},
		&expr.Cmp{Op: e.op(), Register: 1, Data: []byte{flag}},
	}}
}

// sctpInit is the type of the chunk that opens an association; it is the only
// one in its packet (RFC 9260 3.2, 6.10).
const sctpInit = 1

// sctpOpens matches an SCTP packet that opens an association, by the type of its
// first chunk, which follows the common header of 12 bytes. The kernel's match
// for chunks is not used: it is not in every kernel.
func sctpOpens(e equality) term {
	return term{fmt.Sprintf("meta l4proto sctp @th,96,8 %s%d", e, sctpInit), []protocol{protoSCTP}, []expr.Any{
		loadTransport(1, 12, 1),
		&expr.Cmp{Op: e.op(), Register: 1, Data: []byte{sctpInit}},
	}}
}

// protocolIn matches a transport protocol that is in the set.
func protocolIn(set string) term {
	return term{"meta l4proto @" + set, nil, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}}
}

// flowIn matches a packet whose protocol, addresses and ports are in the set.
// The parts of a concatenation are in registers of 4 bytes in a row.
func flowIn(set string) term {
	return term{"meta l4proto . ip saddr . th sport . ip daddr . th dport @" + set, []protocol{protoIPv4}, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_00},
		loadNetwork(unix.NFT_REG32_01, ipSrcOffset, 4),
		loadTransport(unix.NFT_REG32_02, 0, 2),
		loadNetwork(unix.NFT_REG32_03, ipDstOffset, 4),
		loadTransport(unix.NFT_REG32_04, 2, 2),
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: set},
	}}
}

// portlessFlowIn matches a packet whose protocol and addresses are in the set.
func portlessFlowIn(set string) term {
	return term{"meta l4proto . ip saddr . ip daddr @" + set, []protocol{protoIPv4}, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_00},
		loadNetwork(unix.NFT_REG32_01, ipSrcOffset, 4),
		loadNetwork(unix.NFT_REG32_02, ipDstOffset, 4),
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: set},
	}}
}

// dstBucketIn matches a packet to a client whose bucket is in the set.
func dstBucketIn(s Spec, set string) term {
	return term{"jhash ip daddr " + bucketText(s) + " @" + set, []protocol{protoIPv4},
		append(bucketOf(s, ipDstOffset), &expr.Lookup{SourceRegister: 1, SetName: set})}
}

// bucketText and bucketOf hash the client's address to its bucket, as
// hashring.Layout does, into register 1.
func bucketText(s Spec) string {
	return fmt.Sprintf("mod %d seed 0x%x", s.Layout.Buckets, s.Layout.Seed)
}

func bucketOf(s Spec, offset uint32) []expr.Any {
	return []expr.Any{
		loadNetwork(2, offset, 4),
		&expr.Hash{SourceRegister: 2, DestRegister: 1, Length: 4, Modulus: uint32(s.Layout.Buckets),
			Seed: s.Layout.Seed, Type: expr.HashTypeJenkins},
	}
}

// iifnameIn matches the interface that the packet came by if its name is, or is
// not, in the set.
func iifnameIn(e equality, set string) term {
	return term{fmt.Sprintf("iifname %s@%s", e, set), nil, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set, Invert: e == isNot},
	}}
}

// oifnameIn matches the interface that the packet leaves by if its name is in the set.
func oifnameIn(set string) term {
	return term{"oifname @" + set, nil, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}}
}

// tagged matches a packet that has a tag.
func tagged() term {
	return term{"meta priority != none", nil, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: hostUint32(0)},
	}}
}

// taggedAs matches a packet that has the tag.
func taggedAs(t tag) term {
	return term{"meta priority " + t.String(), nil, metaIs(expr.MetaKeyPRIORITY, hostUint32(uint32(t)))}
}

// marked matches a packet with the mark, which a socket gives it (SO_MARK).
func marked(mark uint32) term {
	return term{fmt.Sprintf("meta mark 0x%x", mark), nil, metaIs(expr.MetaKeyMARK, hostUint32(mark))}
}

// iifname matches the interface that the packet came by, by its name, which
// outlives an interface that is deleted and made again.
func iifname(e equality, name string) term {
	return term{fmt.Sprintf("iifname %s%q", e, name), nil, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: e.op(), Register: 1, Data: ifname(name)},
	}}
}

// iifkind matches the kind of the interface that the packet came by, as `ip -details
// link` shows it.
func iifkind(kind string) term { return linkKind("iifkind", metaIIFKind, kind) }

// oifkind matches the kind of the interface that the packet leaves by.
func oifkind(kind string) term { return linkKind("oifkind", metaOIFKind, kind) }

// Missing in the library (include/uapi/linux/netfilter/nf_tables.h, Linux 5.6).
const (
	metaIIFKind expr.MetaKey = 26
	metaOIFKind expr.MetaKey = 27
)

func linkKind(name string, key expr.MetaKey, kind string) term {
	return term{fmt.Sprintf("meta %s %q", name, kind), nil, metaIs(key, ifname(kind))}
}

// notMarkedHost matches a packet that neither came to the NIC's own MAC address
// nor was marked by setPktType("host").
func notMarkedHost() term {
	return term{"meta pkttype != host", nil, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPKTTYPE, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{unix.PACKET_HOST}},
	}}
}

// markedHost matches a packet that came to the NIC's own MAC address, or was marked.
func markedHost() term {
	return term{"meta pkttype host", nil, metaIs(expr.MetaKeyPKTTYPE, []byte{unix.PACKET_HOST})}
}

// ctKnown matches what conntrack knows. Its mere presence in a table has the
// kernel track all flows (net/netfilter/nft_ct.c, nf_ct_netns_get).
func ctKnown() term {
	return term{"ct state established,related", nil, ctBits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)}
}

// ctEstablished matches a packet of a flow that conntrack has seen packets of in
// both directions. A flow that conntrack picks up in the middle
// (nf_conntrack_tcp_loose) is not of this kind with its first packet, and is
// forgotten if that is dropped.
func ctEstablished() term {
	return term{"ct state established", nil, ctBits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED)}
}

// Bits of a flow's status (include/uapi/linux/netfilter/nf_conntrack_common.h).
const (
	ipsAssured   = 1 << 2 // TCP: the handshake is complete
	ipsConfirmed = 1 << 3 // a packet of it has reached the end of its path
)

// ctConfirmed matches a packet of a flow that an earlier packet has opened,
// answered or not.
func ctConfirmed() term {
	return term{"ct status confirmed", nil, ctBits(expr.CtKeySTATUS, ipsConfirmed)}
}

// ctAssured matches a packet of a TCP connection whose handshake is complete.
func ctAssured() term {
	return term{"ct status assured", nil, ctBits(expr.CtKeySTATUS, ipsAssured)}
}

// ctOriginalTo matches a packet to a server of a flow that its client has sent to the
// address.
func ctOriginalTo(addr netip.Addr) term {
	return term{fmt.Sprintf("ct direction original ct original ip daddr %s", addr), nil, []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{expr.CtDirOriginal}},
		&expr.Ct{Key: expr.CtKeyDSTIP, Register: 1, Direction: expr.CtDirOriginal, OptDirection: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr.AsSlice()},
	}}
}

// ctBits matches if one of the bits is set.
func ctBits(key expr.CtKey, mask uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: hostUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// upTo matches while no more than the given packets a second come.
func upTo(rate uint64, burst uint32) term {
	return term{fmt.Sprintf("limit rate %d/second burst %d packets", rate, burst), nil, []expr.Any{
		&expr.Limit{Type: expr.LimitTypePkts, Rate: rate, Unit: expr.LimitTimeSecond, Burst: burst},
	}}
}
