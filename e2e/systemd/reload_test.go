package systemd

import (
	"fmt"
	"strings"
	"testing"
)

// A reload, by systemctl or by a HUP, takes the log level and breaks nothing; a pipe that
// nobody reads any more does not end the agent either.
func TestReload(t *testing.T) {
	c := raise(t, 2)
	w := c.come(t)
	m := c.machines[0]
	pid := m.property(t, "MainPID")
	for i, how := range [][]string{
		{"systemctl", "reload", "peervip"},
		{"systemctl", "kill", "--kill-who=main", "-s", "HUP", "peervip"},
	} {
		level := []string{"debug", "info"}[i]
		m.must(t, "sh", "-c", fmt.Sprintf("printf '%%s\\nlog: {level: %s}\\n' \"$(grep -v '^log:' %s)\" > /tmp/new && cat /tmp/new > %[2]s", level, configFile))
		m.must(t, how[0], how[1:]...)
		eventually(t, func() error {
			if n := strings.Count(m.journal(t), `msg="reloaded: log.level"`); n <= i {
				return fmt.Errorf("to level %s it has reloaded %d times", level, n)
			}
			return nil
		})
	}
	m.must(t, "systemctl", "kill", "--kill-who=main", "-s", "PIPE", "peervip")
	w.unharmed(t, "reloads")
	if got := m.property(t, "MainPID"); got != pid {
		t.Errorf("the process was %s and is %s", pid, got)
	}
	// What is wrong in the file is said, and changes nothing.
	m.must(t, "sh", "-c", "echo 'nonsense: 1' >> "+configFile)
	out, err := m.run(patiently(t), "systemctl", "reload", "peervip")
	if err == nil {
		t.Errorf("a broken configuration was taken: %s", out)
	}
	if !strings.Contains(m.journal(t), "nonsense") {
		t.Error("the journal does not name the key")
	}
	if got := m.property(t, "MainPID"); got != pid {
		t.Errorf("the process was %s and is %s", pid, got)
	}
}
