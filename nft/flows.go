package nft

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Flow is a connection that a client opened to a VIP, as conntrack knows it.
type Flow struct {
	Client netip.AddrPort // port 0 where the protocol has none
	VIP    netip.AddrPort
	// Protocol is an IANA protocol number.
	Protocol uint8
	// Zone is the conntrack zone, 0 where nobody has made others.
	Zone uint16
	// Established says that a TCP connection is open on both sides. Other
	// protocols have no such thing.
	Established bool
	// Local says that a TCP connection ends at a socket of this host: its handshake is
	// over, and its addresses are not translated.
	Local bool
	// Live says that something may still come of the flow: of a TCP connection from
	// the answer to its SYN until both sides have closed it, of an SCTP association
	// likewise, of other protocols as long as conntrack knows the flow.
	Live bool
}

// Attributes of conntrack's messages that nl does not name
// (include/uapi/linux/netfilter/nfnetlink_conntrack.h), and the flags that say
// which part of a tuple to compare (net/netfilter/nf_internals.h).
const (
	ctaZone               = 18
	ctaFilter             = 25
	ctaFilterOrigFlags    = 1
	ctaFilterReplyFlags   = 2
	ctaFilterFlagIPDst    = 1 << 1
	ctaFilterFlagProto    = 1 << 3
	ctaProtoinfoSCTP      = 3
	ctaProtoinfoSCTPState = 1

	// States of SCTP (include/uapi/linux/netfilter/nf_conntrack_sctp.h).
	sctpCookieWait   = 2
	sctpShutdownRecd = 6

	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_GET
	ctNew    = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_NEW
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_DELETE
)

// Flows lists the flows whose original destination is one of the VIPs, in no
// order, in the network namespace of the calling thread. Those that a VIP opened
// are left out: they are the node's own, and stay on it. The kernel picks them
// (CTA_FILTER, Linux 5.8), and they stream: neither its table nor the list is
// ever whole in memory. It ends with the first error. A flow that comes or goes
// while the list runs may be missing or there twice. A listing costs some 3 us for
// each flow, and 10 ms for a table of 262144 slots.
func Flows(vips []netip.Addr) iter.Seq2[Flow, error] { return flowsOf(vips, anyProtocol) }

const anyProtocol = 0

// flowsOf is Flows for one protocol, which the kernel picks too.
func flowsOf(vips []netip.Addr, protocol uint8) iter.Seq2[Flow, error] {
	return func(yield func(Flow, error) bool) {
		for _, vip := range vips {
			stopped := false
			err := flowsTo(vip, protocol, func(f Flow) bool {
				stopped = !slices.Contains(vips, f.Client.Addr()) && !yield(f, nil)
				return !stopped
			})
			if stopped {
				return
			}
			if err != nil {
				yield(Flow{}, fmt.Errorf("listing the tracked flows to %s: %w", vip, err))
				return
			}
		}
	}
}

func flowsTo(vip netip.Addr, protocol uint8, yield func(Flow) bool) error {
	if !vip.Is4() {
		return errors.New("not an IPv4 address")
	}
	request := ctRequest(ctGet, unix.NLM_F_DUMP)
	tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nil)
	tuple.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil).AddRtAttr(nl.CTA_IP_V4_DST, vip.AsSlice())
	flags := uint32(ctaFilterFlagIPDst)
	if protocol != anyProtocol {
		tuple.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil).AddRtAttr(nl.CTA_PROTO_NUM, []byte{protocol})
		flags |= ctaFilterFlagProto
	}
	request.AddData(tuple)
	filter := nl.NewRtAttr(ctaFilter|unix.NLA_F_NESTED, nil)
	filter.AddRtAttr(ctaFilterOrigFlags, nl.Uint32Attr(flags))
	filter.AddRtAttr(ctaFilterReplyFlags, nl.Uint32Attr(0))
	request.AddData(filter)

	socket, err := openNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer socket.close()
	return socket.ask(request, func(msg []byte) (bool, error) {
		f, err := parseFlow(msg)
		return err == nil && yield(f), err
	})
}

// ctRequest is a message to conntrack about IPv4.
func ctRequest(kind, flags int) *nl.NetlinkRequest {
	request := nl.NewNetlinkRequest(kind, flags)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	return request
}

// naming adds the flow's name to a request.
func (f Flow) naming(request *nl.NetlinkRequest) *nl.NetlinkRequest {
	tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nil)
	ip := tuple.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil)
	ip.AddRtAttr(nl.CTA_IP_V4_SRC, f.Client.Addr().AsSlice())
	ip.AddRtAttr(nl.CTA_IP_V4_DST, f.VIP.Addr().AsSlice())
	proto := tuple.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{f.Protocol})
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, netUint16(f.Client.Port()))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, netUint16(f.VIP.Port()))
	request.AddData(tuple)
	if f.Zone != 0 {
		request.AddData(nl.NewRtAttr(ctaZone, netUint16(f.Zone)))
	}
	return request
}

// parseFlow reads one IPCTNL_MSG_CT_NEW: the nfgenmsg header and attributes.
func parseFlow(msg []byte) (Flow, error) {
	if len(msg) < nl.SizeofNfgenmsg {
		return Flow{}, fmt.Errorf("a flow of %d bytes is too short", len(msg))
	}
	f := Flow{Live: true}
	var err error
	var reply Flow
	all := attributes{rest: msg[nl.SizeofNfgenmsg:]}
	for all.next() {
		switch all.kind {
		case nl.CTA_TUPLE_ORIG:
			err = errors.Join(err, f.parseTuple(all.value))
		case nl.CTA_TUPLE_REPLY:
			err = errors.Join(err, reply.parseTuple(all.value))
		case nl.CTA_PROTOINFO:
			err = errors.Join(err, f.parseState(all.value))
		case ctaZone:
			f.Zone = uint16(all.number())
		}
	}
	if err := errors.Join(err, all.err()); err != nil {
		return Flow{}, fmt.Errorf("reading a flow: %w", err)
	}
	if !f.Client.Addr().Is4() || !f.VIP.Addr().Is4() {
		return Flow{}, errors.New("reading a flow: it has no IPv4 addresses")
	}
	f.Local = f.Local && reply.Client == f.VIP && reply.VIP == f.Client
	return f, nil
}

func (f *Flow) parseTuple(tuple []byte) error {
	var client, vip netip.Addr
	var clientPort, vipPort uint16
	var nested attributes
	parts := attributes{rest: tuple}
	for parts.next() {
		nested = attributes{rest: parts.value}
		for nested.next() {
			switch {
			case parts.kind == nl.CTA_TUPLE_IP && nested.kind == nl.CTA_IP_V4_SRC:
				client, _ = netip.AddrFromSlice(nested.value)
			case parts.kind == nl.CTA_TUPLE_IP && nested.kind == nl.CTA_IP_V4_DST:
				vip, _ = netip.AddrFromSlice(nested.value)
			case parts.kind == nl.CTA_TUPLE_PROTO && nested.kind == nl.CTA_PROTO_NUM:
				f.Protocol = uint8(nested.number())
			case parts.kind == nl.CTA_TUPLE_PROTO && nested.kind == nl.CTA_PROTO_SRC_PORT:
				clientPort = uint16(nested.number())
			case parts.kind == nl.CTA_TUPLE_PROTO && nested.kind == nl.CTA_PROTO_DST_PORT:
				vipPort = uint16(nested.number())
			}
		}
		if err := nested.err(); err != nil {
			return err
		}
	}
	f.Client, f.VIP = netip.AddrPortFrom(client, clientPort), netip.AddrPortFrom(vip, vipPort)
	return parts.err()
}

func (f *Flow) parseState(info []byte) error {
	protocols := attributes{rest: info}
	for protocols.next() {
		states := attributes{rest: protocols.value}
		for states.next() {
			state := uint8(states.number())
			switch {
			case protocols.kind == nl.CTA_PROTOINFO_TCP && states.kind == nl.CTA_PROTOINFO_TCP_STATE:
				f.Established = state == nl.TCP_CONNTRACK_ESTABLISHED
				f.Live = state >= nl.TCP_CONNTRACK_SYN_RECV && state <= nl.TCP_CONNTRACK_CLOSE_WAIT
				f.Local = f.Live && state > nl.TCP_CONNTRACK_SYN_RECV
			case protocols.kind == ctaProtoinfoSCTP && states.kind == ctaProtoinfoSCTPState:
				f.Live = state >= sctpCookieWait && state <= sctpShutdownRecd
			}
		}
		if err := states.err(); err != nil {
			return err
		}
	}
	return protocols.err()
}
