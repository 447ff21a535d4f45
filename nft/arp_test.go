package nft

import (
	"fmt"
	"strings"
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// asks sends ARP requests for the address out of the namespace's interface, and says
// whether anybody answers.
func asks(t testing.TB, from *lab.Namespace, device, addr string) bool {
	t.Helper()
	ip(t, from, "neigh flush to "+addr+" dev "+device)
	from.Run("ping", "-c", "1", "-W", "1", "-I", device, addr)
	return strings.Contains(run(t, from, "ip neigh show to "+addr+" dev "+device), "lladdr")
}

// The case pv-k: a host with another link, on which an address of its lo is asked for,
// and a second NIC on the VIP's segment. The kernel keeps still about the VIP everywhere,
// and about nothing else, as long as one of the two tables is there.
func TestTheKernelKeepsStillAboutTheVIPsAlone(t *testing.T) {
	s := testSpec()
	s.ARP = true
	w := newWire(t, 1)
	ns := w.nodes[0]
	sysctl(t, ns, "ipv4/conf/all/arp_ignore", "0")
	w.client.Run("ip", "neigh", "del", vip.String(), "dev", "eth0")
	other := namespace(t, "k")
	ip(t, ns, "link add k0 type veth peer name eth0 netns "+other.Name, "link set k0 up", "addr add 198.51.100.1/32 dev lo")
	ip(t, other, "link set eth0 up", "addr add 203.0.113.9/24 dev eth0", "route add 198.51.100.1/32 dev eth0", "route add "+vip.String()+"/32 dev eth0")
	ip(t, ns, "route add 203.0.113.0/24 dev k0")
	if !asks(t, other, "eth0", vip.String()) || !asks(t, w.client, "eth0", vip.String()) {
		t.Fatal("the kernel does not answer without rules: the test is pointless")
	}
	f := installed(t, ns, s)
	check := func(when string) {
		t.Helper()
		for name, from := range map[string]*lab.Namespace{"another link": other, "the segment": w.client} {
			if asks(t, from, "eth0", vip.String()) {
				t.Errorf("%s: the kernel answers for the VIP on %s", when, name)
			}
		}
		if !asks(t, other, "eth0", "198.51.100.1") || !asks(t, w.client, "eth0", "10.77.0.1") {
			t.Errorf("%s: the kernel does not answer for other addresses", when)
		}
	}
	check("with both tables")
	counters(t, f)
	run(t, ns, "nft flush ruleset")
	check("after a flush")
	if restored, err := f.EnsureGuard(); err != nil || !restored {
		t.Errorf("the guard was restored: %t, error %v", restored, err)
	}
	run(t, ns, "nft delete table arp "+guardName)
	if restored, err := f.EnsureGuard(); err != nil || !restored {
		t.Errorf("the guard's part for ARP was restored: %t, error %v", restored, err)
	}
	if restored, err := f.EnsureGuard(); err != nil || restored {
		t.Errorf("a whole guard was restored: %t, error %v", restored, err)
	}
	if err := f.Abandon(); err != nil {
		t.Fatal(err)
	}
	check("the guard alone")
	if left := fmt.Sprint(run(t, ns, "nft list ruleset")); !strings.Contains(left, "table arp "+guardName) {
		t.Errorf("left: %s", left)
	}
}

func TestGuardsARP(t *testing.T) {
	ns := host(t)
	if err := ns.Do(func() error {
		if !GuardsARP() {
			return fmt.Errorf("this kernel has no ARP rules")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if left := ruleset(t, ns); left != "" {
		t.Errorf("the probe left %s", left)
	}
}
