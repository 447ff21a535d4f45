package systemd

import (
	"fmt"
	"testing"
)

// A restart of each node in turn breaks no connection, open or new.
func TestRestartInTurn(t *testing.T) {
	c := raise(t, 3)
	w := c.come(t)
	for _, m := range c.machines {
		before := m.property(t, "MainPID")
		m.must(t, "systemctl", "restart", "peervip")
		if m.property(t, "MainPID") == before {
			t.Errorf("%s has the same process", m.name)
		}
		c.settle(t, c.machines...)
		w.unharmed(t, "restart of "+m.name)
	}
}

// A reboot hands everything over first: no new connection fails. The machine serves
// again without a hand.
func TestReboot(t *testing.T) {
	c := raise(t, 3)
	w := c.come(t)
	m := c.machines[1]
	boots := m.booting()
	m.must(t, "systemctl", "reboot")
	must(t, m.booted(patiently(t), boots+1))
	c.settle(t, c.machines...)
	w.served(t, "reboot of "+m.name, w.window())
}

// An agent that hangs is ended by systemd's watchdog, and started again.
func TestWatchdog(t *testing.T) {
	c := raise(t, 2, func(m *machine) error {
		return m.write("/etc/systemd/system/peervip.service.d/short.conf", "[Service]\nWatchdogSec=8s\n")
	})
	m, other := c.machines[0], c.machines[1]
	m.must(t, "systemctl", "kill", "--kill-who=main", "-s", "STOP", "peervip")
	c.settle(t, other)
	m.is(t, "NRestarts", "1")
	c.settle(t, c.machines...)
	m.says(t, "Watchdog timeout")
}

// A crash is over within moments: systemd starts the agent again, and the
// connections that are open go on.
func TestCrash(t *testing.T) {
	c := raise(t, 2)
	m := c.machines[0]
	for i, signal := range []string{"KILL", "SEGV", "ABRT"} {
		t.Run(signal, func(t *testing.T) {
			before := m.property(t, "MainPID")
			m.must(t, "systemctl", "kill", "--kill-who=main", "-s", signal, "peervip")
			m.is(t, "NRestarts", fmt.Sprint(i+1))
			m.is(t, "ActiveState", "active")
			if m.property(t, "MainPID") == before {
				t.Errorf("it has the same process")
			}
			c.settle(t, c.machines...)
		})
	}
}
