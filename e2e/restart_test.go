package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// away is how long an agent is gone in these tests, beside what it takes to end and
// to start.
const away = 500 * time.Millisecond

// visitors are what goes on at the clients over a restart: datagrams, new
// connections, and some that stay open.
type visitors struct {
	audience
	*lab.Browsers
	held *lab.Holders
}

func visit(t *testing.T, l *lab.Lab) visitors {
	t.Helper()
	clients := listen(t, l)
	clients.allServed(t)
	// All wait for an answer as long as anything here may take: no connection ends but
	// by being broken.
	v := visitors{clients, l.Browse(lab.BrowseConfig{Timeout: 2 * patience}), l.Hold(lab.HoldConfig{Connections: 2 * len(l.Sources), GiveUp: 2 * patience})}
	t.Cleanup(v.Browsers.Stop)
	t.Cleanup(v.held.Stop)
	must(t, v.held.WaitOpen(patiently(t)))
	return v
}

// untroubled checks that since the time no open connection was broken or moved, and
// that all go on by now.
func (v visitors) untroubled(t *testing.T, since time.Duration, what string) {
	t.Helper()
	want := 2 * len(v.l.Sources)
	r := v.held.Report(lab.Window{From: since, To: v.l.Now()}, nil)
	if r.Held != want || r.Reset > 0 || r.Moved > 0 {
		t.Errorf("%s: of %d open connections (%d wanted) %d are reset and %d moved; %d stalled",
			what, r.Held, want, r.Reset, r.Moved, r.Stalled)
	}
	eventually(t, func() error {
		from := v.l.Now()
		time.Sleep(time.Second)
		if r := v.held.Report(lab.Window{From: from, To: v.l.Now()}, nil); r.Held != want || r.Reset > 0 || r.Stalled > 0 || r.Moved > 0 {
			return fmt.Errorf("%s: %d of %d connections go on, in a second %d of them are reset, %d stall, %d move",
				what, r.Held, want, r.Reset, r.Stalled, r.Moved)
		}
		return nil
	})
}

// served checks, at the end, that every connection that was begun was served: those
// that the node had when its agent ended, when that was back.
func (v visitors) served(t *testing.T) {
	t.Helper()
	v.Browsers.Stop() // waits for them
	r := v.Browsers.Report(lab.Window{To: v.l.Now()})
	if r.Begun == 0 || r.Failed+r.Reset+r.TimedOut > 0 {
		t.Errorf("of %d new connections %d failed, %d were reset, %d timed out: %v", r.Begun, r.Failed, r.Reset, r.TimedOut, r.FirstError)
	}
}

// hostState is everything that an agent changes on its host.
func hostState(t *testing.T, n *lab.Node) string {
	t.Helper()
	var all strings.Builder
	for _, line := range []string{
		"nft --stateless list ruleset", "ip -4 -o addr", "ip -4 maddr show dev eth0",
		"sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.arp_announce net.ipv4.conf.eth0.arp_ignore net.ipv4.conf.eth0.arp_announce",
	} {
		fields := strings.Fields(line)
		out, err := n.NS.Run(fields[0], fields[1:]...)
		must(t, err)
		fmt.Fprintf(&all, "%s:\n%s\n", line, out)
	}
	return all.String()
}

// stopsClean checks that a clean stop of the agent leaves the host as it was before.
func stopsClean(t *testing.T, n *lab.Node, before string) {
	t.Helper()
	must(t, n.Stop(patiently(t)))
	if after := hostState(t, n); after != before {
		t.Errorf("left behind:\n%s\nbefore it was:\n%s", after, before)
	}
}

// A restart breaks nothing: new flows go to the others before the agent ends, those
// that are open wait for it to be back. By a command or by the signal that the unit
// has systemd send. And however often it was: the last clean stop leaves nothing.
func TestRestartKeepsOpenConnections(t *testing.T) {
	l := build(t, 3)
	node, others := l.Nodes[1], []*lab.Node{l.Nodes[0], l.Nodes[2]}
	before := hostState(t, node)
	start(t, l.Nodes...)
	settle(t, l, l.Nodes...)
	clients := visit(t, l)
	for _, by := range []struct {
		name  string
		leave func()
	}{
		{"leave --keep-flows", func() { run(t, node, "leave", "--keep-flows") }},
		{"SIGUSR2", func() { must(t, syscall.Kill(node.PID(), syscall.SIGUSR2)) }},
	} {
		from := l.Now()
		by.leave()
		must(t, node.WaitExit(patiently(t)))
		if left := hostState(t, node); !strings.Contains(left, lab.VIP.String()+"/32 scope host") ||
			!strings.Contains(left, "peervip_guard") || strings.Contains(left, "flags owner") {
			t.Errorf("%s: while the agent is away the VIP and its guard should be here, and no other table:\n%s", by.name, left)
		}
		inPhase(t, "restarting", node, others...)
		time.Sleep(away)
		start(t, node)
		settle(t, l, l.Nodes...)
		clients.untroubled(t, from, by.name)
		clients.smooth(t, from)
		clients.quiet(t)
	}
	clients.served(t)
	clients.held.Stop()
	stopsClean(t, node, before)
}

// What keeps an agent from starting again does not end the connections that wait for
// it: the address stays up behind its guard, as it was found. And a restart of a node
// that never served leaves nothing.
func TestAStartThatFailsKeepsWhatItFound(t *testing.T) {
	l := build(t, 2)
	node := l.Nodes[1]
	before := hostState(t, node)
	start(t, node) // alone: it waits for its seeds
	eventually(t, func() error {
		_, err := node.Status(t.Context())
		return err
	})
	run(t, node, "leave", "--keep-flows")
	must(t, node.WaitExit(patiently(t)))
	if after := hostState(t, node); after != before {
		t.Errorf("left behind by a restart before it served:\n%s\nbefore it was:\n%s", after, before)
	}

	start(t, l.Nodes...)
	settle(t, l, l.Nodes...)
	clients := visit(t, l)
	from := l.Now()
	run(t, node, "leave", "--keep-flows")
	must(t, node.WaitExit(patiently(t)))
	kept := hostState(t, node)
	for _, port := range []uint16{lab.BeaconPort, lab.GossipPort} {
		at := netip.AddrPortFrom(node.Addr, port)
		var taken net.PacketConn
		must(t, node.NS.Do(func() (err error) {
			taken, err = net.ListenPacket("udp4", at.String())
			return err
		}))
		start(t, node)
		if err := node.WaitExit(patiently(t)); err == nil {
			t.Errorf("%s starts though another program has %s", node.Name, at)
		}
		must(t, taken.Close())
		if after := hostState(t, node); after != kept {
			t.Errorf("while another program had %s the start left:\n%s\nbefore it was:\n%s", at, after, kept)
		}
	}
	start(t, node)
	settle(t, l, l.Nodes...)
	clients.untroubled(t, from, "starts that failed")
	clients.served(t)
	clients.held.Stop()
	stopsClean(t, node, before)
}

// A crash of the agent resets nobody if it is back before its death is confirmed,
// which takes a second, or twice the detection time: whether its peers have noticed,
// and taken its buckets, or not. Nor does the crash hide from a later clean stop what
// was changed.
func TestCrashKeepsOpenConnections(t *testing.T) {
	l := build(t, 3, func(_ int, c *lab.AgentConfig) {
		c.Spec.Detect = lab.DetectSection{Interval: "300ms", Misses: 10} // starting takes its time on a loaded machine
	})
	node, other := l.Nodes[1], l.Nodes[0]
	before := hostState(t, node)
	start(t, l.Nodes...)
	settle(t, l, l.Nodes...)
	clients := visit(t, l)
	for _, crash := range []struct {
		name    string
		noticed func() error
	}{
		{"back at once", func() error { return nil }},
		{"noticed", func() error {
			if n, _ := mustStatus(t, other).Find(node.Name); n.Alive {
				return fmt.Errorf("%s holds %s alive", other.Name, node.Name)
			}
			return nil
		}},
	} {
		from := l.Now()
		must(t, node.Kill())
		eventually(t, crash.noticed)
		start(t, node)
		settle(t, l, l.Nodes...)
		clients.untroubled(t, from, crash.name)
		clients.quiet(t)
	}
	clients.held.Stop()
	stopsClean(t, node, before)
}
