package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// watched serves on a node beside a client. Without polling, only events of the
// kernel make Run look.
func watched(t *testing.T, polling bool) (s *segment, node, user host, l *Link, seen *statuses) {
	s = newSegment(t)
	node, user = s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24")
	l = mustOpen(node, nil)
	if !polling {
		l.lookEvery = time.Hour
	}
	return s, node, user, l, serve(node, l)
}

// answers waits until the client gets the cluster MAC from the node's present MAC.
func answers(node, user host, l *Link) {
	node.t.Helper()
	heard := captureARP(user, "eth0")
	eventually(node.t, "an answer with the cluster MAC", func() bool {
		inject(user, "eth0", request(user.mac("eth0"), client, vip))
		replies := heard.replies(vip)
		if len(replies) == 0 {
			return false
		}
		last := replies[len(replies)-1]
		return last.senderMAC == l.config.MAC.addr && last.src == node.mac("eth0")
	})
}

func TestWatchSeesLinkDownAndUp(t *testing.T) {
	_, node, user, l, seen := watched(t, false)
	node.ip("link set eth0 down")
	seen.await(t, "interface eth0 is down")
	if l.CarrierFor() != 0 {
		t.Errorf("carrier for %v though the interface is down", l.CarrierFor())
	}
	node.ip("link set eth0 up")
	seen.await(t, "")
	answers(node, user, l)
}

func TestWatchSeesTheCarrier(t *testing.T) {
	s, node, user, l, seen := watched(t, false)
	eventually(t, "a carrier for a while", func() bool { return l.CarrierFor() > 50*time.Millisecond })
	s.ip("link set p1 down")
	seen.await(t, "interface eth0 has no carrier")
	if l.CarrierFor() != 0 {
		t.Errorf("carrier for %v without a carrier", l.CarrierFor())
	}
	back := time.Now()
	s.ip("link set p1 up")
	seen.await(t, "")
	if got, most := l.CarrierFor(), time.Since(back); got <= 0 || got > most {
		t.Errorf("carrier for %v, it came back %v ago", got, most)
	}
	answers(node, user, l)
}

// A carrier that is back before anybody looks has been lost all the same. The
// kernel sends no notice of a loss as short as this, at times.
func TestWatchCountsAShortLossOfTheCarrier(t *testing.T) {
	s, _, _, l, seen := watched(t, true)
	eventually(t, "a carrier for a while", func() bool { return l.CarrierFor() > 50*time.Millisecond })
	before := time.Now()
	s.run("sh", "-c", "ip link set p1 down; ip link set p1 up")
	eventually(t, "the carrier counts from the loss", func() bool {
		got := l.CarrierFor()
		return got > 0 && got < time.Since(before) && seen.last().OK
	})
}

func TestWatchSeesTheNodesAddress(t *testing.T) {
	_, node, user, l, seen := watched(t, false)
	node.ip("addr del 192.0.2.11/24 dev eth0")
	seen.await(t, "address 192.0.2.11 is gone from this host, and eth0 has no other: give it one")
	node.ip("addr add 192.0.2.11/24 dev eth0")
	seen.await(t, "")
	answers(node, user, l)
}

func TestWatchSeesTheInterfaceDeletedAndMadeAgain(t *testing.T) {
	for name, c := range modes {
		t.Run(name, func(t *testing.T) {
			s := newSegment(t)
			node, user := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24")
			l := mustOpen(node, func(config *Config) { config.MAC = clusterMAC(t, c.mode) })
			l.lookEvery = time.Hour
			before := node.ip("addr show lo") + node.groups()
			seen := serve(node, l)
			groups := node.groups()
			old := l.seen.Load().index

			node.ip("link del eth0")
			seen.await(t, "interface eth0 does not exist")
			s.plug(node, "eth0", "192.0.2.11/24")
			seen.await(t, "")
			if l.seen.Load().index == old {
				t.Fatal("the new interface has the old index: the test is pointless")
			}
			answers(node, user, l)
			if got := node.sysctl("eth0/arp_ignore") + node.sysctl("eth0/arp_announce"); got != "12" {
				t.Errorf("sysctls of the new interface: %s", got)
			}
			if diff := cmp.Diff(groups, node.groups()); diff != "" {
				t.Errorf("groups of the new interface (-old +new):\n%s", diff)
			}

			node.do(l.Down)
			if got := node.sysctl("eth0/arp_ignore") + node.sysctl("eth0/arp_announce") + node.sysctl("all/arp_ignore") + node.sysctl("all/arp_announce"); got != "0000" {
				t.Errorf("sysctls after Down: %s", got)
			}
			if diff := cmp.Diff(before, node.ip("addr show lo")+node.groups()); diff != "" {
				t.Errorf("lo and groups after Down (-before +after):\n%s", diff)
			}
		})
	}
}

// An interface that was moved away and back keeps its index, but not its groups.
func TestWatchSeesTheInterfaceAwayAndBack(t *testing.T) {
	s, node, user, l, seen := watched(t, false)
	away := newHost(t, s.prefix+"x")
	index := l.seen.Load().index
	groups := node.groups()
	node.ip("link set eth0 netns " + away.Name)
	away.ip("link set eth0 netns " + node.Name)
	node.ip("link set eth0 addrgenmode none")
	node.ip("addr add 192.0.2.11/24 dev eth0")
	node.ip("link set eth0 up")
	defer func() {
		if t.Failed() {
			t.Logf("groups %s, were %s", node.groups(), groups)
		}
	}()
	eventually(t, "the group is joined again", func() bool { return node.groups() == groups })
	seen.await(t, "")
	answers(node, user, l)
	if got := l.seen.Load().index; got != index {
		t.Logf("the index changed from %d to %d: this kernel does not show the case", index, got)
	}
}

// Whoever removes the VIP by accident does not end the service; it is put back.
func TestVIPRemovedFromLoIsPutBack(t *testing.T) {
	_, node, _, _, seen := watched(t, false)
	node.ip("addr flush dev lo")
	eventually(t, "the VIP is back on lo", func() bool {
		return strings.Contains(node.ip("addr show lo"), "inet 192.0.2.100/32 scope host lo")
	})
	if got := seen.all(); len(got) != 1 {
		t.Errorf("statuses %+v, want OK alone", got)
	}
}

func TestSysctlsThatWereResetArePutBack(t *testing.T) {
	_, node, _, l, _ := watched(t, true)
	node.setSysctl("all/arp_ignore", "4") // no better than 0
	node.setSysctl("eth0/arp_announce", "1")
	eventually(t, "the sysctls are put back", func() bool {
		return node.sysctl("all/arp_ignore") == "1" && node.sysctl("eth0/arp_announce") == "2"
	})
	node.do(l.Down)
	if got := node.sysctl("all/arp_ignore") + node.sysctl("eth0/arp_announce"); got != "00" {
		t.Errorf("sysctls after Down: %s, want them as Up found them", got)
	}
}

func TestWhatCannotBePutBackIsAReason(t *testing.T) {
	_, node, _, l, seen := watched(t, true)
	l.mu.Lock() // keeps Run from putting it back before the same with another scope is in the way
	node.ip("addr del 192.0.2.100/32 dev lo")
	node.ip("addr add 192.0.2.100/32 dev lo scope global")
	l.mu.Unlock()
	seen.await(t, "adding the VIP 192.0.2.100 to lo: file exists")
	node.ip("addr del 192.0.2.100/32 dev lo scope global")
	seen.await(t, "")
}

func TestAnswersComeFromTheInterfacesPresentMAC(t *testing.T) {
	_, node, user, l, seen := watched(t, false)
	node.ip("link set eth0 address 02:00:00:00:00:aa")
	eventually(t, "the new MAC is seen", func() bool { return hwAddr(l.HardwareAddr()) == node.mac("eth0") })
	answers(node, user, l)
	if !seen.last().OK {
		t.Errorf("status %+v", seen.last())
	}
}

// Events are only hints: without any, Run looks now and then.
func TestWatchWithoutEvents(t *testing.T) {
	s := newSegment(t)
	node := s.join("n", "192.0.2.11/24")
	l := mustOpen(node, nil)
	seen, attempts := runDeaf(node, l)
	s.ip("link set p1 down")
	seen.await(t, "interface eth0 has no carrier")
	s.ip("link set p1 up")
	seen.await(t, "")
	eventually(t, "another attempt to subscribe", func() bool { return attempts.Load() > 2 })
}

// runDeaf runs a link that cannot subscribe to the kernel's notices, for want of
// file descriptors or whatever.
func runDeaf(h host, l *Link) (seen *statuses, attempts *atomic.Int32) {
	h.t.Helper()
	seen, attempts = &statuses{}, &atomic.Int32{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- h.Do(func() error {
			return l.run(ctx, seen.add, func() (notices, error) {
				attempts.Add(1)
				return nil, errors.New("broken")
			})
		})
	}()
	h.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
	})
	seen.await(h.t, "")
	return seen, attempts
}

// Who has rules at the interface's ingress must learn that it is another one, even
// if it was made anew between two looks.
func TestAnOutageBetweenTwoLooksIsReported(t *testing.T) {
	for name, c := range map[string]struct {
		outage func(*segment, host, *Link)
		reason string
	}{
		"made anew": {func(s *segment, h host, _ *Link) {
			h.ip("link del eth0")
			s.plug(h, "eth0", "192.0.2.11/24")
		}, "interface eth0 was made anew"},
		"away and back": {func(s *segment, h host, l *Link) {
			away := newHost(s.t, s.prefix+"x")
			h.ip("link set eth0 netns " + away.Name)
			away.ip("link set eth0 netns " + h.Name)
			h.ip("link set eth0 addrgenmode none")
			h.ip("addr add 192.0.2.11/24 dev eth0")
			h.ip("link set eth0 up")
			index := l.seen.Load().index
			if !strings.HasPrefix(h.ip("link show eth0"), fmt.Sprintf("%d: ", index)) {
				s.t.Fatal("the index is another: the test is pointless")
			}
			l.heed(linkNotice(unix.RTM_DELLINK, unix.AF_UNSPEC, index))
		}, "interface eth0 was made anew"},
		"carrier lost": {func(s *segment, h host, _ *Link) {
			s.ip("link set p1 down")
			s.ip("link set p1 up")
		}, "interface eth0 lost its carrier for a moment"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSegment(t)
			node, user := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24")
			l := mustOpen(node, nil)
			l.lookEvery = time.Hour
			up(node, l)
			groups := node.groups()
			seen, _ := runDeaf(node, l)
			c.outage(s, node, l)
			eventually(t, "a carrier", func() bool { return strings.Contains(node.ip("link show eth0"), "state UP") })
			l.nudge()
			want := []Status{{OK: true}, {Reason: c.reason}, {OK: true}}
			eventually(t, "three statuses", func() bool { return len(seen.all()) == len(want) })
			if diff := cmp.Diff(want, seen.all()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			answers(node, user, l)
			if diff := cmp.Diff(groups, node.groups()); diff != "" {
				t.Errorf("groups (-before +after):\n%s", diff)
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	node := newSegment(t).join("n", "192.0.2.11/24")
	l := mustOpen(node, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := node.Do(func() error { return l.Run(ctx, func(Status) {}) }); err != nil {
		t.Error(err)
	}
}

// Up, Down and Run in any order and at once: the race detector watches.
func TestUpAndDownWhileRunning(t *testing.T) {
	s := newSegment(t)
	node := s.join("n", "192.0.2.11/24")
	l := mustOpen(node, nil)
	l.lookEvery = time.Millisecond
	before := snapshot(node)
	run(node, l)
	for range 20 {
		node.do(l.Up)
		l.Ask([]netip.Addr{client})
		node.do(l.Down)
	}
	if diff := cmp.Diff(before, snapshot(node)); diff != "" {
		t.Errorf("after all (-before +after):\n%s", diff)
	}
}
