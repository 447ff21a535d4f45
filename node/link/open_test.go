package link

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenFindsAddressAndMAC(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	h.ip("addr add 192.0.2.12/24 dev eth0")
	l := mustOpen(h, nil)
	if got := l.Address().String(); got != "192.0.2.11" {
		t.Errorf("address %s, want the first of the interface", got)
	}
	if got := hwAddr(l.HardwareAddr()); got != h.mac("eth0") {
		t.Errorf("hardware address %s, want %s", got, h.mac("eth0"))
	}
	if got := l.CarrierFor(); got <= 0 {
		t.Errorf("carrier for %v", got)
	}
}

// Gossip may run over another network than the VIPs'.
func TestOpenTakesAnAddressOfAnotherInterface(t *testing.T) {
	s := newSegment(t)
	h := s.join("n", "192.0.2.11/24")
	s.plug(h, "eth1", "198.51.100.11/24")
	l := mustOpen(h, func(c *Config) { c.Address = netip.MustParseAddr("198.51.100.11") })
	if got := l.Address().String(); got != "198.51.100.11" {
		t.Errorf("address %s", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	s := newSegment(t)
	h := s.join("n", "192.0.2.11/24")
	s.plug(h, "eth1", "")
	h.ip("addr add 192.0.2.50/32 dev eth1")
	h.ip("link property add dev eth0 altname front0")
	h.ip("link property add dev eth0 altname enx525400a1b2c3d4e5")
	h.ip("addr add 192.0.2.51/32 dev lo") // with global scope, not as we would put it there
	s.plug(h, "eth2", "")
	vips := func(texts ...string) func(*Config) {
		return func(c *Config) { c.VIPs = addrs(texts...) }
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		says   []string
	}{
		{"no interface set", func(c *Config) { c.Interface = "" }, []string{"node.interface: ", "lo, eth0, eth1, eth2"}},
		{"interface missing", func(c *Config) { c.Interface = "eth9" }, []string{"node.interface: ", "no interface eth9", "lo, eth0, eth1, eth2"}},
		{"another name", func(c *Config) { c.Interface = "front0" }, []string{"node.interface: front0 is another name of eth0: write eth0"}},
		{"another name that is long", func(c *Config) { c.Interface = "enx525400a1b2c3d4e5" }, []string{"node.interface: enx525400a1b2c3d4e5 is another name of eth0: write eth0"}},
		{"long name missing", func(c *Config) { c.Interface = "enx525400a1b2c3d4e6" }, []string{"node.interface: ", "no interface enx525400a1b2c3d4e6"}},
		{"interface without Ethernet", func(c *Config) { c.Interface = "lo" }, []string{"node.interface: lo is not an Ethernet interface"}},
		{"interface without an address", func(c *Config) { c.Interface = "eth2" }, []string{"node.interface: eth2 has no global IPv4 address", "node.address"}},
		{"address of nobody", func(c *Config) { c.Address = client }, []string{"node.address: 192.0.2.1 is no address of this host", "192.0.2.11 on eth0"}},
		{"address is a VIP", func(c *Config) { c.Address = vip }, []string{"node.address: 192.0.2.100 is a VIP"}},
		{"no VIP", vips(), []string{"spec.vips: no VIP"}},
		{"VIP is the node's own address", vips("192.0.2.11"), []string{"spec.vips: 192.0.2.11 is already an address of this host, on eth0", "ip addr del 192.0.2.11/24 dev eth0"}},
		{"VIP on another interface", vips("192.0.2.50"), []string{"spec.vips: 192.0.2.50 is already", "on eth1"}},
		{"VIP on lo with global scope", vips("192.0.2.51"), []string{"spec.vips: 192.0.2.51 is already", "on lo", "ip addr del 192.0.2.51/32 dev lo"}},
		{"VIP listed twice", vips("192.0.2.100", "::ffff:192.0.2.100"), []string{"spec.vips: 192.0.2.100 is listed twice"}},
		{"IPv6", vips("192.0.2.100", "2001:db8::100"), []string{"spec.vips: 2001:db8::100 is IPv6, which is not supported"}},
		{"loopback", vips("127.0.0.1"), []string{"spec.vips: 127.0.0.1 is a loopback address"}},
		{"multicast", vips("224.0.0.18"), []string{"spec.vips: 224.0.0.18 is a multicast address"}},
		{"unspecified", vips("0.0.0.0"), []string{"spec.vips: 0.0.0.0 is the unspecified address"}},
		{"broadcast", vips("255.255.255.255"), []string{"spec.vips: 255.255.255.255 is the broadcast address"}},
		{"invalid", func(c *Config) { c.VIPs = make([]netip.Addr, 1) }, []string{"spec.vips: ", "is no address"}},
		{"MTU that no beacon fits", func(c *Config) { c.Beacon = 1473 }, []string{"node.interface: the MTU of eth0 is 1500, and a beacon of a cluster of 64 nodes may be an IP packet of 1501 bytes", "ip link set eth0 mtu 1501"}},
		{"no cluster MAC", func(c *Config) { c.MAC = ClusterMAC{} }, []string{"spec.mac: no cluster MAC"}},
		{"the interface's own MAC", func(c *Config) { c.MAC = ClusterMAC{addr: h.mac("eth0")} }, []string{"spec.mac: ", "is the MAC of eth0 itself"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := open(h, c.change)
			if err == nil {
				err = h.Do(l.Settle) // what may come is no error of Open
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of more than one line: %q", err)
			}
		})
	}
}

func TestOpenNamesMissingCapabilities(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	for _, c := range []struct {
		drop uint32
		says string
	}{
		{1 << unix.CAP_NET_RAW, "missing CAP_NET_RAW:"},
		{1 << unix.CAP_NET_ADMIN, "missing CAP_NET_ADMIN:"},
		{1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_ADMIN, "missing CAP_NET_ADMIN and CAP_NET_RAW:"},
	} {
		// Capabilities belong to the thread, and the one that Do uses ends with it.
		err := h.Do(func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&header, &data[0]); err != nil {
				return err
			}
			data[0].Effective &^= c.drop
			if err := unix.Capset(&header, &data[0]); err != nil {
				return err
			}
			_, err := Open(Config{Interface: "eth0", VIPs: []netip.Addr{vip}, MAC: clusterMAC(t, "multicast")})
			return err
		})
		if err == nil || !strings.HasPrefix(err.Error(), c.says) {
			t.Errorf("error %v, want one that begins with %q", err, c.says)
		}
	}
}
