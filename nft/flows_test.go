package nft

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/node"
)

func flows(t testing.TB, ns *lab.Namespace, vips ...netip.Addr) []Flow {
	t.Helper()
	var all []Flow
	err := ns.Do(func() error {
		for f, err := range Flows(vips) {
			if err != nil {
				return err
			}
			all = append(all, f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFlowsAreThoseToTheVIPOnly(t *testing.T) {
	s := testSpec()
	w := newWire(t, 1)
	ns := w.nodes[0]
	f := installed(t, ns, s)
	commit(t, f, allBuckets(s, node.Own)...)

	// Decoys: to the node's own address, and from the node.
	run(t, w.client, "ping -c 1 -W 5 10.77.0.1")
	run(t, ns, "ping -c 1 -W 5 "+clientAddr(0).String())
	if got := flows(t, ns, vip); len(got) != 0 {
		t.Fatalf("flows before there are any: %v", got)
	}

	// One open connection, one closed by the server, UDP, a ping.
	var open net.Conn
	var listener net.Listener
	err := ns.Do(func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(vip, 8080).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	err = w.client.Do(func() (err error) {
		dialer := net.Dialer{Timeout: soon, LocalAddr: &net.TCPAddr{IP: clientAddr(1).AsSlice(), Port: 4000}}
		open, err = dialer.Dial("tcp4", listener.Addr().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	w.connects(clientAddr(2), soon)
	w.answers(clientAddr(3), 100, soon)
	w.pings(clientAddr(4), soon)

	type kind struct {
		client      netip.Addr
		port        uint16
		protocol    uint8
		established bool
	}
	want := map[kind]bool{
		{clientAddr(1), 8080, unix.IPPROTO_TCP, true}:     true,
		{clientAddr(2), tcpPort, unix.IPPROTO_TCP, false}: true,
		{clientAddr(3), udpPort, unix.IPPROTO_UDP, false}: true,
		{clientAddr(4), 0, unix.IPPROTO_ICMP, false}:      true,
	}
	eventually(t, "the closed connection is known as such", func() bool {
		for _, f := range flows(t, ns, vip) {
			if f.Client.Addr() == clientAddr(2) && f.Established {
				return false
			}
		}
		return true
	})
	got := flows(t, ns, vip)
	for _, f := range got {
		k := kind{f.Client.Addr(), f.VIP.Port(), f.Protocol, f.Established}
		if !want[k] || f.VIP.Addr() != vip {
			t.Errorf("unexpected flow %+v", f)
		}
		if k.established && f.Client.Port() != 4000 {
			t.Errorf("the client's port in %+v, want 4000", f)
		}
		delete(want, k)
	}
	if len(want) != 0 {
		t.Errorf("flows %v are missing in %v", want, got)
	}
	if both := flows(t, ns, netip.MustParseAddr("10.77.0.1"), vip); len(both) != len(got)+1 {
		t.Errorf("two addresses have %d flows, want %d", len(both), len(got)+1)
	}
	// Who has seen enough may stop.
	err = ns.Do(func() error {
		seen := 0
		for range Flows([]netip.Addr{vip}) {
			seen++
			break
		}
		if seen != 1 {
			t.Errorf("%d flows seen before stopping, want 1", seen)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFlowsNamesAnAddressThatItCannotList(t *testing.T) {
	for _, err := range Flows([]netip.Addr{netip.IPv6LinkLocalAllNodes()}) {
		if err == nil || !strings.Contains(err.Error(), "flows to ff02::1: not an IPv4 address") {
			t.Errorf("error %v", err)
		}
	}
}

func FuzzParseFlow(f *testing.F) {
	encoder := netlink.NewAttributeEncoder()
	encoder.Nested(nl.CTA_TUPLE_ORIG, func(tuple *netlink.AttributeEncoder) error {
		tuple.Nested(nl.CTA_TUPLE_IP, func(ip *netlink.AttributeEncoder) error {
			ip.Bytes(nl.CTA_IP_V4_SRC, []byte{10, 0, 0, 1})
			ip.Bytes(nl.CTA_IP_V4_DST, vip.AsSlice())
			return nil
		})
		tuple.Nested(nl.CTA_TUPLE_PROTO, func(proto *netlink.AttributeEncoder) error {
			proto.ByteOrder = binary.BigEndian
			proto.Uint8(nl.CTA_PROTO_NUM, unix.IPPROTO_TCP)
			proto.Uint16(nl.CTA_PROTO_SRC_PORT, 1)
			proto.Uint16(nl.CTA_PROTO_DST_PORT, 2)
			return nil
		})
		return nil
	})
	encoder.Nested(nl.CTA_PROTOINFO, func(info *netlink.AttributeEncoder) error {
		info.Nested(nl.CTA_PROTOINFO_TCP, func(tcp *netlink.AttributeEncoder) error {
			tcp.Uint8(nl.CTA_PROTOINFO_TCP_STATE, nl.TCP_CONNTRACK_ESTABLISHED)
			return nil
		})
		return nil
	})
	f.Add(append([]byte{unix.AF_INET, 0, 0, 0}, must(encoder.Encode())...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		flow, err := parseFlow(msg)
		if err == nil && (!flow.Client.Addr().IsValid() || !flow.VIP.Addr().IsValid()) {
			t.Errorf("%x: a flow without addresses: %+v", msg, flow)
		}
	})
}
