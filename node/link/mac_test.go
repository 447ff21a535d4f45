package link

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func TestParseClusterMAC(t *testing.T) {
	for _, c := range []struct {
		mode       string
		vips       []netip.Addr
		mac, group string // group "" for none
	}{
		{"multicast", addrs("192.0.2.100"), "01:00:5e:7f:02:64", "239.255.2.100"},
		{"multicast", addrs("10.9.200.255", "10.9.0.1"), "01:00:5e:7f:c8:ff", "239.255.200.255"},
		{"multicast", addrs("2001:db8::100", "192.0.2.7"), "01:00:5e:7f:02:07", "239.255.2.7"},
		{"multicast", addrs("::ffff:192.0.2.7"), "01:00:5e:7f:02:07", "239.255.2.7"},
		// Fixed for good: nodes of different versions must agree on the hash.
		{"multicast", addrs("2001:db8::100"), "01:00:5e:7f:b8:75", "239.255.184.117"},
		{"unicast", addrs("192.0.2.100"), "02:bf:ae:a6:52:20", ""},
		{"unicast", addrs("::ffff:192.0.2.100"), "02:bf:ae:a6:52:20", ""},
		{"03:00:00:00:00:64", nil, "03:00:00:00:00:64", ""},
		{"02-BF-00-00-00-64", nil, "02:bf:00:00:00:64", ""},
	} {
		got, err := ParseClusterMAC(c.mode, c.vips)
		if err != nil {
			t.Errorf("%s of %v: %v", c.mode, c.vips, err)
			continue
		}
		group := ""
		if got.Group().IsValid() {
			group = got.Group().String()
		}
		if got.String() != c.mac || got.HardwareAddr().String() != c.mac || group != c.group {
			t.Errorf("%s of %v: %s with group %q, want %s with %q", c.mode, c.vips, got, group, c.mac, c.group)
		}
	}
}

func TestParseClusterMACRefuses(t *testing.T) {
	for mode, says := range map[string]string{
		"multicast":               "spec.vips is empty",
		"unicast":                 "spec.vips is empty",
		"":                        `"" is neither`,
		"Multicast":               `"Multicast" is neither`,
		"02:bf:00:00:00":          "is neither",
		"02:bf:00:00:00:00:00:01": "is neither",
		"00:00:00:00:00:00":       "no station's address",
		"ff:ff:ff:ff:ff:ff":       "the broadcast address",
		"01:80:c2:00:00:0e":       "never forward",
	} {
		_, err := ParseClusterMAC(mode, nil)
		if err == nil || !strings.HasPrefix(err.Error(), "spec.mac: ") || !strings.Contains(err.Error(), says) {
			t.Errorf("mode %q: error %v, want one about spec.mac that says %q", mode, err, says)
		}
	}
}

// The mapping of RFC 1112: 01:00:5e and the low 23 bits of the group.
func TestMulticastMACIsThatOfItsGroup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vip := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "vip")))
		m, err := ParseClusterMAC("multicast", []netip.Addr{vip})
		if err != nil {
			t.Fatal(err)
		}
		group := m.Group().As4()
		want := []byte{0x01, 0x00, 0x5e, group[1] & 0x7f, group[2], group[3]}
		if !slices.Equal(m.HardwareAddr(), want) || !m.Multicast() || !m.Group().IsMulticast() {
			t.Fatalf("%s for group %s", m, m.Group())
		}
	})
}

func TestUnicastMACIsLocalAndNoGroup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vip := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "vip")))
		m, err := ParseClusterMAC("unicast", []netip.Addr{vip})
		if err != nil {
			t.Fatal(err)
		}
		if m.Multicast() || m.Group().IsValid() || !strings.HasPrefix(m.String(), "02:bf:") {
			t.Fatalf("%s", m)
		}
	})
}

func TestHardwareAddrIsACopy(t *testing.T) {
	m, err := ParseClusterMAC("02:bf:00:00:00:64", nil)
	if err != nil {
		t.Fatal(err)
	}
	m.HardwareAddr()[5] = 0
	if m.String() != "02:bf:00:00:00:64" {
		t.Errorf("the cluster MAC became %s", m)
	}
}
