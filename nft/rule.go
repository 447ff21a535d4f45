package nft

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rule is what one line of a chain matches and does, in order.
type rule []term

// term is one match or statement: its text in nft's language, and the kernel's
// expressions for it. The functions below are the only place where the two meet.
// Register 1 is free between terms.
type term struct {
	text  string
	needs []protocol
	exprs []expr.Any
}

func (r rule) String() string {
	texts := make([]string, len(r))
	for i, t := range r {
		texts[i] = t.text
	}
	return strings.Join(texts, " ")
}

// exprs returns the rule's expressions; what a term needs the packet to be is
// checked before it, once in a rule, as nft itself does.
func (r rule) exprs(f family) []expr.Any {
	var all []expr.Any
	checked := map[protocol]bool{}
	for _, t := range r {
		for _, p := range t.needs {
			if !checked[p] {
				checked[p] = true
				all = append(all, p.exprs(f)...)
			}
		}
		all = append(all, t.exprs...)
	}
	return all
}

// protocol is what a packet must be before a term can read it.
type protocol uint8

const (
	protoEthernet protocol = iota
	protoIPv4
	protoICMP
	protoUDP
)

func (p protocol) exprs(f family) []expr.Any {
	switch p {
	case protoEthernet:
		return metaIs(expr.MetaKeyIIFTYPE, hostUint16(unix.ARPHRD_ETHER))
	case protoIPv4:
		if f == netdev {
			return metaIs(expr.MetaKeyPROTOCOL, netUint16(unix.ETH_P_IP))
		}
		return metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4})
	case protoICMP:
		return metaIs(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_ICMP})
	case protoUDP:
		return metaIs(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_UDP})
	}
	panic(fmt.Sprintf("no such protocol: %d", p))
}

// equality is the operator of a comparison.
type equality bool

const (
	is    equality = true
	isNot equality = false
)

func (e equality) String() string {
	if e == is {
		return ""
	}
	return "!= "
}

func (e equality) op() expr.CmpOp {
	if e == is {
		return expr.CmpOpEq
	}
	return expr.CmpOpNeq
}

// etherDst matches the frame's destination MAC address.
func etherDst(e equality, mac net.HardwareAddr) term {
	return term{fmt.Sprintf("ether daddr %s%s", e, mac), []protocol{protoEthernet}, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 6},
		&expr.Cmp{Op: e.op(), Register: 1, Data: mac},
	}}
}

// ipDst matches an IPv4 destination address.
func ipDst(addr netip.Addr) term {
	return term{"ip daddr " + addr.String(), []protocol{protoIPv4}, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr.AsSlice()},
	}}
}

// ipDstIn matches an IPv4 destination address that is in the set.
func ipDstIn(set string) term {
	return term{"ip daddr @" + set, []protocol{protoIPv4}, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}}
}

// isFragment matches a piece of a fragmented IPv4 datagram: one with an offset,
// or with more to come (RFC 791 3.1). The first piece is one too.
func isFragment() term {
	return term{"ip frag-off & 0x3fff != 0", []protocol{protoIPv4}, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 2},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: netUint16(0x3fff), Xor: []byte{0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}},
	}}
}

// icmpTypeIn matches an ICMP message whose type is in the set.
func icmpTypeIn(set string) term {
	return term{"icmp type @" + set, []protocol{protoIPv4, protoICMP}, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}}
}

// udpBetween matches UDP from the port to the same port.
func udpBetween(port uint16) term {
	return term{fmt.Sprintf("udp sport %d udp dport %d", port, port), []protocol{protoUDP}, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append(netUint16(port), netUint16(port)...)},
	}}
}

// iifname matches the interface that the packet came by, by its name, which
// outlives an interface that is deleted and made again.
func iifname(e equality, name string) term {
	var padded [unix.IFNAMSIZ]byte
	copy(padded[:], name)
	return term{fmt.Sprintf("iifname %s%q", e, name), nil, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: e.op(), Register: 1, Data: padded[:]},
	}}
}

// notMarkedHost matches a packet that neither came to the NIC's own MAC address
// nor was marked by setPktType("host").
func notMarkedHost() term {
	return term{"meta pkttype != host", nil, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPKTTYPE, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{unix.PACKET_HOST}},
	}}
}

var pktTypes = map[string]byte{"host": unix.PACKET_HOST, "multicast": unix.PACKET_MULTICAST}

// setPktType says how the packet came, whatever its MAC address: the stack
// serves only "host" (net/ipv4/tcp_ipv4.c, tcp_v4_rcv).
func setPktType(name string) term {
	return term{"meta pkttype set " + name, nil, []expr.Any{
		&expr.Immediate{Register: 1, Data: []byte{pktTypes[name]}},
		&expr.Meta{Key: expr.MetaKeyPKTTYPE, SourceRegister: true, Register: 1},
	}}
}

// bucketVerdict hashes the source address to a bucket, as hashring.Layout does,
// and goes where the map sends it. A bucket that is not in the map goes on to
// the next rule.
func bucketVerdict(s Spec, bucketMap string) term {
	return term{
		fmt.Sprintf("jhash ip saddr mod %d seed 0x%x vmap @%s", s.Layout.Buckets, s.Layout.Seed, bucketMap),
		[]protocol{protoIPv4},
		[]expr.Any{
			&expr.Payload{DestRegister: 2, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Hash{SourceRegister: 2, DestRegister: 1, Length: 4, Modulus: uint32(s.Layout.Buckets),
				Seed: s.Layout.Seed, Type: expr.HashTypeJenkins},
			// Register 0 is the verdict; it must be named, or the map is only a set.
			&expr.Lookup{SourceRegister: 1, SetName: bucketMap, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT},
		},
	}
}

// ctKnown matches what conntrack knows. Its mere presence in a table has the
// kernel track all flows (net/netfilter/nft_ct.c, nf_ct_netns_get).
func ctKnown() term {
	mask := binary.NativeEndian.AppendUint32(nil, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	return term{"ct state established,related", nil, []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}}
}

// upTo matches while no more than the given packets a second come.
func upTo(rate uint64, burst uint32) term {
	return term{fmt.Sprintf("limit rate %d/second burst %d packets", rate, burst), nil, []expr.Any{
		&expr.Limit{Type: expr.LimitTypePkts, Rate: rate, Unit: expr.LimitTimeSecond, Burst: burst},
	}}
}

// count adds the packet to the table's named counter.
func count(name string) term {
	return term{fmt.Sprintf("counter name %q", name), nil, []expr.Any{
		&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name},
	}}
}

func notrack() term { return term{"notrack", nil, []expr.Any{&expr.Notrack{}}} }

func accept() term {
	return term{"accept", nil, []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
}

func drop() term {
	return term{"drop", nil, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}}
}

func gotoChain(name string) term {
	return term{"goto " + name, nil, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: name}}}
}

func metaIs(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
}

func netUint16(v uint16) []byte  { return binary.BigEndian.AppendUint16(nil, v) }
func hostUint16(v uint16) []byte { return binary.NativeEndian.AppendUint16(nil, v) }
