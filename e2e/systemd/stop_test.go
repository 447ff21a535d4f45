package systemd

import (
	"testing"
	"time"
)

// A stop waits for open connections, says for what and until when, and is not cut
// short by systemd; a word from the operator ends the wait.
func TestStopSaysWhatItWaitsFor(t *testing.T) {
	c := raise(t, 2, func(m *machine) error {
		return m.write("/etc/systemd/system/peervip.service.d/short.conf", "[Service]\nTimeoutStopSec=4s\n")
	})
	m, other := c.machines[0], c.machines[1]
	c.come(t)
	m.must(t, "systemctl", "stop", "--no-block", "peervip")
	m.is(t, "ActiveState", "deactivating")
	eventually(t, func() error { return contains(m.property(t, "StatusText"), "connection") })
	t.Log(m.property(t, "StatusText"))
	c.settle(t, other) // new ones go there at once
	time.Sleep(8 * time.Second)
	if got := m.property(t, "ActiveState"); got != "deactivating" {
		t.Errorf("after twice TimeoutStopSec= it is %s: %s", got, m.property(t, "Result"))
	}
	m.must(t, "peervip", "leave", "--now")
	m.is(t, "ActiveState", "inactive")
	if got := m.property(t, "Result"); got != "success" {
		t.Errorf("it ended with %s", got)
	}
	m.nothingLeft(t)
}
