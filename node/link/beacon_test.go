package link

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

func threeBeaconers(s *segment) []*beaconer {
	var nodes []*beaconer
	for i := range 3 {
		nodes = append(nodes, newBeaconer(s, fmt.Sprintf("n%d", i), fmt.Sprintf("192.0.2.%d", 11+i), nil))
	}
	return nodes
}

// Each of three nodes hears both others on both media and nothing else, through the
// rules that a client's packets meet, and the marked beacons keep its lease.
func TestThreeNodesHearEachOther(t *testing.T) {
	nodes := threeBeaconers(newSegment(t))
	for i, n := range nodes {
		n.send(says(fmt.Sprintf("n%d", i), true, nodes[(i+1)%3].at(), nodes[(i+2)%3].at()))
	}
	for i, n := range nodes {
		want := map[string]bool{}
		for j, peer := range nodes {
			if i != j {
				want[fmt.Sprintf("wire %v ttl 255: n%d", peer.at(), j)] = true
				want[fmt.Sprintf("unicast %v ttl 255: n%d", peer.at(), j)] = true
			}
		}
		for beacon := range want {
			eventually(t, fmt.Sprintf("n%d heard 50 times: %s", i, beacon), func() bool { return n.heard.of(beacon) >= 50 })
		}
		if diff := cmp.Diff(want, n.heard.kinds()); diff != "" {
			t.Errorf("n%d heard (-want +got):\n%s", i, diff)
		}
	}
	for i, n := range nodes {
		status := n.Status()
		if status.Wire.Sent < 50 || status.Unicast.Sent < 100 || status.Marked != status.Wire.Sent {
			t.Errorf("n%d sent %+v", i, status)
		}
		for _, m := range []MediumStatus{status.Wire, status.Unicast} {
			if m.Received < 100 || m.Failed+m.Own+m.WrongTTL+m.Oversized+m.Overflows != 0 {
				t.Errorf("n%d: %+v", i, m)
			}
		}
		if counter(n.host, "came") < 100 || counter(n.host, "guarded") != 0 {
			t.Errorf("n%d: %d came to the ingress hook, %d met the guard", i, counter(n.host, "came"), counter(n.host, "guarded"))
		}
		if !leaseHeld(n.host) {
			t.Errorf("n%d: the lease ran out", i)
		}
	}
}

// isBeacon picks the beacons on the wire.
func isBeacon(frame []byte) bool { return frame[ethernetLen+9] == unix.IPPROTO_UDP && frame[0]&1 == 1 }

// What leaves the node is what an independent writer of packets makes of the same.
func TestBeaconOnTheWire(t *testing.T) {
	s := newSegment(t)
	n := newBeaconer(s, "n", "192.0.2.11", nil)
	seen := captureFrames(s.host, "p1", isBeacon)
	payload := bytes.Repeat([]byte("beacon"), MaxBeacon)[:MaxBeacon]
	n.send(says(string(payload), true))
	eventually(t, "a frame", func() bool { return len(seen.all()) > 0 })

	ip := layers.IPv4{
		Version: 4, IHL: 5, TOS: 0xc0, Flags: layers.IPv4DontFragment, TTL: 255, Protocol: layers.IPProtocolUDP,
		SrcIP: n.link.Address().AsSlice(), DstIP: vip.AsSlice(),
	}
	udp := layers.UDP{SrcPort: beaconPort, DstPort: beaconPort}
	if err := udp.SetNetworkLayerForChecksum(&ip); err != nil {
		t.Fatal(err)
	}
	want := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(want, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: n.mac("eth0").hardware(), DstMAC: sharedMAC.hardware(), EthernetType: layers.EthernetTypeIPv4},
		&ip, &udp, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Bytes(), seen.all()[0]); diff != "" {
		t.Errorf("frame (-want +got):\n%s", diff)
	}
}

// The mark is Build's decision for each beacon. (A lease that ran out stays so: the
// egress rule looks it up before it prolongs it.)
func TestTheMarkIsBuildsDecision(t *testing.T) {
	n := newBeaconer(newSegment(t), "n", "192.0.2.11", nil)
	var mark atomic.Bool
	n.send(func(now time.Duration, buf []byte) ([]byte, bool, []netip.AddrPort, bool) {
		return append(buf, 'x'), mark.Load(), nil, true
	})
	sent := func(atLeast uint64) {
		from := n.Status().Wire.Sent
		eventually(t, "beacons were sent", func() bool { return n.Status().Wire.Sent >= from+atLeast })
	}
	sent(20)
	if got, all := counter(n.host, "marked"), counter(n.host, "left"); got != 0 || all < 20 {
		t.Errorf("%d of %d frames with a mark, want none", got, all)
	}
	eventually(t, "the lease has run out", func() bool { return !leaseHeld(n.host) })
	mark.Store(true)
	sent(20)
	if got := counter(n.host, "marked"); got < 15 {
		t.Errorf("%d frames with a mark, want most of the last 20", got)
	}
	if leaseHeld(n.host) {
		t.Error("a marked beacon made a lease that had run out")
	}
	if urgent, left := counter(n.host, "urgent"), counter(n.host, "left"); urgent < left {
		t.Errorf("%d frames with priority 7, of %d", urgent, left)
	}
}

// A change is told at once, not at the next interval; a storm of changes is not a
// storm of beacons.
func TestKick(t *testing.T) {
	s := newSegment(t)
	n, peer := newBeaconer(s, "n", "192.0.2.11", func(c *BeaconConfig) { c.Interval = 40 * time.Second }), newBeaconer(s, "m", "192.0.2.12", nil)
	n.send(says("x", false))
	beacon := fmt.Sprintf("wire %v ttl 255: x", n.at())
	eventually(t, "the first beacon", func() bool { return peer.heard.of(beacon) == 1 })
	for i := range extraBurst {
		kicked := time.Now()
		n.Kick()
		eventually(t, "the beacon of a kick", func() bool { return peer.heard.of(beacon) == i+2 })
		t.Logf("heard %v after the kick", peer.heard.lastAt().Sub(kicked))
	}
	for range 1000 {
		n.Kick()
	}
	time.Sleep(300 * time.Millisecond) // 10 s were to pass before the next
	if got := peer.heard.of(beacon); got != 1+extraBurst {
		t.Errorf("%d beacons after a storm of kicks, want %d", got, 1+extraBurst)
	}
	if got := n.Status().Extra; got != extraBurst {
		t.Errorf("%d extra beacons counted, want %d", got, extraBurst)
	}
}

// A kick that waits for its turn is not forgotten, and comes before the next interval.
func TestKicksBeyondTheRateAreLate(t *testing.T) {
	n := newBeaconer(newSegment(t), "n", "192.0.2.11", func(c *BeaconConfig) { c.Interval = 8 * time.Second })
	n.send(says("x", false))
	eventually(t, "the first beacon", func() bool { return n.Status().Wire.Sent == 1 })
	for i := range uint64(extraBurst + 1) {
		n.Kick()
		eventually(t, "the beacon of a kick", func() bool { return n.Status().Extra == i+1 })
	}
}

func TestNoBeaconsIfBuildHasNone(t *testing.T) {
	s := newSegment(t)
	n, peer := newBeaconer(s, "n", "192.0.2.11", nil), newBeaconer(s, "m", "192.0.2.12", nil)
	to := []netip.AddrPort{peer.at()}
	var silent atomic.Bool
	n.send(func(now time.Duration, buf []byte) ([]byte, bool, []netip.AddrPort, bool) {
		return append(buf, 'x'), true, to, !silent.Load()
	})
	eventually(t, "beacons", func() bool { return n.Status().Wire.Sent > 5 })
	silent.Store(true)
	eventually(t, "beacons are withheld", func() bool { return n.Status().Withheld > 0 })
	before := n.Status()
	n.Kick()
	eventually(t, "more beacons are withheld", func() bool { return n.Status().Withheld > 10 })
	after := n.Status()
	if after.Wire.Sent != before.Wire.Sent || after.Unicast.Sent != before.Unicast.Sent || counter(n.host, "left") != before.Wire.Sent {
		t.Errorf("sent %d and %d beacons though Build had none", after.Wire.Sent-before.Wire.Sent, after.Unicast.Sent-before.Unicast.Sent)
	}
	silent.Store(false)
	eventually(t, "beacons again", func() bool { return n.Status().Wire.Sent > after.Wire.Sent })
}

func TestBeaconsOfBadLengthAreNotSent(t *testing.T) {
	n := newBeaconer(newSegment(t), "n", "192.0.2.11", nil)
	n.send(says(strings.Repeat("x", MaxBeacon+1), true))
	eventually(t, "they are counted", func() bool { return n.Status().TooLong > 3 })
	if got := n.Status(); got.Wire.Sent+got.Wire.Failed != 0 {
		t.Errorf("sent %+v", got.Wire)
	}
}

// Beacons follow the interface through whatever becomes of it, on the sockets that
// were opened once.
func TestBeaconsFollowTheInterface(t *testing.T) {
	s := newSegment(t)
	n, peer := newBeaconer(s, "n", "192.0.2.11", nil), newBeaconer(s, "m", "192.0.2.12", nil)
	seen := captureFrames(peer.host, "eth0", isBeacon)
	n.send(says("x", true, peer.at()))
	beacons := []string{fmt.Sprintf("wire %v ttl 255: x", n.at()), fmt.Sprintf("unicast %v ttl 255: x", n.at())}
	hears := func() {
		t.Helper()
		for _, beacon := range beacons {
			from := peer.heard.of(beacon)
			eventually(t, "the peer hears again: "+beacon, func() bool { return peer.heard.of(beacon) > from+3 })
		}
		all := seen.all()
		if got, want := hwAddr(all[len(all)-1][6:12]), n.mac("eth0"); got != want {
			t.Errorf("beacons come from %s, want %s", got, want)
		}
	}
	hears()

	n.ip("link set eth0 down")
	eventually(t, "sending fails", func() bool { return n.Status().Wire.Failed > 3 })
	if got := n.Status().Wire.LastError; !errors.Is(got, unix.ENETDOWN) {
		t.Errorf("last error %v, want that the network is down", got)
	}
	n.ip("link set eth0 up")
	hears()

	n.ip("link set eth0 address 02:00:00:00:00:aa")
	eventually(t, "the new MAC is seen", func() bool { return hwAddr(n.link.HardwareAddr()) == n.mac("eth0") })
	hears()

	failed := n.Status().Wire.Failed
	n.ip("link del eth0")
	eventually(t, "sending fails", func() bool { return n.Status().Wire.Failed > failed+3 })
	s.plug(n.host, "eth0", "192.0.2.11/24")
	nft(n.host, "delete table netdev t\n"+beaconRules) // rules at an interface go with it
	hears()
	eventually(t, "and is heard", func() bool {
		from := n.Status().Wire.Received
		injectFrame(s.host, "br0", beaconFrameFrom(peer.link.Address(), 255, "y"))
		return n.Status().Wire.Received > from
	})
}

// Beacons are never answered with an ICMP error: the socket is there before the VIP,
// and after it.
func TestNoErrorsAnswerBeacons(t *testing.T) {
	s := newSegment(t)
	n := newBeaconer(s, "n", "192.0.2.11", nil)
	peer := &beaconer{host: s.join("m", "192.0.2.12/24"), heard: &heard{beacons: map[string]int{}}}
	nft(peer.host, beaconRules)
	peer.link = mustOpen(peer.host, nil)
	errorsSeen := captureFrames(s.host, "p2", func(frame []byte) bool { return frame[ethernetLen+9] == unix.IPPROTO_ICMP })
	n.send(says("x", true))
	eventually(t, "beacons", func() bool { return n.Status().Wire.Sent > 5 })

	peer.open(nil)
	up(peer.host, peer.link)
	peer.receive()
	eventually(t, "the peer hears", func() bool { return peer.Status().Wire.Received > 20 })
	peer.do(peer.link.Down)
	peer.stopReceiving()
	if got := errorsSeen.all(); len(got) != 0 {
		t.Errorf("%d ICMP messages, the first %x", len(got), got[0])
	}
	// And the capture would have seen one:
	if err := peer.Close(); err != nil {
		t.Fatal(err)
	}
	peer.do(peer.link.Up)
	eventually(t, "an ICMP error without a socket", func() bool { return len(errorsSeen.all()) > 0 })
}

// A decision to mark that is old by the time of sending is not followed, and if the
// machine stood still just then, that is told.
func TestOldDecisionsToMark(t *testing.T) {
	var clock atomic.Int64 // each reading of it takes 10 ms
	tick := func() time.Duration { return time.Duration(clock.Add(int64(10 * time.Millisecond))) }
	for _, c := range []struct {
		name                   string
		fresh                  time.Duration
		marked, stale, overdue uint64
		took                   []time.Duration
	}{
		{"no bound", 0, 1, 0, 0, nil},
		{"in time", 20 * time.Millisecond, 1, 0, 0, nil},
		{"stale", 5 * time.Millisecond, 0, 1, 0, nil},
		{"overdue", 15 * time.Millisecond, 1, 0, 1, []time.Duration{30 * time.Millisecond}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var took []time.Duration
			n := newBeaconer(newSegment(t), "n", "192.0.2.11", func(config *BeaconConfig) {
				config.Fresh, config.Overdue = c.fresh, func(d time.Duration) { took = append(took, d) }
				config.Now = tick
			})
			n.sender.beacon(says("x", true))
			status := n.Status()
			if status.Marked != c.marked || status.Stale != c.stale || status.Overdue != c.overdue || !slices.Equal(took, c.took) {
				t.Errorf("marked %d, stale %d, overdue %d, told %v; want %d, %d, %d, %v",
					status.Marked, status.Stale, status.Overdue, took, c.marked, c.stale, c.overdue, c.took)
			}
			if got := counter(n.host, "marked"); got != c.marked || counter(n.host, "left") != 1 {
				t.Errorf("%d of %d frames marked, want %d of 1", got, counter(n.host, "left"), c.marked)
			}
		})
	}
}

func TestOpenBeaconsNamesThePortThatIsTaken(t *testing.T) {
	s := newSegment(t)
	n := newBeaconer(s, "n", "192.0.2.11", nil)
	var second *Beacons
	err := n.Do(func() (err error) {
		second, err = n.link.OpenBeacons(BeaconConfig{Port: beaconPort, Interval: time.Second, Now: testClock})
		return err
	})
	want := "cluster.beacon_port: UDP port 7947 of 192.0.2.100 is in use by another program"
	if err == nil || !strings.HasPrefix(err.Error(), want) || second != nil {
		t.Errorf("error %v, want one that begins with %q", err, want)
	}
}
