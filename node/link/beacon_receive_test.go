package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/ipv4"
)

func TestMediumStrings(t *testing.T) {
	if got := fmt.Sprint(MediumWire, MediumUnicast, Medium(9)); got != "wire unicast medium(9)" {
		t.Error(got)
	}
}

// What a router has passed on, and what is too long, is counted and not delivered.
func TestReceiveDropsWhatNoNodeSends(t *testing.T) {
	s := newSegment(t)
	n := newBeaconer(s, "n", "192.0.2.11", nil)
	peer := netip.MustParseAddr("192.0.2.12")
	injectFrame(s.host, "br0", beaconFrameFrom(peer, 254, "from afar"))
	injectFrame(s.host, "br0", beaconFrameFrom(peer, 1, "from afar"))
	injectFrame(s.host, "br0", beaconFrameFrom(peer, 255, ""))
	injectFrame(s.host, "br0", beaconFrameFrom(peer, 255, "good"))

	// By unicast longer ones may come, in fragments, which the kernel makes whole.
	user := s.join("c", "192.0.2.1/24")
	for _, length := range []int{MaxBeacon, MaxBeacon + 1, 60000} {
		user.do(func() error { return sendUDP(n.at(), bytes.Repeat([]byte("x"), length)) })
	}
	want := map[string]bool{
		"wire 192.0.2.12:7947 ttl 255: ":                                     true,
		"wire 192.0.2.12:7947 ttl 255: good":                                 true,
		"unicast 192.0.2.1:7948 ttl 64: " + strings.Repeat("x", MaxBeacon):   true,
		"unicast 192.0.2.1:7948 ttl 64: " + strings.Repeat("x", MaxBeacon+1): true,
		"unicast 192.0.2.1:7948 ttl 64: " + strings.Repeat("x", 60000):       true,
	}
	eventually(t, "all have come", func() bool {
		status := n.Status()
		return status.Wire.Received == 2 && status.Wire.WrongTTL == 2 && status.Unicast.Received == 3
	})
	if diff := cmp.Diff(want, n.heard.kinds()); diff != "" {
		t.Errorf("heard (-want +got):\n%s", diff)
	}
}

// sendUDP sends a datagram from port 7948.
func sendUDP(to netip.AddrPort, payload []byte) error { return sendUDPWith(to, payload, 64) }

func sendUDPWith(to netip.AddrPort, payload []byte, ttl int) error {
	conn, err := net.DialUDP("udp4", &net.UDPAddr{Port: beaconPort + 1}, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := ipv4.NewConn(conn).SetTTL(ttl); err != nil {
		return err
	}
	_, err = conn.Write(payload)
	return err
}

// A switch that sends a node's beacons back, or another host with the node's address.
func TestReflectedOwnBeaconIsCounted(t *testing.T) {
	s := newSegment(t)
	n := newBeaconer(s, "n", "192.0.2.11", nil)
	s.ip("link set p1 type bridge_slave hairpin on")
	n.send(says("x", false))
	eventually(t, "own beacons come back", func() bool { return counter(n.host, "came") > 5 })
	if status := n.Status(); status.Wire.Own+status.Wire.Received != 0 {
		t.Errorf("%+v: the kernel let a datagram from this host's own address in", status.Wire)
	}
	// A host that is set up to accept them sees them in the socket.
	n.setSysctl("all/accept_local", "1")
	n.setSysctl("eth0/accept_local", "1")
	eventually(t, "own beacons are counted", func() bool { return n.Status().Wire.Own > 5 })
	if got := n.heard.kinds(); len(got) != 0 {
		t.Errorf("delivered %v", got)
	}
}

// A socket that overflows, because the machine has no time to read it, is told.
func TestReceiveCountsOverflows(t *testing.T) {
	s := newSegment(t)
	h := s.join("n", "192.0.2.11/24")
	n := &beaconer{host: h, link: mustOpen(h, nil), heard: &heard{beacons: map[string]int{}}}
	n.open(nil) // and nobody reads
	h.do(func() error {
		conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(n.at()))
		if err != nil {
			return err
		}
		defer conn.Close()
		for range 20000 {
			if _, err := conn.Write([]byte("x")); err != nil {
				return err
			}
		}
		return nil
	})
	n.receive()
	eventually(t, "all but the last overflow is known", func() bool {
		status := n.Status().Unicast
		t.Log(status)
		return status.Own > 4000 && status.Overflows == 0
	})
	h.do(func() error { return sendUDP(n.at(), []byte("x")) })
	eventually(t, "the overflow is known", func() bool {
		status := n.Status().Unicast
		return status.Overflows > 1000 && status.Own+status.Overflows == 20001
	})
}

func TestReceiveEndsWithItsContextAndBeginsAgain(t *testing.T) {
	s := newSegment(t)
	n := newBeaconer(s, "n", "192.0.2.11", nil)
	n.stopReceiving()
	if err := n.Receive(done(), n.heard.add); err != nil {
		t.Errorf("Receive returned %v", err)
	}
	injectFrame(s.host, "br0", beaconFrameFrom(netip.MustParseAddr("192.0.2.12"), 255, "x"))
	n.receive()
	eventually(t, "a beacon", func() bool { return n.Status().Wire.Received == 1 })
}

func done() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestReceiveAfterCloseIsAnError(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	n := &beaconer{host: h, link: mustOpen(h, nil)}
	n.open(nil)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Receive(t.Context(), func(Received) {}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive returned %v", err)
	}
	if err := n.Send(t.Context(), says("x", false)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send returned %v", err)
	}
	n.Kick() // must not panic, nor write to whatever has the descriptor now
}

// What has come and was not read is known without reading it, on either medium.
func TestUnread(t *testing.T) {
	s := newSegment(t)
	n := newBeaconer(s, "n", "192.0.2.11", nil)
	user := s.join("c", "192.0.2.1/24")
	for medium, send := range map[string]func(){
		"wire": func() { injectFrame(s.host, "br0", beaconFrameFrom(netip.MustParseAddr("192.0.2.12"), 255, "x")) },
		"unicast": func() {
			user.do(func() error { return sendUDP(n.at(), []byte("x")) })
		},
		"unicast, with an empty one first": func() { // whose length says nothing
			user.do(func() error { return sendUDP(n.at(), nil) })
			user.do(func() error { return sendUDP(n.at(), []byte("x")) })
		},
	} {
		n.stopReceiving()
		if n.Unread() {
			t.Fatalf("%s: something is unread though nothing was sent", medium)
		}
		send()
		eventually(t, medium+": it is unread", n.Unread)
		n.receive()
		eventually(t, medium+": it was read", func() bool { return !n.Unread() })
	}
}
