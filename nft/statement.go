package nft

import (
	"fmt"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

var pktTypes = map[string]byte{"host": unix.PACKET_HOST, "multicast": unix.PACKET_MULTICAST}

// setPktType says how the packet came, whatever its MAC address: the stack
// serves only "host" (net/ipv4/tcp_ipv4.c, tcp_v4_rcv).
func setPktType(name string) term {
	return term{"meta pkttype set " + name, nil, []expr.Any{
		&expr.Immediate{Register: 1, Data: []byte{pktTypes[name]}},
		&expr.Meta{Key: expr.MetaKeyPKTTYPE, SourceRegister: true, Register: 1},
	}}
}

// bucketVerdict goes where the map sends the bucket of the source address. A
// bucket that is not in the map goes on to the next rule.
func bucketVerdict(s Spec, bucketMap string) term {
	return term{"jhash ip saddr " + bucketText(s) + " vmap @" + bucketMap, []protocol{protoIPv4},
		append(bucketOf(s, ipSrcOffset), verdictOf(bucketMap))}
}

// tagVerdict goes where the map sends the packet's tag.
func tagVerdict(tagMap string) term {
	return term{"meta priority vmap @" + tagMap, nil, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: 1}, verdictOf(tagMap),
	}}
}

// verdictOf looks register 1 up. Register 0 is the verdict; it must be named, or
// the map is only a set.
func verdictOf(verdictMap string) expr.Any {
	return &expr.Lookup{SourceRegister: 1, SetName: verdictMap, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT}
}

// tag is a number that a packet carries from one chain to another in its
// priority, where nobody looks before it leaves the host. 0 is none.
type tag uint32

func (t tag) String() string {
	if t == 0 {
		return "none"
	}
	return fmt.Sprintf("%x:%x", uint32(t)>>16, uint32(t)&0xffff) // as nft writes priorities
}

func setTag(t tag) term {
	return term{"meta priority set " + t.String(), nil, []expr.Any{
		&expr.Immediate{Register: 1, Data: hostUint32(uint32(t))},
		&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: 1},
	}}
}

// prolong has the element for the interface that the packet leaves by last until
// the time is up. It would also make the element, so a look at the set comes first.
func prolong(set string, timeout time.Duration) term {
	return term{fmt.Sprintf("update @%s { oifname timeout %dms }", set, timeout.Milliseconds()), nil, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Dynset{SrcRegKey: 1, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: timeout},
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
