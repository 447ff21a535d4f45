package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// Hosts as operators have them: with filters, links and bridges of their own.

// asks has a host ask by ARP for the address, and says whether anybody answers.
func asks(t *testing.T, from *lab.Namespace, device, addr string) bool {
	t.Helper()
	from.Run("ip", "neigh", "flush", "to", addr, "dev", device)
	from.Run("ping", "-c", "1", "-W", "1", "-I", device, addr)
	out, err := from.Run("ip", "neigh", "show", "to", addr, "dev", device)
	must(t, err)
	return strings.Contains(out, "lladdr")
}

// An address of lo that another link of the host answers for is answered for while the
// agent runs; the VIP is not, by any NIC of the host, with its agent or without, and not
// even when all rules are gone.
func TestOtherLinksOfTheHostAnswerAsBefore(t *testing.T) {
	t.Parallel()
	l := raise(t, 1)
	n := l.Nodes[0]
	other, err := lab.NewNamespace(l.Prefix + "-k")
	must(t, err)
	t.Cleanup(func() { must(t, other.Close()) })
	shell := func(ns *lab.Namespace, script string) {
		t.Helper()
		if out, err := ns.Run("sh", "-ec", script); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	vip := lab.VIP.String()
	shell(n.NS, fmt.Sprintf(`
		ip link add k0 type veth peer name eth0 netns %s
		ip link add eth1 type veth peer name second netns %s
		ip link set k0 up; ip link set eth1 up
		ip addr add 198.51.100.1/32 dev lo; ip route add 203.0.113.0/24 dev k0
		ip addr add 10.77.0.201/24 dev eth1`, other.Name, l.Client.Name))
	shell(other, "ip link set eth0 up; ip addr add 203.0.113.9/24 dev eth0; ip route add 198.51.100.1/32 dev eth0; ip route add "+vip+"/32 dev eth0")
	shell(l.Client, "ip link set second up")
	check := func(when string) {
		t.Helper()
		if !asks(t, other, "eth0", "198.51.100.1") {
			t.Errorf("%s: the other link does not answer", when)
		}
		if asks(t, l.Client, "second", vip) {
			t.Errorf("%s: the second NIC of the segment answers for the VIP", when)
		}
	}
	start(t, n)
	settle(t, l, n)
	check("the agent runs")
	if asks(t, other, "eth0", vip) {
		t.Error("the agent runs: the other link answers for the VIP")
	}
	must(t, n.Kill())
	check("the agent is killed")
	shell(n.NS, "nft flush ruleset")
	check("the rules are gone as well")
	if asks(t, l.Client, "eth0", vip) {
		t.Error("agent and rules are gone: the VIP's interface answers for it")
	}
	finish(t, l, false)
}

// A host's own filter is not blamed on the switch.
func TestTheHostsOwnFilterIsNamed(t *testing.T) {
	t.Parallel()
	l := raise(t, 3) // of two nobody knows whose fault it is, and none is cut off
	start(t, l.Nodes...)
	settle(t, l, l.Nodes...)
	n := l.Nodes[0]
	rules := filepath.Join(t.TempDir(), "rules.nft")
	must(t, os.WriteFile(rules, []byte(fmt.Sprintf(`
table inet strong {
	chain input {
		type filter hook input priority 0;
		ip daddr %s udp dport %d drop
	}
}
`, lab.VIP, lab.BeaconPort)), 0o600))
	_, err := n.NS.Run("nft", "-f", rules)
	must(t, err)
	says(t, n, "a firewall or filter of its own keeps them from the agent.*this node is cut off by it")
	s, err := n.Status(patiently(t))
	must(t, err)
	if all := strings.Join(s.Problems, "\n"); strings.Contains(all, "switch") {
		t.Errorf("the switch is blamed: %s", all)
	}
	_, err = n.NS.Run("nft", "delete", "table", "inet", "strong")
	must(t, err)
	settle(t, l, l.Nodes...)
	finish(t, l, false)
}
