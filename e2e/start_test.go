package e2e

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// problemsOf are the problems that the node's own status tells.
func problemsOf(t *testing.T, n *lab.Node) (phase, problems string) {
	t.Helper()
	eventually(t, func() error { // its agent may have only just been started
		s, err := n.Status(t.Context())
		phase, problems = s.Phase, strings.Join(s.Problems, "\n")
		return err
	})
	return phase, problems
}

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
	must(t, late.Stop(patiently(t)))
	index := regexp.MustCompile(`(?m)^\d+:`) // the interface has another one now
	if after := hostState(t, late); index.ReplaceAllString(after, "") != index.ReplaceAllString(before, "") {
		t.Errorf("left behind:\n%s\nbefore it was:\n%s", after, before)
	}
}

// A node without node.address goes on with the address that DHCP gives it in place of
// its own, and nobody speaks of two nodes with one name: its old life is dead.
func TestAddressChanges(t *testing.T) {
	l := cluster(t, 3)
	node := l.Nodes[1]
	four := node.Addr.As4()
	four[3] = 61
	other := netip.PrefixFrom(netip.AddrFrom4(four), 24)
	from := node.Addr.String()
	must(t, node.RemoveAddress())
	_, err := node.NS.Run("ip", "addr", "add", other.String(), "dev", "eth0")
	must(t, err)
	eventually(t, func() error {
		s, err := node.Status(t.Context())
		if err != nil {
			return err
		}
		for _, n := range s.Nodes {
			if n.Name == node.Name && n.Address == other.Addr().String() && n.Phase == "active" {
				return nil
			}
		}
		return fmt.Errorf("it is %s with %v", s.Phase, s.Problems)
	})
	settle(t, l, l.Nodes...)
	for _, n := range l.Nodes {
		if strings.Contains(n.Log(), "have one name") {
			t.Errorf("%s takes one node for two:\n%s", n.Name, n.Log())
		}
		if _, problems := problemsOf(t, n); strings.Contains(problems, "two nodes are named") {
			t.Errorf("%s: %s", n.Name, problems)
		}
	}
	if want := "address " + from + " is gone from this host"; !strings.Contains(node.Log(), want) {
		t.Errorf("its log does not say %q", want)
	}
}
