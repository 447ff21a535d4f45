package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sends has the node send a datagram and says whether the other gets it past its
// input hook.
func sends(t *testing.T, n *Node, to *Node, port int) bool {
	t.Helper()
	return sendsWords(t, n, to, port, "hello")
}

func sendsWords(t *testing.T, n *Node, to *Node, port int, words string) bool {
	t.Helper()
	for _, cmd := range []string{"add table inet hear", "flush table inet hear",
		"add chain inet hear input { type filter hook input priority 100; }",
		fmt.Sprintf("add rule inet hear input ip saddr %s udp dport %d counter", n.Addr, port)} {
		_, err := to.NS.Run("nft", strings.Fields(cmd)...)
		must(t, err)
	}
	defer to.DeleteTable("inet", "hear")
	for range 3 {
		n.NS.Run("socat", "-u", "SYSTEM:echo "+words, fmt.Sprintf("UDP4-SENDTO:%s:%d", to.Addr, port))
	}
	out, err := to.NS.Run("nft", "list", "chain", "inet", "hear", "input")
	must(t, err)
	return !strings.Contains(out, "packets 0 ")
}

func TestBeaconsAreCutOnEitherMedium(t *testing.T) {
	l, err := New(t.Context(), Config{Nodes: 2, Sources: 1})
	must(t, err)
	defer l.Close()
	a, b := l.Nodes[0], l.Nodes[1]
	for _, n := range l.Nodes {
		_, err := n.NS.Run("ip", "neigh", "add", VIP.String(), "lladdr", clusterMAC, "dev", "eth0")
		must(t, err)
	}
	for _, tt := range []struct {
		cut           Traffic
		wire, unicast bool // still there
	}{{Wire, false, true}, {Unicast, true, false}, {Beacons, false, false}} {
		must(t, l.Break(Fault{From: []string{a.Name}, To: []string{b.Name}, Traffic: tt.cut}))
		if wire, unicast := hearsWire(t, a, b), sends(t, a, b, BeaconPort); wire != tt.wire || unicast != tt.unicast {
			t.Errorf("traffic %d is cut: on the wire beacons pass: %v, by unicast: %v", tt.cut, wire, unicast)
		}
		if !hearsWire(t, b, a) || !sends(t, b, a, BeaconPort) || !sends(t, a, b, GossipPort) || !ping(a, b) {
			t.Errorf("traffic %d is cut, and more than that", tt.cut)
		}
		must(t, l.Heal())
		if !hearsWire(t, a, b) || !sends(t, a, b, BeaconPort) {
			t.Error("a whole switch does not pass everything")
		}
	}
}

func TestMessagesAreCutAndBeaconsPass(t *testing.T) {
	l, err := New(t.Context(), Config{Nodes: 2, Sources: 1})
	must(t, err)
	defer l.Close()
	a, b := l.Nodes[0], l.Nodes[1]
	const sealed = letterMagic + "abcdefgh"
	if !sendsWords(t, a, b, BeaconPort, sealed) || !sends(t, a, b, GossipPort) {
		t.Error("a whole switch does not pass everything")
	}
	must(t, l.Break(Fault{From: []string{a.Name}, To: []string{b.Name}, Traffic: Messages}))
	if sendsWords(t, a, b, BeaconPort, sealed) || sends(t, a, b, GossipPort) {
		t.Error("messages pass though they are cut")
	}
	if !sends(t, a, b, BeaconPort) || !sendsWords(t, b, a, BeaconPort, sealed) || !sends(t, b, a, GossipPort) || !ping(a, b) {
		t.Error("more is cut than messages, one way")
	}
}

func TestAFirewallDropsBeaconsAndNothingElse(t *testing.T) {
	l := newLab(t, 2, 8)
	a, b := l.Nodes[0], l.Nodes[1]
	if !sends(t, a, b, BeaconPort) {
		t.Error("beacons do not pass without a firewall")
	}
	must(t, b.Firewall())
	if sends(t, a, b, BeaconPort) || !sends(t, a, b, GossipPort) || !sends(t, b, a, BeaconPort) || !ping(a, b) {
		t.Error("the firewall does not drop the beacons that come, and those alone")
	}
	talk(t, l)
	held := l.Hold(HoldConfig{})
	must(t, held.WaitOpen(patience(t)))
	must(t, b.NoFirewall())
	if !sends(t, a, b, BeaconPort) {
		t.Error("beacons do not pass after the firewall")
	}
}

func TestInterfaceAndAddressGoAndComeBack(t *testing.T) {
	l, err := New(t.Context(), Config{Nodes: 2, Sources: 1})
	must(t, err)
	defer l.Close()
	a, b := l.Nodes[0], l.Nodes[1]
	shown := func() string {
		out, _ := b.NS.Run("ip", "address", "show", "dev", "eth0")
		return out
	}
	before := shown()
	for _, tt := range []struct {
		name           string
		away, comeBack func() error
		left           string
	}{
		{"interface", b.DeleteInterface, b.MakeInterface, "does not exist"},
		{"address", b.RemoveAddress, b.RestoreAddress, "UP"},
	} {
		must(t, tt.away())
		if out := shown(); ping(a, b) || strings.Contains(out, b.Addr.String()) || !strings.Contains(out, tt.left) {
			t.Errorf("%s gone: %s", tt.name, out)
		}
		must(t, tt.comeBack())
		must(t, Poll(patience(t), func() error { // the failed ARP entry of meanwhile must expire
			if !ping(a, b) {
				return errors.New("no answer")
			}
			return nil
		}))
		for _, word := range []string{b.Addr.String() + "/24", b.MAC().String()} {
			if out := shown(); !strings.Contains(out, word) {
				t.Errorf("%s is back: %s\nwithout %s; before:\n%s", tt.name, out, word, before)
			}
		}
	}
}

// An agent that logs hangs while its log is stalled, and goes on afterwards; no
// line is lost. One that is killed meanwhile leaves nothing waiting.
func TestAStalledLogHangsTheAgent(t *testing.T) {
	counting := `i=0; while :; do i=$((i+1)); echo line $$-$i. >&2; echo $$-$i >> ${3%.yaml}.progress; sleep 0.01; done`
	l, err := New(t.Context(), Config{Nodes: 1, Sources: 1, Binary: script(t, counting)})
	must(t, err)
	defer l.Close()
	n := l.Nodes[0]
	logged := func() []string { // what the agents say that they have logged
		text, _ := os.ReadFile(filepath.Join(n.Dir, "peervip.progress"))
		return strings.Fields(string(text))
	}
	progress := func() string {
		all := logged()
		return strings.Join(all[max(0, len(all)-1):], "")
	}
	moves := func() {
		t.Helper()
		before := progress()
		must(t, Poll(patience(t), func() error {
			if now := progress(); now == before || !strings.Contains(n.Log(), "line "+now+".") {
				return fmt.Errorf("the agent is at %q since %q, and has logged:\n%s", now, before, tail(n.Log(), 3))
			}
			return nil
		}))
	}
	if err := n.StallLog(); err == nil {
		t.Error("a log that is no pipe was stalled")
	}
	n.LogByPipe = true
	for range 2 {
		must(t, n.Start())
		moves()
		for range 2 {
			must(t, n.StallLog())
			time.Sleep(100 * ms)
			before := progress()
			time.Sleep(300 * ms)
			if now := progress(); now != before {
				t.Errorf("the agent went on from %q to %q without a reader of its log", before, now)
			}
			n.ResumeLog()
			moves()
		}
		must(t, n.StallLog())
		must(t, n.Kill())
	}
	all := logged()
	for _, line := range all {
		if !strings.Contains(n.Log(), "line "+line+".") {
			t.Errorf("of %d lines %s is lost", len(all), line)
		}
	}
}
