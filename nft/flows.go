package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Flow is a connection that a client opened to a VIP, as conntrack knows it.
type Flow struct {
	Client netip.AddrPort // port 0 where the protocol has none
	VIP    netip.AddrPort
	// Protocol is an IANA protocol number.
	Protocol uint8
	// Established says that a TCP connection is open on both sides. Other
	// protocols have no such thing.
	Established bool
}

// Attributes of conntrack's messages that nl does not name
// (include/uapi/linux/netfilter/nfnetlink_conntrack.h), and the flag that says
// which part of a tuple to compare (net/netfilter/nf_internals.h).
const (
	ctaFilter           = 25
	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
	ctaFilterFlagIPDst  = 1 << 1
)

// errStopped ends a listing that nobody reads any more.
var errStopped = errors.New("stopped")

// Flows lists the flows whose original destination is one of the VIPs, in no
// order, in the network namespace of the calling thread. The kernel picks them
// (CTA_FILTER, Linux 5.8), and they stream: neither its table nor the list is
// ever whole in memory. It ends with the first error. A flow that comes or goes
// while the list runs may be missing or there twice.
func Flows(vips []netip.Addr) iter.Seq2[Flow, error] {
	return func(yield func(Flow, error) bool) {
		for _, vip := range vips {
			err := flowsTo(vip, func(f Flow) bool { return yield(f, nil) })
			if errors.Is(err, errStopped) {
				return
			}
			if err != nil {
				yield(Flow{}, fmt.Errorf("listing the tracked flows to %s: %w", vip, err))
				return
			}
		}
	}
}

func flowsTo(vip netip.Addr, yield func(Flow) bool) error {
	if !vip.Is4() {
		return errors.New("not an IPv4 address")
	}
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nil)
	tuple.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil).AddRtAttr(nl.CTA_IP_V4_DST, vip.AsSlice())
	request.AddData(tuple)
	filter := nl.NewRtAttr(ctaFilter|unix.NLA_F_NESTED, nil)
	filter.AddRtAttr(ctaFilterOrigFlags, nl.Uint32Attr(ctaFilterFlagIPDst))
	filter.AddRtAttr(ctaFilterReplyFlags, nl.Uint32Attr(0))
	request.AddData(filter)

	var stopped bool
	var broken error
	err := request.ExecuteIter(unix.NETLINK_NETFILTER, unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_NEW, func(msg []byte) bool {
		var f Flow
		if f, broken = parseFlow(msg); broken != nil {
			return false
		}
		stopped = !yield(f)
		return !stopped
	})
	switch {
	case broken != nil:
		return broken
	case stopped:
		return errStopped
	case errors.Is(err, nl.ErrDumpInterrupted): // the table grew: see Flows
		return nil
	}
	return err
}

// parseFlow reads one IPCTNL_MSG_CT_NEW: the nfgenmsg header and attributes.
func parseFlow(msg []byte) (Flow, error) {
	if len(msg) < nl.SizeofNfgenmsg {
		return Flow{}, fmt.Errorf("a flow of %d bytes is too short", len(msg))
	}
	attributes, err := netlink.NewAttributeDecoder(msg[nl.SizeofNfgenmsg:])
	if err != nil {
		return Flow{}, fmt.Errorf("reading a flow: %w", err)
	}
	var f Flow
	for attributes.Next() {
		switch attributes.Type() {
		case nl.CTA_TUPLE_ORIG:
			attributes.Nested(f.parseTuple)
		case nl.CTA_PROTOINFO:
			attributes.Nested(f.parseState)
		}
	}
	if err := attributes.Err(); err != nil {
		return Flow{}, fmt.Errorf("reading a flow: %w", err)
	}
	if !f.Client.IsValid() || !f.VIP.IsValid() {
		return Flow{}, errors.New("reading a flow: it has no IPv4 addresses")
	}
	return f, nil
}

func (f *Flow) parseTuple(tuple *netlink.AttributeDecoder) error {
	var client, vip netip.Addr
	var clientPort, vipPort uint16
	for tuple.Next() {
		switch tuple.Type() {
		case nl.CTA_TUPLE_IP:
			tuple.Nested(func(ip *netlink.AttributeDecoder) error {
				for ip.Next() {
					switch ip.Type() {
					case nl.CTA_IP_V4_SRC:
						client, _ = netip.AddrFromSlice(ip.Bytes())
					case nl.CTA_IP_V4_DST:
						vip, _ = netip.AddrFromSlice(ip.Bytes())
					}
				}
				return nil
			})
		case nl.CTA_TUPLE_PROTO:
			tuple.Nested(func(proto *netlink.AttributeDecoder) error {
				proto.ByteOrder = binary.BigEndian
				for proto.Next() {
					switch proto.Type() {
					case nl.CTA_PROTO_NUM:
						f.Protocol = proto.Uint8()
					case nl.CTA_PROTO_SRC_PORT:
						clientPort = proto.Uint16()
					case nl.CTA_PROTO_DST_PORT:
						vipPort = proto.Uint16()
					}
				}
				return nil
			})
		}
	}
	f.Client, f.VIP = netip.AddrPortFrom(client, clientPort), netip.AddrPortFrom(vip, vipPort)
	return nil
}

func (f *Flow) parseState(info *netlink.AttributeDecoder) error {
	for info.Next() {
		if info.Type() != nl.CTA_PROTOINFO_TCP {
			continue
		}
		info.Nested(func(tcp *netlink.AttributeDecoder) error {
			for tcp.Next() {
				if tcp.Type() == nl.CTA_PROTOINFO_TCP_STATE {
					f.Established = tcp.Uint8() == nl.TCP_CONNTRACK_ESTABLISHED
				}
			}
			return nil
		})
	}
	return nil
}
