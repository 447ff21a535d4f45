package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// What befalls the agent of one node, and its rules.
func TestAgentInTrouble(t *testing.T) {
	play(t, 3, []scene{
		{"killed", killed},
		{"stopped for less than the detection time", stoppedShortly},
		{"stopped for seconds", stopped},
		{"its rules are flushed and its guard removed", rulesFlushed},
		{"killed and without its guard", killedWithoutGuard},
	})
}

func killed(t *testing.T, l *lab.Lab) {
	victim := l.Nodes[0]
	tr := watch(t, l, l.Nodes...)
	tr.relieves(t, victim, func() { must(t, victim.Kill()) }, func() { must(t, victim.Start()) })
}

// A stop that is shorter than the detection time moves nothing; a node whose lease
// has run out meanwhile was silent.
func stoppedShortly(t *testing.T, l *lab.Lab) {
	victim := l.Nodes[1]
	tr := watch(t, l, l.Nodes...)
	for range 3 {
		at := time.Now()
		must(t, victim.Pause())
		time.Sleep(detectionTime / 2)
		must(t, victim.Continue())
		t.Logf("stopped for %v", time.Since(at))
		time.Sleep(detectionTime)
	}
	tr.restored(t, victim)
}

func stopped(t *testing.T, l *lab.Lab) {
	victim := l.Nodes[2]
	tr := watch(t, l, l.Nodes...)
	tr.relieves(t, victim, func() { must(t, victim.Pause()) }, func() {
		time.Sleep(time.Second)
		must(t, victim.Continue())
	})
}

// Owner tables cannot be flushed; the guard can, and the agent puts it back.
func rulesFlushed(t *testing.T, l *lab.Lab) {
	victim := l.Nodes[0]
	tr := watch(t, l, l.Nodes...)
	for name, remove := range map[string]func() error{
		"flush":   victim.FlushRuleset,
		"removal": func() error { return victim.DeleteTable("inet", guard) },
	} {
		must(t, remove())
		eventually(t, func() error {
			if _, err := victim.NS.Run("nft", "list", "table", "inet", guard); err != nil {
				return fmt.Errorf("after the %s: %w", name, err)
			}
			return nil
		})
	}
	tr.unmovedBy(t, "a flushed ruleset")
	tr.restored(t)
}

// guard is the table that stays when the agent has died.
const guard = "peervip_guard"

// Without agent and guard a node answers UDP and pings, as the design says; it still
// takes no connection, and does not say that the address is its own.
func killedWithoutGuard(t *testing.T, l *lab.Lab) {
	victim := l.Nodes[2]
	browsers := l.Browse(lab.BrowseConfig{})
	defer browsers.Stop()
	heard := countARP(t, l, victim)
	must(t, victim.Kill())
	must(t, victim.DeleteTable("inet", guard))
	settle(t, l, without(l.Nodes, victim)...)
	_, err := l.Client.Run("ip", "neigh", "flush", "to", lab.VIP.String())
	must(t, err)
	from := l.Now()
	time.Sleep(2 * time.Second)
	to := l.Now()
	browsers.Stop()
	r := browsers.Report(lab.Window{From: from, To: to})
	if r.Begun == 0 || r.By[victim.ID()] > 0 || r.Failed+r.Reset+r.TimedOut > 0 {
		t.Errorf("visits without agent and guard on %s: %+v", victim.Name, r)
	}
	if n := heard(); n != "0" {
		t.Errorf("%s has answered %s ARP requests for the VIP", victim.Name, n)
	}
	must(t, victim.Start())
	settle(t, l, l.Nodes...)
	clients := listen(t, l)
	clients.allServed(t)
	clients.quiet(t)
}

// Nobody reads what an agent logs, as when journald hangs: it serves on, and answers. What
// it has to log is that a newcomer is there, which stays out for its other spec.
func TestLogThatNobodyReadsStopsNobody(t *testing.T) {
	l := build(t, 4, func(i int, c *lab.AgentConfig) {
		if i == 3 {
			c.Spec.Buckets = 512
		}
	})
	members, newcomer := l.Nodes[:3], l.Nodes[3]
	victim := members[1]
	victim.LogByPipe = true
	start(t, members...)
	settle(t, l, members...)
	tr := watch(t, l, members...)
	must(t, victim.StallLog())
	start(t, newcomer)
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		out, err := victim.Peervip(ctx, "status")
		if err == nil && !strings.Contains(out, newcomer.Name+" has another spec") {
			err = fmt.Errorf("%s does not tell of %s: %s", victim.Name, newcomer.Name, out)
		}
		return err
	})
	time.Sleep(3 * time.Second) // as beacons would end after D, if the core stood still
	tr.unmovedBy(t, "a log that nobody reads")
	victim.ResumeLog()
	must(t, newcomer.Stop(patiently(t)))
	settle(t, l, members...)
	tr.allServed(t)
}

// countARP counts, on the client host from now on, what the node says of the VIP
// in ARP.
func countARP(t *testing.T, l *lab.Lab, n *lab.Node) (count func() string) {
	t.Helper()
	_, err := l.Client.Run("nft", fmt.Sprintf("add table netdev hear; add chain netdev hear answers { type filter hook ingress device eth0 priority 0; }; "+
		"add rule netdev hear answers ether saddr %s arp saddr ip %s counter", n.MAC(), lab.VIP))
	must(t, err)
	return func() string {
		defer l.Client.Run("nft", "delete", "table", "netdev", "hear")
		out, err := l.Client.Run("nft", "list", "table", "netdev", "hear")
		must(t, err)
		_, after, _ := strings.Cut(out, "counter packets ")
		packets, _, _ := strings.Cut(after, " ")
		return packets
	}
}

// What befalls the interface of one node: it gives up, says why, and is back when
// its interface is.
func TestInterfaceInTrouble(t *testing.T) {
	scenes := []scene{}
	for _, tt := range []struct {
		name       string
		away, back func(n *lab.Node) error
		says       string
	}{
		{"carrier lost", (*lab.Node).Unplug, (*lab.Node).Plug, "has no carrier"},
		{"interface deleted", (*lab.Node).DeleteInterface, (*lab.Node).MakeInterface, "does not exist"},
		{"address removed", (*lab.Node).RemoveAddress, (*lab.Node).RestoreAddress, "is gone from this host"},
	} {
		scenes = append(scenes, scene{tt.name, func(t *testing.T, l *lab.Lab) {
			victim := l.Nodes[1]
			tr := watch(t, l, l.Nodes...)
			tr.relieves(t, victim, func() { must(t, tt.away(victim)) }, func() {
				says(t, victim, tt.says)
				must(t, tt.back(victim))
			})
		}})
	}
	play(t, 3, scenes)
}
