package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// A node whose interface comes late, as at a boot without a link, waits for it as long
// as it takes, with the VIP on lo for the services that bind it; it is said once. Then it
// serves as if nothing had been, and stops clean.
func TestInterfaceComesLate(t *testing.T) {
	l := build(t, 3)
	others, late := l.Nodes[:2], l.Nodes[2]
	start(t, others...)
	settle(t, l, others...)
	before := hostState(t, late)
	must(t, late.DeleteInterface())
	start(t, late)
	eventually(t, func() error {
		s, err := late.Status(t.Context())
		if err != nil {
			return err
		}
		if problems := strings.Join(s.Problems, "\n"); s.Phase != "joining" || !strings.Contains(problems, "not serving yet: node.interface: there is no interface eth0: this host has lo") {
			return fmt.Errorf("it is %s and says %s", s.Phase, problems)
		}
		return nil
	})
	out, err := late.NS.Run("ip", "-4", "-o", "addr", "show", "dev", "lo")
	must(t, err)
	if !strings.Contains(out, lab.VIP.String()+"/32 scope host") {
		t.Errorf("while it waits the VIP should be on lo:\n%s", out)
	}
	must(t, late.MakeInterface())
	settle(t, l, l.Nodes...)
	clients := listen(t, l)
	if by := clients.allServed(t); count(by, late) == 0 {
		t.Errorf("%s serves nobody: %v", late.Name, by)
	}
	clients.quiet(t)
	if n := strings.Count(late.Log(), "NOT SERVING"); n != 1 {
		t.Errorf("the log says %d times that it waits:\n%s", n, late.Log())
	}
	stopsClean(t, late, before)
}
