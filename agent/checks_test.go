package agent

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/peervip/peervip/node/health"
)

// TestMisledCheckIsAProblem: a check passes and clients are refused. It is the
// caller of the loop who asks the kernel about it: a loop that waits for the kernel gives
// no beacons.
func TestMisledCheckIsAProblem(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a", func(c *Config) {
		c.Spec.VIPs = []netip.Addr{netip.MustParseAddr("127.0.0.9")}
		c.Spec.Services[0].Health = []health.Check{httpCheck(t, 200)} // which listens on 127.0.0.1
	})
	monitors, err := newMonitors(r.cfg.Spec, r.log.logger())
	must(t, err)
	r.monitors = monitors
	const words = "passes, and nobody listens on 127.0.0.9:"
	r.misledBy = func(m *health.Monitor, vips []netip.Addr) []string {
		if m != monitors[0] || len(vips) != 1 {
			t.Errorf("asked about %v and %v", m, vips)
		}
		return []string{"the check " + words + "80"}
	}
	r.start()
	r.problem(t, true, words)
	r.ask(t, func(l *loop) {
		texts, _ := l.problems(l.core.Snapshot(), measures{}).texts()
		if all := strings.Join(texts, "\n"); strings.Contains(all, words) {
			t.Errorf("the loop has asked the kernel itself:\n%s", all)
		}
	})
}
