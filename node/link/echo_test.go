package link

import (
	"net"
	"net/netip"
	"slices"
	"testing"
)

// TestAskVIP: the answer of whoever serves the address is a proof, though this host has
// the address too.
func TestAskVIP(t *testing.T) {
	s := newSegment(t)
	node, other := s.join("n", "192.0.2.11/24"), s.join("o", "192.0.2.12/24")
	l := mustOpen(node, nil)
	node.do(l.Hold)
	ask := func() (by net.HardwareAddr) {
		t.Helper()
		node.do(func() (err error) {
			by, err = l.AskVIP(t.Context())
			return err
		})
		return by
	}
	if by := ask(); by != nil {
		t.Errorf("%v answered, and nobody serves", by)
	}
	// Another host answers for it. Packets to a group's MAC are not for ping, so it has
	// that MAC for its own. As every node it asks for MACs in its own name: a request in
	// the VIP's name is dropped by a host that has the VIP too.
	other.setSysctl("eth0/arp_announce", "2")
	other.ip("addr add 192.0.2.100/32 dev lo")
	other.run("nft", "add table netdev t; add chain netdev t in { type filter hook ingress device eth0 priority 0; }; add rule netdev t in ether daddr 01:00:5e:7f:02:64 meta pkttype set host")
	if by := ask(); by.String() != other.mac("eth0").String() {
		t.Errorf("%v answered, want %s", by, other.mac("eth0"))
	}
	s.ip("link set p2 down")
	if by := ask(); by != nil {
		t.Errorf("%v answered, and is not there", by)
	}
}

func TestResolve(t *testing.T) {
	s := newSegment(t)
	node, other := s.join("n", "192.0.2.11/24"), s.join("o", "192.0.2.12/24")
	l := mustOpen(node, nil)
	var found map[netip.Addr]net.HardwareAddr
	node.do(func() (err error) {
		found, err = l.Resolve(t.Context(), []netip.Addr{netip.MustParseAddr("192.0.2.12"), netip.MustParseAddr("192.0.2.13")})
		return err
	})
	if len(found) != 1 || hwAddr(found[netip.MustParseAddr("192.0.2.12")]) != other.mac("eth0") {
		t.Errorf("found %v", found)
	}
}

// TestNearIsThisSegment: what came by another interface, or over a router, did not come
// from here, on either medium.
func TestNearIsThisSegment(t *testing.T) {
	s := newSegment(t)
	n := newBeaconer(s, "n", "192.0.2.11", nil)
	user := s.join("c", "192.0.2.1/24")
	var near []string
	n.heard.mu.Lock()
	n.heard.each = func(r Received) {
		if r.Near {
			near = append(near, r.Medium.String()+" "+string(r.Payload))
		}
	}
	n.heard.mu.Unlock()
	injectFrame(s.host, "br0", beaconFrameFrom(netip.MustParseAddr("192.0.2.12"), 255, "by the wire"))
	user.do(func() error { return sendUDPWith(n.at(), []byte("over a router"), 254) })
	user.do(func() error { return sendUDPWith(n.at(), []byte("by unicast"), 255) })
	// From this host itself, by lo.
	n.do(func() error { return sendUDPWith(netip.AddrPortFrom(vip, beaconPort), []byte("from within"), 255) })
	eventually(t, "all have come", func() bool { return n.Status().Wire.Received+n.Status().Wire.Own+n.Status().Unicast.Received >= 4 })
	n.stopReceiving()
	slices.Sort(near)
	if want := []string{"unicast by unicast", "wire by the wire"}; !slices.Equal(near, want) {
		t.Errorf("near are %q, want %q", near, want)
	}
}
