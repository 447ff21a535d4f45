package nft

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rule is what one line of a chain matches and does, in order.
type rule []term

// term is one match or statement: its text in nft's language, and the kernel's
// expressions for it. The functions in match.go and statement.go are the only
// place where the two meet. Register 1 is free between terms.
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
	protoTCP
	protoUDP
	protoSCTP
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
	case protoTCP:
		return metaIs(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP})
	case protoUDP:
		return metaIs(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_UDP})
	case protoSCTP:
		return metaIs(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_SCTP})
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

func metaIs(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
}

func netUint16(v uint16) []byte  { return binary.BigEndian.AppendUint16(nil, v) }
func hostUint16(v uint16) []byte { return binary.NativeEndian.AppendUint16(nil, v) }
func hostUint32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// ifname is an interface's name as the kernel compares it.
func ifname(name string) []byte {
	var padded [unix.IFNAMSIZ]byte
	copy(padded[:], name)
	return padded[:]
}
