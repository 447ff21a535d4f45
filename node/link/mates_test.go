package link

import (
	"strings"
	"testing"
)

// Where rules keep the kernel from answering for the VIPs, the sysctl that keeps it from
// answering for everything on lo is set on the VIPs' own segment only: on the interface,
// and on others that have an address there, whenever they come.
func TestOtherLinksKeepTheirSettings(t *testing.T) {
	s := newSegment(t)
	h := s.join("n", "192.0.2.11/24")
	s.plug(h, "eth1", "192.0.2.12/24")   // a second NIC of the segment
	s.plug(h, "eth2", "198.51.100.1/24") // another network
	h.ip("link add k0 type veth peer name k1")
	h.ip("link set k0 up")
	h.setSysctl("all/arp_ignore", "0") // a new namespace may have the machine's
	h.setSysctl("all/arp_announce", "0")
	before := snapshot(h)
	d := &diary{}
	open := func() *Link { return d.open(h, func(c *Config) { c.ARPFiltered = true }) }
	l := open()
	up(h, l)
	check := func(when, eth3 string) {
		t.Helper()
		for where, want := range map[string]string{"all": "0", "default": "0", "eth0": "1", "eth1": "1", "eth2": "0", "k0": "0", "eth3": eth3} {
			if want == "" {
				continue
			}
			if got := h.sysctl(where + "/arp_ignore"); got != want {
				t.Errorf("%s: arp_ignore of %s is %s, want %s", when, where, got, want)
			}
		}
		for _, where := range []string{"all", "eth0"} {
			if got := h.sysctl(where + "/arp_announce"); got != "2" {
				t.Errorf("%s: arp_announce of %s is %s", when, where, got)
			}
		}
	}
	check("up", "")
	s.plug(h, "eth3", "192.0.2.13/24")
	h.do(l.Up) // as each look of Run does
	check("with an interface that came later", "1")
	if !strings.Contains(h.ip("addr show lo"), vip.String()) {
		t.Error("the VIP is not up")
	}
	h.ip("link del eth3")

	crash(h, l) // and the next life takes it all back
	l = open()
	h.do(l.Discard)
	up(h, l)
	check("after a crash", "")
	h.do(l.Down)
	assertSnapshot(h, before, "left behind")
	if len(d.kept.Settings) > 0 {
		t.Errorf("remembered: %+v", d.kept)
	}
}
