package link

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// diary is where a node remembers over its lives.
type diary struct {
	kept   Changes
	writes int
	err    error
}

func (d *diary) use(c *Config) {
	c.Changes = d.kept
	c.Remember = func(now Changes) error {
		d.writes++
		if d.err == nil {
			d.kept = now
		}
		return d.err
	}
}

// open begins a life of the node.
func (d *diary) open(h host, change ...func(*Config)) *Link {
	h.t.Helper()
	return mustOpen(h, func(c *Config) {
		d.use(c)
		for _, f := range change {
			f(c)
		}
	})
}

// crash ends a life as a SIGKILL does: the kernel closes the group's socket, and
// nothing else happens.
func crash(h host, l *Link) {
	h.t.Helper()
	h.do(l.holds[len(l.holds)-1].release)
}

func assertSnapshot(h host, want, when string) {
	h.t.Helper()
	if diff := cmp.Diff(want, snapshot(h)); diff != "" {
		h.t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// However many lives have ended without taking anything back: the last clean stop
// leaves the host as the first life found it.
func TestDownTakesBackWhatEarlierLivesHaveLeft(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	h.setSysctl("all/arp_announce", "1")
	before := snapshot(h)
	d := &diary{}
	for range 3 {
		l := d.open(h)
		h.do(l.Up)
		crash(h, l)
	}
	left := snapshot(h)
	if left == before {
		t.Fatal("a crash leaves nothing: the test is pointless")
	}
	l := d.open(h)
	if !l.LeftUp() {
		t.Error("nothing is left up")
	}
	assertSnapshot(h, left, "Open changed the host")
	h.do(l.Up)
	h.do(l.Abandon)
	assertSnapshot(h, left, "Abandon changed the host")
	h.do(d.open(h).Down) // also by a life that never came to its Up
	assertSnapshot(h, before, "left behind")
	if len(d.kept.Settings) > 0 {
		t.Errorf("remembered after all was put back: %+v", d.kept)
	}
	if d.writes != 5 { // four sysctls at the first Up, and the last Down
		t.Errorf("written %d times", d.writes)
	}
}

// What is changed is remembered before it is changed, so that there is no moment at
// which a crash would lose it.
func TestChangesAreRememberedBeforeTheyAreMade(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	var l *Link
	var lies []string
	l = mustOpen(h, func(c *Config) {
		c.Remember = func(now Changes) error {
			last := now.Settings[len(now.Settings)-1]
			if value, err := l.sysctl(last.Where, last.Key).read(); err != nil || value != last.Found || value == last.Set {
				lies = append(lies, last.Where+"/"+last.Key)
			}
			return nil
		}
	})
	h.do(l.Up)
	l.config.Remember = nil
	h.do(l.Down)
	if lies != nil {
		t.Errorf("changed before they were remembered: %v", lies)
	}
}

// A disk that is full does not keep a node from serving.
func TestUpThoughNothingCanBeRemembered(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	before := snapshot(h)
	l := (&diary{err: errors.New("disk full")}).open(h)
	up(h, l)
	h.do(l.Down)
	assertSnapshot(h, before, "left behind")
}

// An address that an operator has put on lo, even just as Up would, is his; so is
// one that he put there after he had removed ours.
func TestDownLeavesAnOperatorsAddress(t *testing.T) {
	h := newSegment(t).join("n", "192.0.2.11/24")
	h.ip("addr add 192.0.2.100/32 dev lo scope host")
	before := snapshot(h)
	d := &diary{}
	l := d.open(h)
	if l.LeftUp() {
		t.Error("an operator's address is left up")
	}
	up(h, l)
	h.do(l.Down)
	assertSnapshot(h, before, "after a clean stop")

	h.ip("addr del 192.0.2.100/32 dev lo")
	l = d.open(h)
	h.do(l.Up)
	crash(h, l)
	h.ip("addr del 192.0.2.100/32 dev lo")
	h.ip("addr add 192.0.2.100/32 dev lo scope host")
	l = d.open(h)
	up(h, l)
	h.do(l.Down)
	assertSnapshot(h, before, "after a crash and a clean stop")
}

// A VIP and an interface that are not configured any more are taken back at the next
// start already: no rules guard them.
func TestDiscardTakesBackWhatIsNotConfiguredAnyMore(t *testing.T) {
	s := newSegment(t)
	h := s.join("n", "192.0.2.11/24")
	s.plug(h, "eth1", "192.0.2.12/24")
	before := snapshot(h)
	d := &diary{}
	l := d.open(h, func(c *Config) { c.VIPs = append(c.VIPs, otherVIP) })
	h.do(l.Up)
	crash(h, l)

	l = d.open(h, func(c *Config) { c.Interface = "eth1" })
	h.do(l.Discard)
	if lo := h.ip("addr show lo"); strings.Contains(lo, otherVIP.String()) || !strings.Contains(lo, vip.String()) {
		t.Errorf("after Discard: %s", lo)
	}
	if got := h.sysctl("eth0/arp_ignore") + h.sysctl("eth0/arp_announce"); got != "00" {
		t.Errorf("eth0 has %s", got)
	}
	if slices.ContainsFunc(d.kept.Settings, func(s Setting) bool { return s.Where == "eth0" }) || len(d.kept.Settings) != 2 {
		t.Errorf("remembered: %+v", d.kept)
	}
	up(h, l)
	h.do(l.Down)
	assertSnapshot(h, before, "left behind")
}

// A memory that is not of this host, or that the host has gone on without, says
// nothing: what Up finds in order stays.
func TestAMemoryThatDoesNotHold(t *testing.T) {
	for name, befall := range map[string]func(s *segment, h host, d *diary){
		"of another boot or namespace": func(_ *segment, _ host, d *diary) {
			boot, namespace, _ := strings.Cut(d.kept.Host, "/")
			if len(boot) != 36 || namespace == "" {
				t.Errorf("host %q", d.kept.Host)
			}
			d.kept.Host = boot + "/1"
		},
		"lost": func(_ *segment, _ host, d *diary) { d.kept = Changes{} },
		"somebody has changed it since": func(_ *segment, h host, _ *diary) {
			h.setSysctl("all/arp_ignore", "2")
			h.setSysctl("eth0/arp_ignore", "2")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSegment(t)
			h := s.join("n", "192.0.2.11/24")
			d := &diary{}
			l := d.open(h)
			h.do(l.Up)
			crash(h, l)
			befall(s, h, d)
			want := h.sysctl("all/arp_ignore") + h.sysctl("eth0/arp_ignore")
			l = d.open(h)
			up(h, l)
			h.do(l.Down)
			if got := h.sysctl("all/arp_ignore") + h.sysctl("eth0/arp_ignore"); got != want {
				t.Errorf("arp_ignore is %s, was found as %s", got, want)
			}
			if lo := h.ip("addr show lo"); strings.Contains(lo, vip.String()) {
				t.Errorf("the VIP, which has our label, is still there: %s", lo)
			}
		})
	}
}

// An interface made anew, with whatever index, has settings of its own.
func TestMemoryOfAnInterfaceEndsWithIt(t *testing.T) {
	s := newSegment(t)
	h := s.join("n", "192.0.2.11/24")
	d := &diary{}
	l := d.open(h)
	h.do(l.Up)
	crash(h, l)
	h.ip("link del eth0")
	h.setSysctl("default/arp_ignore", "1") // as ours; but not of our making
	s.plug(h, "eth0", "192.0.2.11/24")
	l = d.open(h)
	up(h, l)
	h.do(l.Down)
	if got := h.sysctl("eth0/arp_ignore"); got != "1" {
		t.Errorf("eth0/arp_ignore is %s, the interface was made with 1", got)
	}
	if got := h.sysctl("all/arp_ignore"); got != "0" {
		t.Errorf("all/arp_ignore is %s", got)
	}
}

func TestHostID(t *testing.T) {
	a, b := newHost(t, newSegment(t).prefix+"a"), newHost(t, newSegment(t).prefix+"b")
	id := func(h host) (id string) {
		h.do(func() (err error) { id, err = hostID(); return err })
		return id
	}
	if first, again, elsewhere := id(a), id(a), id(b); first != again || first == elsewhere {
		t.Errorf("%s, %s; elsewhere %s", first, again, elsewhere)
	}
}
