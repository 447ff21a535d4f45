package systemd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A configuration that only an edit can cure ends the agent once, with one line that
// names the key; after the edit it starts.
func TestBrokenConfiguration(t *testing.T) {
	c := raise(t, 2)
	m, other := c.machines[0], c.machines[1]
	m.must(t, "sed", "-i", "s/vips:/vpis:/", configFile)
	if out, err := m.run(patiently(t), "peervip", "agent", "--check-config", "--config", configFile); err == nil || !strings.Contains(out, "spec.vpis") {
		t.Errorf("--check-config says %q (%v)", out, err)
	}
	if out, err := m.run(patiently(t), "systemctl", "restart", "peervip"); err == nil {
		t.Errorf("it starts: %s", out)
	}
	m.is(t, "ActiveState", "failed")
	time.Sleep(3 * time.Second) // in which it was started 12 times before
	if status, restarts := m.property(t, "ExecMainStatus"), m.property(t, "NRestarts"); status != "78" || restarts != "0" {
		t.Errorf("it ended with %s, and was started again %s times", status, restarts)
	}
	if n := strings.Count(m.journal(t), "spec.vpis"); n != 1 {
		t.Errorf("the journal has the key %d times", n)
	}
	c.settle(t, other)
	m.must(t, "sed", "-i", "s/vpis:/vips:/", configFile)
	m.must(t, "systemctl", "start", "peervip")
	c.settle(t, c.machines...)
}

// The address comes late, as from a slow DHCP server: the agent waits for it, says so,
// and is not started again and again.
func TestLateNetwork(t *testing.T) {
	c := build(t, 2)
	late := c.machines[0]
	must(t, late.write("/etc/systemd/network/10-host0.network", "[Match]\nName="+nodeLink+"\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"))
	must(t, os.Symlink("/dev/null", filepath.Join(late.files, "/etc/systemd/system/systemd-networkd-wait-online.service")))
	c.boot(t, c.machines...)
	late.is(t, "ActiveState", "active")
	eventually(t, func() error { return contains(late.property(t, "StatusText"), "NOT SERVING") })
	late.must(t, "ip", "address", "add", late.addr.String()+"/24", "dev", nodeLink)
	c.settle(t, c.machines...)
	if got := late.property(t, "NRestarts"); got != "0" {
		t.Errorf("it was started again %s times", got)
	}
}

// Nothing in the unit is unknown to systemd, and it asks for no more than it needs.
func TestUnitIsWellFormed(t *testing.T) {
	c := build(t, 1, bound)
	m := c.machines[0]
	c.boot(t, m)
	for _, unit := range []string{"peervip.service", "peervip-handover.service"} {
		if out, err := m.run(patiently(t), "systemd-analyze", "verify", unit); err != nil || out != "" {
			t.Errorf("systemd-analyze verify %s: %v: %s", unit, err, out)
		}
	}
	// The exposure that systemd-analyze calls OK: below 5 of 10.
	out := m.must(t, "systemd-analyze", "security", "--no-pager", "--threshold=30", "peervip.service")
	t.Log(lastLines([]byte(out), 1))
}

// What the journal has at warning and above is what somebody should act on: nothing
// of a boot, and a node that has gone.
func TestJournalPriorities(t *testing.T) {
	c := raise(t, 2)
	m, other := c.machines[0], c.machines[1]
	must(t, other.cut())
	eventually(t, func() error { return contains(m.journal(t, "-p", "warning"), "node-2") })
	for line := range strings.Lines(m.journal(t)) {
		if strings.HasPrefix(line, "time=") {
			t.Errorf("a line has a time of its own: %s", line)
		}
	}
	warnings, all := m.journal(t, "-p", "warning"), m.journal(t)
	if strings.Contains(warnings, "is a member") || !strings.Contains(all, "is a member") {
		t.Errorf("at warning the journal has\n%s", warnings)
	}
}
