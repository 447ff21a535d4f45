package systemd

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// bound has the web server listen on the shared address alone, and start and stop in
// the order that the docs give; the agent asks it there whether it is well.
func bound(m *machine) error {
	unit, err := os.ReadFile("../../docs/peervip-handover.service")
	if err != nil {
		return err
	}
	site := siteFile(lab.VIP.String()+":80", m.name)
	for path, text := range map[string]string{
		"/etc/nginx/sites-available/default":             site,
		"/etc/systemd/system/nginx.service.d/after.conf": "[Unit]\nAfter=peervip.service\n",
		"/etc/systemd/system/peervip-handover.service":   string(unit),
		configFile: strings.ReplaceAll(configuration(2), "127.0.0.1", lab.VIP.String()),
	} {
		if err := m.write(path, text); err != nil {
			return err
		}
	}
	return m.enable("peervip-handover.service", "/etc/systemd/system/")
}

// A service that listens on the shared address finds it at boot, and at the end of the
// machine it stops when the others have its clients.
func TestServiceBoundToTheAddress(t *testing.T) {
	c := raise(t, 2, bound)
	m := c.machines[0]
	for _, m := range c.machines {
		if got := strings.TrimSpace(m.must(t, "systemctl", "is-active", "nginx")); got != "active" {
			t.Errorf("nginx of %s is %s", m.name, got)
		}
	}
	w := c.come(t)
	boots := m.booting()
	m.must(t, "systemctl", "reboot")
	must(t, m.booted(patiently(t), boots+1))
	c.settle(t, c.machines...)
	w.served(t, "reboot of "+m.name, w.window())

	journal := m.must(t, "journalctl", "--no-pager", "-b", "-1", "-o", "short-precise", "-u", "peervip", "-u", "nginx", "-u", "peervip-handover")
	left := regexp.MustCompile(`(?m)^.*this node has left`).FindStringIndex(journal)
	stopping := regexp.MustCompile(`(?m)^.*Stopping nginx`).FindStringIndex(journal)
	if left == nil || stopping == nil || left[0] > stopping[0] {
		t.Errorf("nginx was not stopped after this node has left:\n%s", journal)
	}
}
