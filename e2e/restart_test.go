package e2e

import (
	"fmt"
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
	// A line waits for its answer as long as anything here may take: no connection
	// ends but by being broken.
	v := visitors{clients, l.Browse(lab.BrowseConfig{}), l.Hold(lab.HoldConfig{Connections: 2 * len(l.Sources), GiveUp: 2 * patience})}
	t.Cleanup(v.Browsers.Stop)
	t.Cleanup(v.held.Stop)
	must(t, v.held.WaitOpen(patiently(t)))
	return v
}

// untroubled checks that since the time no open connection was broken or moved, and
// that those of the others have not even stalled; those of the node go on by now.
func (v visitors) untroubled(t *testing.T, since time.Duration, what string, node *lab.Node) {
	t.Helper()
	want := 2 * len(v.l.Sources)
	r := v.held.Report(lab.Window{From: since, To: v.l.Now()}, node)
	if r.Held != want || r.Reset > 0 || r.Moved > 0 || r.OthersBroken > 0 {
		t.Errorf("%s: of %d open connections (%d wanted) %d are reset and %d moved; %d stalled, of the others' %d were reset or stalled",
			what, r.Held, want, r.Reset, r.Moved, r.Stalled, r.OthersBroken)
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

// served checks that every new connection since the time was, and that no client
// waited for long.
func (v visitors) served(t *testing.T, since time.Duration, what string) {
	t.Helper()
	r := v.Browsers.Report(lab.Window{From: since, To: v.l.Now()})
	if r.Begun == 0 || r.Failed+r.Reset+r.TimedOut > 0 {
		t.Errorf("%s: of %d new connections %d failed, %d were reset, %d timed out: %v", what, r.Begun, r.Failed, r.Reset, r.TimedOut, r.FirstError)
	}
	v.smooth(t, since)
}

// hostState is everything that an agent changes on its host.
func hostState(t *testing.T, n *lab.Node) string {
	t.Helper()
	var all strings.Builder
	for _, line := range []string{
		"nft list ruleset", "ip -4 -o addr", "ip -4 maddr show dev eth0",
		"sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.arp_announce net.ipv4.conf.eth0.arp_ignore net.ipv4.conf.eth0.arp_announce",
	} {
		fields := strings.Fields(line)
		out, err := n.NS.Run(fields[0], fields[1:]...)
		must(t, err)
		fmt.Fprintf(&all, "%s:\n%s\n", line, out)
	}
	return all.String()
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
		clients.untroubled(t, from, by.name, node)
		clients.served(t, from, by.name)
		clients.quiet(t)
	}
	clients.held.Stop()
	must(t, node.Stop(patiently(t)))
	if after := hostState(t, node); after != before {
		t.Errorf("left behind:\n%s\nbefore it was:\n%s", after, before)
	}
}

// A crash of the agent resets nobody, if it is started again within a second. Nor
// does the crash hide from a later clean stop what was changed.
func TestCrashKeepsOpenConnections(t *testing.T) {
	l := build(t, 3)
	node := l.Nodes[1]
	before := hostState(t, node)
	start(t, l.Nodes...)
	settle(t, l, l.Nodes...)
	clients := visit(t, l)
	for i, pause := range []time.Duration{0, away} {
		from := l.Now()
		must(t, node.Kill())
		time.Sleep(pause)
		start(t, node)
		settle(t, l, l.Nodes...)
		clients.untroubled(t, from, fmt.Sprintf("crash %d", i+1), node)
		clients.quiet(t)
	}
	clients.held.Stop()
	must(t, node.Stop(patiently(t)))
	if after := hostState(t, node); after != before {
		t.Errorf("left behind:\n%s\nbefore it was:\n%s", after, before)
	}
}
