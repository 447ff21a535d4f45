package nft

import (
	"fmt"
	"strings"
	"testing"

	"github.com/peervip/peervip/node"
)

// An operator's notrack takes from the move what it goes by. It is seen.
func TestWhatConntrackDoesNotSeeIsCounted(t *testing.T) {
	s := testSpec()
	withEverything(&s)
	s.ARP, s.Lease = false, 0
	w := newWire(t, 1)
	ns := w.nodes[0]
	f := installed(t, ns, s)
	commit(t, f, allBuckets(s, node.Own)...)
	if w.connects(clientAddr(0), soon) != "0" || w.answers(clientAddr(0), 100, soon) != "0" {
		t.Fatal("no answer")
	}
	w.send(w.beaconFrom(0), beacon()...)
	if c := counters(t, f); c.Untracked.Packets != 0 {
		t.Errorf("%+v counted though all is tracked", c.Untracked)
	}
	for _, line := range []string{"add table ip raw", "add chain ip raw pre { type filter hook prerouting priority -300; }"} {
		run(t, ns, "nft "+line)
	}
	run(t, ns, fmt.Sprintf("nft add rule ip raw pre tcp dport %d notrack", tcpPort))
	if got := w.connects(clientAddr(0), soon); got != "0" {
		t.Errorf("answers %q", got)
	}
	tcp := counters(t, f).Untracked.Packets
	if tcp < 3 {
		t.Errorf("%d counted of a connection that is not tracked", tcp)
	}
	run(t, ns, fmt.Sprintf("nft add rule ip raw pre udp dport %d notrack", udpPort))
	if got := w.answers(clientAddr(0), 100, soon); got != "0" {
		t.Errorf("answers %q", got)
	}
	if udp := counters(t, f).Untracked.Packets - tcp; udp != 1 {
		t.Errorf("%d counted of a datagram that is not tracked", udp)
	}
}

// Where nothing lingers conntrack stays off, fragments are put together all the same, and
// the guard does not bring it back.
func TestAHostWithoutConntrackStaysWithout(t *testing.T) {
	s := testSpec()
	s.BeaconPort, s.Reassembles = beaconPort, true
	w := newWire(t, 1)
	ns := w.nodes[0]
	f := installed(t, ns, s)
	commit(t, f, allBuckets(s, node.Own)...)
	for _, size := range []int{100, 4000} {
		if got := w.answers(clientAddr(0), size, soon); got != "0" {
			t.Errorf("%d bytes: answers %q", size, got)
		}
	}
	if w.connects(clientAddr(0), soon) != "0" {
		t.Error("no connection")
	}
	sendsUDP(t, ns, 4000, "10.77.0.1", 4001)
	if got := run(t, ns, "cat /proc/thread-self/net/nf_conntrack"); strings.TrimSpace(got) != "" {
		t.Errorf("tracked: %s", got)
	}
	if err := f.Abandon(); err != nil {
		t.Fatal(err)
	}
	if left := ruleset(t, ns); !strings.Contains(left, guardName) || strings.Contains(left, "ct ") {
		t.Errorf("the guard: %s", left)
	}
	for _, size := range []int{100, 4000} {
		if got := w.answers(clientAddr(0), size, never); got != "" {
			t.Errorf("the guard alone: %d bytes are answered: %q", size, got)
		}
	}
	if err := ns.Do(func() error {
		if !Reassembles() {
			return fmt.Errorf("the probe says that this kernel cannot")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
