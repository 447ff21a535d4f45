package systemd

import (
	"strings"
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// Whoever has left stays ended until a hand starts it: by leave, by a stop, and by
// the signals that mean the same.
func TestLeaveStaysEnded(t *testing.T) {
	c := raise(t, 2)
	m, other := c.machines[0], c.machines[1]
	for _, how := range [][]string{
		{"peervip", "leave"},
		{"systemctl", "stop", "peervip"},
		{"systemctl", "kill", "--kill-who=main", "-s", "TERM", "peervip"},
		{"systemctl", "kill", "--kill-who=main", "-s", "INT", "peervip"},
	} {
		t.Run(strings.Join(how, " "), func(t *testing.T) {
			m.must(t, how[0], how[1:]...)
			m.is(t, "ActiveState", "inactive")
			c.settle(t, other)
			if got := m.property(t, "NRestarts"); got != "0" {
				t.Errorf("it was started again %s times", got)
			}
			if got := m.property(t, "ActiveState"); got != "inactive" {
				t.Errorf("it is %s", got)
			}
			m.nothingLeft(t)
			m.must(t, "systemctl", "start", "peervip")
			c.settle(t, c.machines...)
		})
	}
}

// nothingLeft checks that nothing of the agent is left in the machine's kernel.
func (m *machine) nothingLeft(t *testing.T) {
	t.Helper()
	for _, cmd := range [][]string{
		{"nft", "list", "ruleset"},
		{"ip", "address", "show", "to", lab.VIP.String()},
	} {
		if out := m.must(t, cmd[0], cmd[1:]...); out != "" {
			t.Errorf("%s: %v after a clean end: %s", m.name, cmd, out)
		}
	}
}
