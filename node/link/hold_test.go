package link

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// snapshot is all that Up may touch: addresses, groups, filters and the interfaces'
// IPv4 settings.
func snapshot(h host) string {
	h.t.Helper()
	text := h.ip("-details addr show") + h.ip("maddr show")
	// ip's complaint if a namespace of somebody else is just being made.
	text = strings.ReplaceAll(text, "Error: Peer netns reference is invalid.\n", "")
	h.do(func() error {
		files, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/*")
		if err != nil {
			return err
		}
		for _, file := range files {
			value, err := os.ReadFile(file)
			if err != nil {
				continue // route flushers are write-only
			}
			text += file + " " + string(value)
		}
		return nil
	})
	return text
}

var modes = map[string]struct {
	mode  string
	maddr string // what `ip maddr` shows while up
}{
	"multicast":          {"multicast", "inet  239.255.2.100"},
	"unicast":            {"unicast", ""},
	"explicit multicast": {"03:00:00:00:00:64", "link  03:00:00:00:00:64"},
	"explicit unicast":   {"02:bf:00:00:00:64", ""},
}

func TestDownRestoresEverythingExactly(t *testing.T) {
	for name, c := range modes {
		t.Run(name, func(t *testing.T) {
			h := newSegment(t).join("n", "192.0.2.11/24")
			l := mustOpen(h, func(config *Config) {
				config.MAC = clusterMAC(t, c.mode)
				config.VIPs = append(config.VIPs, otherVIP)
			})
			before := snapshot(h)
			up(h, l)
			for _, vip := range []netip.Addr{vip, otherVIP} {
				if !strings.Contains(h.ip("addr show lo"), "inet "+vip.String()+"/32 scope host lo") {
					t.Errorf("%s is not on lo with scope host", vip)
				}
			}
			for key, want := range map[string]string{"arp_ignore": "1", "arp_announce": "2"} {
				for _, where := range []string{"all/", "eth0/"} {
					if got := h.sysctl(where + key); got != want {
						t.Errorf("%s%s is %s while up, want %s", where, key, got, want)
					}
				}
			}
			if groups := strings.Join(strings.Fields(h.ip("maddr show eth0")), " "); !strings.Contains(groups, strings.Join(strings.Fields(c.maddr), " ")) {
				t.Errorf("no %s among the groups %s", c.maddr, groups)
			}
			during := snapshot(h)
			h.do(l.Up)
			if diff := cmp.Diff(during, snapshot(h)); diff != "" {
				t.Errorf("a second Up changed (-before +after):\n%s", diff)
			}
			h.do(l.Down)
			if diff := cmp.Diff(before, snapshot(h)); diff != "" {
				t.Errorf("Down left (-before +after):\n%s", diff)
			}
			h.do(l.Down)
			if diff := cmp.Diff(before, snapshot(h)); diff != "" {
				t.Errorf("a second Down changed (-before +after):\n%s", diff)
			}
		})
	}
}

// The NIC passes frames to a unicast cluster MAC. veth has no filter to list, so
// the kernel makes it promiscuous instead.
func TestUnicastModeOpensTheFilter(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	l := mustOpen(h, func(c *Config) { c.MAC = clusterMAC(t, "unicast") })
	before := h.ip("-details link show eth0")
	up(h, l)
	if during := h.ip("-details link show eth0"); during == before || !strings.Contains(during, "promiscuity 1") {
		t.Errorf("the interface takes no more than before: %s", during)
	}
}

func TestSysctlsAlreadyStrictEnoughStay(t *testing.T) {
	for _, c := range []struct {
		key, found, during string
	}{
		{"arp_ignore", "0", "1"}, {"arp_ignore", "1", "1"}, {"arp_ignore", "2", "2"}, {"arp_ignore", "3", "3"}, {"arp_ignore", "8", "8"},
		{"arp_ignore", "4", "1"}, // reserved: the kernel answers
		{"arp_announce", "0", "2"}, {"arp_announce", "1", "2"}, {"arp_announce", "2", "2"},
	} {
		t.Run(c.key+"="+c.found, func(t *testing.T) {
			h := newSegment(t).join("n", "192.0.2.11/24")
			for _, where := range []string{"all/", "eth0/"} {
				h.setSysctl(where+c.key, c.found)
			}
			l := mustOpen(h, nil)
			up(h, l)
			for _, where := range []string{"all/", "eth0/"} {
				if got := h.sysctl(where + c.key); got != c.during {
					t.Errorf("%s%s is %s while up, want %s", where, c.key, got, c.during)
				}
			}
			h.do(l.Down)
			for _, where := range []string{"all/", "eth0/"} {
				if got := h.sysctl(where + c.key); got != c.found {
					t.Errorf("%s%s is %s after Down, was %s", where, c.key, got, c.found)
				}
			}
		})
	}
}

func TestDownLeavesWhatSomebodyElseHasChanged(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	l := mustOpen(h, nil)
	up(h, l)
	h.setSysctl("all/arp_ignore", "8")
	h.ip("addr del 192.0.2.100/32 dev lo")
	h.do(l.Down)
	if got := h.sysctl("all/arp_ignore"); got != "8" {
		t.Errorf("all/arp_ignore is %s after Down, the operator's 8 is gone", got)
	}
	if got := h.sysctl("eth0/arp_ignore"); got != "0" {
		t.Errorf("eth0/arp_ignore is %s after Down", got)
	}
}

func TestDownAfterAPartialUp(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	l := mustOpen(h, nil)
	before := snapshot(h)
	// The last step fails: the host may hold no more groups.
	h.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/igmp_max_memberships", []byte("0"), 0) })
	err := h.Do(l.Up)
	if err == nil || !strings.Contains(err.Error(), "membership of 239.255.2.100 (01:00:5e:7f:02:64) on eth0") {
		t.Fatalf("Up returned %v, want an error about the group", err)
	}
	if snapshot(h) == before {
		t.Fatal("Up failed before it did anything: the test is pointless")
	}
	if l.speaker.Load() != nil {
		t.Error("the link answers though Up failed")
	}
	h.do(l.Down)
	if diff := cmp.Diff(before, snapshot(h)); diff != "" {
		t.Errorf("Down left (-before +after):\n%s", diff)
	}
	// The cause is cured, and the same link comes up.
	h.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/igmp_max_memberships", []byte("20"), 0) })
	up(h, l)
}

// A new interface has settings of its own, and those are what is restored.
func TestDownRestoresTheSettingsOfTheNewInterface(t *testing.T) {
	s := newSegment(t)
	h := s.join("n", "192.0.2.11/24")
	l := mustOpen(h, nil)
	up(h, l)
	h.setSysctl("default/arp_ignore", "4")
	h.ip("link del eth0")
	s.plug(h, "eth0", "192.0.2.11/24")
	h.do(l.Up)
	if got := h.sysctl("eth0/arp_ignore"); got != "1" {
		t.Errorf("eth0/arp_ignore is %s while up", got)
	}
	h.do(l.Down)
	if got := h.sysctl("eth0/arp_ignore"); got != "4" {
		t.Errorf("eth0/arp_ignore is %s after Down, the interface was made with 4", got)
	}
}

// An interface that gets another name takes its settings along: they are put back there,
// by the agent that sees it, that ends, or is started after one that was killed.
func TestSettingsOfARenamedInterfaceArePutBack(t *testing.T) {
	for name, ends := range map[string]func(h host, l *Link, d *diary){
		"seen, and then it ends": func(h host, l *Link, _ *diary) {
			h.do(l.Hold)
			h.do(l.Down)
		},
		"it ends": func(h host, l *Link, _ *diary) { h.do(l.Down) },
		"it was killed": func(h host, l *Link, d *diary) {
			crash(h, l)
			h.do(d.open(h).Down)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newSegment(t).join("n", "192.0.2.11/24")
			before := strings.ReplaceAll(snapshot(h), "eth0", "lan0")
			d := &diary{}
			l := d.open(h)
			up(h, l)
			h.ip("link set eth0 down") // as udev does, before the name
			h.ip("link set eth0 name lan0")
			h.ip("link set lan0 up")
			if got := h.sysctl("lan0/arp_ignore"); got != "1" {
				t.Fatalf("lan0/arp_ignore is %s: the test is pointless", got)
			}
			ends(h, l, d)
			for _, key := range []string{"arp_ignore", "arp_announce"} {
				if got := h.sysctl("lan0/" + key); got != "0" {
					t.Errorf("lan0/%s is %s, and was 0", key, got)
				}
			}
			if strings.Contains(before, "peervip") != strings.Contains(snapshot(h), "peervip") {
				t.Error("the VIP stays")
			}
		})
	}
}

func TestUpWithoutTheInterface(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	l := mustOpen(h, nil)
	h.ip("link del eth0")
	if err := h.Do(l.Up); err == nil || err.Error() != "interface eth0 does not exist" {
		t.Errorf("Up returned %v", err)
	}
}

// With global scope on lo, the VIP may be chosen as a source address.
func TestVIPIsNeverChosenAsSource(t *testing.T) {
	source := func(h host) string {
		// The only other address is on another interface, so a global VIP on lo is a candidate.
		h.ip("addr del 192.0.2.11/24 dev eth0")
		h.ip("route add 198.51.100.0/24 dev eth0")
		return h.ip("route get 198.51.100.1")
	}
	t.Run("as we put it", func(t *testing.T) {
		h := newSegment(t).join("n", "192.0.2.11/24")
		up(h, mustOpen(h, nil))
		if route := source(h); strings.Contains(route, "src 192.0.2.100") {
			t.Errorf("the VIP is the source: %s", route)
		}
	})
	t.Run("with global scope, for comparison", func(t *testing.T) {
		h := newSegment(t).join("n", "192.0.2.11/24")
		h.ip("addr add 192.0.2.100/32 dev lo")
		if route := source(h); !strings.Contains(route, "src 192.0.2.100") {
			t.Errorf("the test would not notice: %s", route)
		}
	})
}
