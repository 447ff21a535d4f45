package nft

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/peervip/peervip/node"
)

// tick is the longest that a kernel counts time in.
const tick = 10 * time.Millisecond

func leaseSpec(lease time.Duration) Spec {
	s := testSpec()
	s.Services[0].Linger = LingerTCP
	s.BeaconPort, s.Lease, s.LeaseMark = beaconPort, lease, leaseMark
	return s
}

func inGoodTime() time.Time { return time.Now().Add(time.Minute) }

// arm gives the filter its lease, with the changes.
func arm(t testing.TB, f *Filter, changes ...Change) {
	t.Helper()
	armed, err := f.Apply(Transaction{Changes: changes, ArmBy: inGoodTime()})
	if err != nil || !armed {
		t.Fatalf("armed %t, error %v", armed, err)
	}
}

func leaseLeft(t testing.TB, f *Filter) (time.Duration, bool) {
	t.Helper()
	left, held, err := f.LeaseLeft()
	if err != nil {
		t.Fatal(err)
	}
	return left, held
}

// beacon is a beacon's content as far as the rules look.
func beacon() []gopacket.SerializableLayer {
	return []gopacket.SerializableLayer{&layers.UDP{SrcPort: beaconPort, DstPort: beaconPort}, gopacket.Payload("sixteen or more bytes")}
}

// beaconFrom is how node i addresses a beacon.
func (w *wire) beaconFrom(i int) packetTo {
	return packetTo{in: w.nodes[i], from: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}), ttl: 255, protocol: layers.IPProtocolUDP, mark: leaseMark}
}

// Whatever the bucket's state, without a lease nothing is accepted: whole packets
// or fragments, of flows known or new.
func TestWithoutALeaseNothingIsAccepted(t *testing.T) {
	s := leaseSpec(200 * time.Millisecond)
	w := newTalkingWire(t, 1)
	f := installed(t, w.nodes[0], s)
	commit(t, f, allBuckets(s, node.Own)...)
	from := clientAddr(0)
	silent := func(when string) {
		t.Helper()
		before := counters(t, f)
		if udp, fragmented, tcp, pings := w.answers(from, 100, never), w.answers(from, 4000, never), w.connects(from, never), w.pings(from, never); udp+fragmented+tcp != "" || pings != 0 {
			t.Errorf("%s: UDP %q, in fragments %q, TCP %q, %d pings answered", when, udp, fragmented, tcp, pings)
		}
		if after := counters(t, f); after.Unleased.Packets < before.Unleased.Packets+6 || after.Accepted() != before.Accepted() {
			t.Errorf("%s: %+v without a lease, and %+v accepted; before: %+v and %+v", when, after.Unleased, after.Accepted(), before.Unleased, before.Accepted())
		}
	}
	silent("before the first lease")

	// A connection in each of the states, of which none outlives the lease.
	for _, state := range []node.State{node.Own, node.Adopt, node.Linger} {
		arm(t, f, allBuckets(s, node.Own)...)
		c, err := w.talk("tcp4", from)
		if err != nil {
			t.Fatal(err) // the machine may be so slow that the lease is gone
		}
		arm(t, f, allBuckets(s, state)...)
		if got := asked(t, c); got != "0" {
			t.Fatalf("%s, with a lease: answers %q", state, got)
		}
		eventually(t, "the lease has run out", func() bool { _, held := leaseLeft(t, f); return !held })
		if got, err := c.ask(never); got != "" || err != nil {
			t.Errorf("%s, without a lease: answers %q, error %v", state, got, err)
		}
		silent(state.String())
		c.Close()
	}
	commit(t, f, allBuckets(s, node.Own)...) // which arms nothing
	silent("after a commit")
}

func TestMarkedBeaconsProlongTheLease(t *testing.T) {
	s := leaseSpec(500 * time.Millisecond)
	w := newWire(t, 1)
	f := installed(t, w.nodes[0], s)
	arm(t, f, allBuckets(s, node.Own)...)
	armed := time.Now()
	for range 40 {
		w.send(w.beaconFrom(0), beacon()...)
		sent := time.Now()
		left, held := leaseLeft(t, f)
		if !held || left > s.Lease || left < s.Lease-time.Since(sent)-2*tick {
			t.Fatalf("%s after arming and %s after a beacon: held %t, %s left", time.Since(armed), time.Since(sent), held, left)
		}
		if got := w.answers(clientAddr(0), 100, soon); got != "0" {
			t.Fatalf("%s after arming: answers %q", time.Since(armed), got)
		}
	}
	if lasted := time.Since(armed); lasted < 2*s.Lease {
		t.Fatalf("the test took only %s", lasted)
	}
	sent := time.Now()
	eventually(t, "the lease has run out", func() bool { _, held := leaseLeft(t, f); return !held })
	if lasted := time.Since(sent); lasted < s.Lease/2 {
		t.Errorf("the lease lasted only %s after the last beacon", lasted)
	}
}

// A thread is paused before its beacon leaves; meanwhile the lease runs
// out and peers take over; then the beacon leaves.
func TestALateBeaconDoesNotBringTheLeaseBack(t *testing.T) {
	s := leaseSpec(50 * time.Millisecond)
	w := newWire(t, 1)
	f := installed(t, w.nodes[0], s)
	gone := map[string]func(){
		"it was never there": func() {},
		"it has run out": func() {
			arm(t, f, allBuckets(s, node.Own)...)
			time.Sleep(s.Lease + tick) // the kernel may not have freed the element
		},
		"it was dropped": func() {
			arm(t, f)
			if err := f.DropLease(); err != nil {
				t.Fatal(err)
			}
		},
		"the rules are new": func() {
			arm(t, f)
			if err := f.Reinstall(); err != nil {
				t.Fatal(err)
			}
		},
	}
	for _, why := range []string{"it was never there", "it has run out", "it was dropped", "the rules are new"} {
		gone[why]()
		for range 3 {
			w.send(w.beaconFrom(0), beacon()...)
			if left, held := leaseLeft(t, f); held {
				t.Errorf("%s, and a beacon brings it back for %s", why, left)
			}
		}
		if got := w.answers(clientAddr(0), 100, never); got != "" {
			t.Errorf("%s, and answers %q", why, got)
		}
	}
	arm(t, f)
	if _, held := leaseLeft(t, f); !held {
		t.Error("it cannot be armed again")
	}
}

// Only this node's own beacons prolong its lease.
func TestWhatIsNoMarkedBeaconDoesNotProlongTheLease(t *testing.T) {
	s := leaseSpec(time.Hour)
	s.VIPs = append(s.VIPs, netip.MustParseAddr("10.77.0.101"))
	w := newWire(t, 1)
	ns := w.nodes[0]
	f := installed(t, ns, s)
	arm(t, f)
	w.send(packetTo{in: ns, to: clientAddr(0), protocol: layers.IPProtocolUDP}, beacon()...) // the socket is open
	for what, change := range map[string]func(*packetTo, *layers.UDP){
		"no mark":        func(p *packetTo, _ *layers.UDP) { p.mark = 0 },
		"another mark":   func(p *packetTo, _ *layers.UDP) { p.mark = leaseMark | 1<<20 },
		"another port":   func(_ *packetTo, u *layers.UDP) { u.DstPort++ },
		"another VIP":    func(p *packetTo, _ *layers.UDP) { p.to = s.VIPs[1] },
		"another packet": func(p *packetTo, _ *layers.UDP) { p.protocol = layers.IPProtocolUDPLite },
	} {
		time.Sleep(3 * tick)
		before, _ := leaseLeft(t, f)
		p, udp := w.beaconFrom(0), &layers.UDP{SrcPort: beaconPort, DstPort: beaconPort}
		change(&p, udp)
		w.send(p, udp, gopacket.Payload("sixteen or more bytes"))
		if after, _ := leaseLeft(t, f); after > before {
			t.Errorf("%s: %s were left, and then %s", what, before, after)
		}
	}

	// A node that routes, and no longer has the VIP, sends a peer's beacon on.
	before, _ := leaseLeft(t, f)
	ip(t, ns, fmt.Sprintf("addr del %s/32 dev lo", vip))
	run(t, ns, "nft delete table inet peervip_guard")
	sysctl(t, ns, "ipv4/ip_forward", "1")
	ip(t, ns, fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud permanent", vip, vipMAC))
	run(t, ns, `nft add table netdev see`)
	run(t, ns, `nft add chain netdev see c { type filter hook egress device "eth0" priority 1000; }`)
	run(t, ns, fmt.Sprintf("nft add rule netdev see c udp dport %d counter", beaconPort))
	time.Sleep(3 * tick)
	p := packetTo{ttl: 255, protocol: layers.IPProtocolUDP, mark: leaseMark, from: clientAddr(3)}
	w.send(p, beacon()...)
	eventually(t, "the beacon is sent on", func() bool {
		return strings.Contains(run(t, ns, "nft list table netdev see"), "counter packets 1 ")
	})
	if after, _ := leaseLeft(t, f); after > before {
		t.Errorf("forwarded: %s were left, and then %s", before, after)
	}
	w.send(w.beaconFrom(0), beacon()...)
	if after, _ := leaseLeft(t, f); after < s.Lease-time.Second/2 {
		t.Errorf("a marked beacon left %s", after)
	}
}

// The kernel counts in ticks, and rounds down.
func TestALeaseIsUpToTwoTicksShorterAndNeverLonger(t *testing.T) {
	for _, lease := range []time.Duration{20 * time.Millisecond, 35 * time.Millisecond, 150 * time.Millisecond} {
		f := installed(t, host(t), leaseSpec(lease))
		for range 5 {
			start := time.Now()
			arm(t, f)
			armed := time.Now()
			for {
				asked := time.Now()
				left, held := leaseLeft(t, f)
				if held && (asked.Sub(armed) >= lease || left > lease) {
					t.Fatalf("lease of %s: %s after it was armed, %s are left", lease, asked.Sub(armed), left)
				}
				if !held {
					if lasted := time.Since(start); lasted < lease-2*tick {
						t.Errorf("lease of %s: gone after %s", lease, lasted)
					}
					break
				}
			}
		}
	}
}

// A lease may be armed for less than beacons prolong it.
func TestArmFor(t *testing.T) {
	s := leaseSpec(time.Hour)
	s.ArmFor = time.Minute
	f := installed(t, host(t), s)
	arm(t, f)
	if left, held := leaseLeft(t, f); !held || left > s.ArmFor || left < s.ArmFor-time.Second*30 {
		t.Errorf("held %t, %s left", held, left)
	}
}

func TestArmingGoesWithTheChanges(t *testing.T) {
	s := leaseSpec(time.Hour)
	ns := host(t)
	f := installed(t, ns, s)
	arm(t, f, Change{Bucket: 1, State: node.Own})
	if err := f.DropLease(); err != nil {
		t.Fatal(err)
	}
	// Too late: the changes are made, the lease is not there.
	armed, err := f.Apply(Transaction{Changes: []Change{{Bucket: 1, State: node.Linger}}, ArmBy: time.Now()})
	if _, held := leaseLeft(t, f); armed || held || err != nil || f.State(0, 1) != node.Linger {
		t.Errorf("too late: armed %t, held %t, bucket %s, error %v", armed, held, f.State(0, 1), err)
	}
	// Refused: neither.
	armed, err = f.Apply(Transaction{Changes: []Change{{Bucket: 64}}, ArmBy: inGoodTime()})
	if _, held := leaseLeft(t, f); armed || held || err == nil {
		t.Errorf("refused: armed %t, held %t, error %v", armed, held, err)
	}
	// Again and again: what is deleted still counts for a while.
	for i := range 4 * leaseRoom {
		arm(t, f, Change{Bucket: 2, State: node.State(i % 4)})
	}
	if left, held := leaseLeft(t, f); !held || left < s.Lease-time.Minute {
		t.Errorf("armed again and again: held %t, %s left", held, left)
	}
	f.uncertain = true
	arm(t, f)
	if f.State(0, 1) != node.Linger {
		t.Errorf("bucket 1 is %s", f.State(0, 1))
	}
}

// Another program's transactions delay ours; a lease is armed in time or not at all.
func TestArmingBesideABusyProgram(t *testing.T) {
	ns := host(t)
	s := leaseSpec(time.Hour)
	f := installed(t, ns, s)
	file := filepath.Join(t.TempDir(), "busy.nft")
	var rules strings.Builder
	rules.WriteString("table inet busy\ndelete table inet busy\ntable inet busy {\n\tset s {\n\t\ttype ipv4_addr\n\t\telements = {\n")
	for i := range 50000 {
		fmt.Fprintf(&rules, "10.%d.%d.%d,\n", i>>16, i>>8&0xff, i&0xff)
	}
	rules.WriteString("}\n}\n}\n")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	busy := make(chan error, 1)
	go func() {
		var err error
		for range 5 {
			if _, failed := ns.Run("nft", "-f", file); failed != nil {
				err = failed
			}
		}
		busy <- err
	}()
	var inTime, late, longest int
	for done := false; !done; {
		select {
		case err := <-busy:
			if err != nil {
				t.Error(err)
			}
			done = true
		default:
		}
		if err := f.DropLease(); err != nil {
			t.Fatal(err)
		}
		by := time.Now().Add(5 * time.Millisecond)
		armed, err := f.Apply(Transaction{ArmBy: by, Changes: []Change{{Bucket: 1, State: node.State(inTime % 2)}}})
		if err != nil {
			t.Fatal(err)
		}
		longest = max(longest, int(time.Since(by).Milliseconds()))
		if left, held := leaseLeft(t, f); held != armed || held && s.Lease-left > 50*time.Millisecond {
			t.Errorf("armed %t, held %t, %s left", armed, held, left)
		}
		if armed {
			inTime++
		} else {
			late++
		}
	}
	t.Logf("armed %d times in time, not armed %d times, at most %d ms late", inTime, late, longest)
	if inTime == 0 {
		t.Error("never armed")
	}
}

func TestWithoutALeaseInTheSpecThereIsNoneToArm(t *testing.T) {
	f := installed(t, host(t), testSpec())
	if _, err := f.Apply(Transaction{ArmBy: inGoodTime()}); err == nil || !strings.Contains(err.Error(), "made without a lease") {
		t.Errorf("arming: %v", err)
	}
	if err := f.DropLease(); err != nil {
		t.Error(err)
	}
	if left, held := leaseLeft(t, f); held || left != 0 {
		t.Errorf("held %t, %s left", held, left)
	}
}
