package nft

import (
	"errors"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Whoever lingers goes by conntrack's word. An operator may have taken it away, by a
// `notrack` for the services' ports: then no connection survives a move, which is counted
// here. And where nothing lingers conntrack is not asked for, so that a host without it
// stays without: its table has room for so many flows only, and it would track all of the
// host's.

// countUntracked are the rules that count packets to a VIP which conntrack does not see.
func countUntracked(s Spec) []rule {
	seen := func(protocol term) rule {
		// What fails first for nearly all packets comes first.
		return rule{ctUntracked(), toVIP(s), iifname(is, s.Interface), protocol, count(counterUntracked)}
	}
	rules := []rule{seen(l4proto("tcp", unix.IPPROTO_TCP))}
	if s.lists() {
		udp := l4proto("udp", unix.IPPROTO_UDP)
		if s.BeaconPort != 0 { // which are not to be tracked
			udp = udpNotTo(s.BeaconPort)
		}
		rules = append(rules, seen(udp))
	}
	return rules
}

const counterUntracked = "untracked"

// reassembling is never entered, as tracking is not. The kernel puts datagrams together
// before prerouting while there is such a rule, and tracks nothing for it
// (nft_tproxy_init in net/netfilter/nft_tproxy.c).
func reassembling() chain {
	return chain{"reassembling", nil, []rule{{l4proto("tcp", unix.IPPROTO_TCP), tproxyNowhere()}}}
}

// reassembly is the chain by which the kernel reassembles what stackTable decides about.
func reassembly(s Spec) chain {
	if !s.linger() && s.Reassembles {
		return reassembling()
	}
	return tracking()
}

// guardTracking is the guard's chain by which flows are tracked whose agent has died.
func guardTracking(s Spec) []chain {
	if s.linger() {
		return []chain{tracking()}
	}
	return nil
}

// Reassembles says whether the kernel of the calling thread's network namespace can
// reassemble datagrams without conntrack (CONFIG_NFT_TPROXY); see Spec.Reassembles.
func Reassembles() bool {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return false
	}
	err = feature{family: inet, owned: true, use: probeChain(reassembling())}.probe(conn)
	return errors.Join(err, conn.CloseLasting()) == nil
}

func l4proto(name string, number byte) term {
	return term{"meta l4proto " + name, nil, metaIs(expr.MetaKeyL4PROTO, []byte{number})}
}

// tproxyNowhere would hand the packet to a socket that listens at port 1.
func tproxyNowhere() term {
	return term{"meta nfproto ipv4 tproxy ip to :1", nil, append(metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4}),
		&expr.Immediate{Register: 1, Data: netUint16(1)},
		&expr.TProxy{Family: unix.NFPROTO_IPV4, TableFamily: unix.NFPROTO_INET, RegPort: 1},
	)}
}

// ctUntracked matches a packet that somebody has taken from conntrack.
func ctUntracked() term {
	return term{"ct state untracked", nil, ctBits(expr.CtKeySTATE, expr.CtStateBitUNTRACKED)}
}

// udpNotTo matches UDP to another port.
func udpNotTo(port uint16) term {
	t := udpTo(port)
	t.text = "udp dport != " + t.text[len("udp dport "):]
	t.exprs = []expr.Any{t.exprs[0], &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: netUint16(port)}}
	return t
}
