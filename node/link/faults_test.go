package link

import (
	"os"
	"strings"
	"testing"
)

// A unicast cluster MAC never reaches a macvlan or ipvlan, so a node there would hold its
// buckets and answer nobody. One in passthru mode gets every frame.
func TestUnicastOnAMacvlanIsRefused(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	h.ip("link add mv0 link eth0 type macvlan mode bridge")
	h.ip("addr add 192.0.2.21/24 dev mv0")
	h.ip("link set mv0 up")
	on := func(device, mac string) error {
		_, err := open(h, func(c *Config) { c.Interface, c.MAC = device, clusterMAC(t, mac) })
		return err
	}
	for _, mac := range []string{"unicast", "02:bf:00:00:00:64"} {
		if err := on("mv0", mac); err == nil || !strings.Contains(err.Error(), "never reach mv0, which is a macvlan: set spec.mac to multicast") {
			t.Errorf("%s: error %v", mac, err)
		}
		if err := on("eth0", mac); err != nil {
			t.Errorf("%s on a veth: %v", mac, err)
		}
	}
	if err := on("mv0", "multicast"); err != nil {
		t.Errorf("multicast: %v", err)
	}
	h.ip("link del mv0")
	h.ip("link add mv0 link eth0 type macvlan mode passthru")
	h.ip("addr add 192.0.2.21/24 dev mv0")
	h.ip("link set mv0 up")
	if err := on("mv0", "unicast"); err != nil {
		t.Errorf("unicast on a macvlan that gets every frame: %v", err)
	}
}

// What the host's settings keep from a node is said with the cure, and not any more when
// that was done.
func TestFaultsOfTheHost(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	h.ip("link add gw type veth peer name gw1")
	h.ip("link set gw up")
	h.ip("link set gw1 up")
	h.ip("addr add 203.0.113.1/24 dev gw")
	h.ip("route add default via 203.0.113.254 dev gw")
	h.ip("link add br0 type bridge")
	h.ip("addr add 192.0.2.31/24 dev br0")
	h.ip("link set br0 up")
	faults := func(device, mac string) []string {
		t.Helper()
		l := mustOpen(h, func(c *Config) { c.Interface, c.MAC = device, clusterMAC(t, mac) })
		up(h, l)
		h.do(func() error {
			w := &watch{Link: l, failed: map[string]string{}}
			now, err := l.readSight()
			w.findFaults(&now)
			return err
		})
		h.do(l.Down)
		return l.Faults()
	}
	check := func(device, mac, want string) {
		t.Helper()
		if got := faults(device, mac); want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
			t.Errorf("%s, %s: faults %q, want %q", device, mac, got, want)
		}
	}
	for _, where := range []string{"all", "eth0", "br0"} {
		h.setSysctl(where+"/rp_filter", "0")
	}
	check("eth0", "multicast", "")
	h.setSysctl("all/rp_filter", "1")
	check("eth0", "multicast", "rp_filter is strict on eth0, and the default route leaves by gw")
	h.setSysctl("eth0/rp_filter", "2")
	check("eth0", "multicast", "")
	h.setSysctl("eth0/rp_filter", "0")
	h.ip("rule add from 192.0.2.100 lookup 100") // answers have a way of their own
	h.ip("route add default via 192.0.2.1 dev eth0 table 100")
	check("eth0", "multicast", "")
	h.setSysctl("all/rp_filter", "0")

	check("br0", "multicast", "")
	check("br0", "unicast", "br0 is a bridge whose frames pass the IP filter")
	h.do(func() error { return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0) })
	check("br0", "unicast", "")
	h.ip("link set br0 type bridge nf_call_iptables 1")
	check("br0", "unicast", "br0 is a bridge whose frames pass the IP filter")
	h.ip("link set br0 type bridge mcast_querier 1")
	check("br0", "multicast", "ip link set br0 type bridge mcast_router 2")
	h.ip("link set br0 type bridge mcast_router 2")
	check("br0", "multicast", "")
}
