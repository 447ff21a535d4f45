package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
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
	seen.await(t, "address 192.0.2.11 is gone from this host")
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
	node.setSysctl("all/arp_ignore", "0")
	node.setSysctl("eth0/arp_announce", "0")
	eventually(t, "the sysctls are put back", func() bool {
		return node.sysctl("all/arp_ignore") == "1" && node.sysctl("eth0/arp_announce") == "2"
	})
	node.do(l.Down)
	if got := node.sysctl("all/arp_ignore") + node.sysctl("eth0/arp_announce"); got != "00" {
		t.Errorf("sysctls after Down: %s", got)
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
	ctx, cancel := context.WithCancel(t.Context())
	seen := &statuses{}
	var broken atomic.Int32
	ended := make(chan error, 1)
	go func() {
		ended <- node.Do(func() error {
			// All subscriptions end at once, for want of file descriptors or whatever.
			return l.run(ctx, seen.add, func() (notices, error) {
				broken.Add(1)
				return nil, errors.New("broken")
			})
		})
	}()
	seen.await(t, "")
	s.ip("link set p1 down")
	seen.await(t, "interface eth0 has no carrier")
	s.ip("link set p1 up")
	seen.await(t, "")
	eventually(t, "another attempt to subscribe", func() bool { return broken.Load() > 2 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// linkNotice is a notice of the kernel about an interface.
func linkNotice(kind uint16, family uint8, index int) syscall.NetlinkMessage {
	data := make([]byte, unix.SizeofIfInfomsg)
	data[0] = family
	binary.NativeEndian.PutUint32(data[4:], uint32(index))
	return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: data}
}

func TestNoticesOfDeletion(t *testing.T) {
	for _, c := range []struct {
		name   string
		notice syscall.NetlinkMessage
		want   bool
	}{
		{"deleted", linkNotice(unix.RTM_DELLINK, unix.AF_UNSPEC, 2), true},
		{"changed", linkNotice(unix.RTM_NEWLINK, unix.AF_UNSPEC, 2), false},
		{"another interface", linkNotice(unix.RTM_DELLINK, unix.AF_UNSPEC, 3), false},
		{"taken from a bridge", linkNotice(unix.RTM_DELLINK, unix.AF_BRIDGE, 2), false},
		{"an address", linkNotice(unix.RTM_DELADDR, unix.AF_INET, 2), false},
		{"cut short", syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_DELLINK}, Data: []byte{0, 0}}, false},
	} {
		l := &Link{}
		l.seen.Store(&sight{device: device{found: true, index: 2}})
		l.heed(c.notice)
		if got := l.deleted.Load(); got != c.want {
			t.Errorf("%s: deleted %v, want %v", c.name, got, c.want)
		}
	}
}

// The kernel drops notices when the socket is full and says so: that is a reason to
// look, not to stop.
func TestOverrunOfNoticesIsAReasonToLook(t *testing.T) {
	l := &Link{kick: make(chan struct{}, 1)}
	script := &scriptedNotices{results: []error{fmt.Errorf("receiving: %w", unix.ENOBUFS), nil, unix.ENOBUFS, unix.EBADF}}
	script.before = func() {
		select {
		case <-l.kick:
		default:
			t.Error("no look after the last result")
		}
	}
	l.listen(script)
	if len(script.results) > 0 {
		t.Errorf("stopped with %v to come", script.results)
	}
}

// scriptedNotices gives one result after the other; before runs between two.
type scriptedNotices struct {
	results []error
	begun   bool
	before  func()
}

func (s *scriptedNotices) Receive() ([]syscall.NetlinkMessage, *unix.SockaddrNetlink, error) {
	if s.begun {
		s.before()
	}
	s.begun = true
	err := s.results[0]
	s.results = s.results[1:]
	return nil, nil, err
}

func (s *scriptedNotices) Close() {}

func TestStatusesAreCoalescedAndNeverBlockTheWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watch{statuses: make(chan Status, 1)}
	got, release := make(chan Status), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- deliver(ctx, w.statuses, func(s Status) {
			got <- s
			<-release
		})
	}()
	w.tell(Status{OK: true})
	if s := <-got; !s.OK {
		t.Errorf("first status %+v", s)
	}
	for i := range 1000 { // notify is busy all the while
		if !w.tell(Status{Reason: fmt.Sprint(i)}) {
			t.Fatal("a change was taken for none")
		}
	}
	if w.tell(Status{Reason: "999"}) {
		t.Error("no change was taken for one")
	}
	release <- struct{}{}
	if s := <-got; s.Reason != "999" {
		t.Errorf("after notify was free: %+v, want the newest", s)
	}
	w.tell(Status{OK: true})
	w.tell(Status{Reason: "999"})
	release <- struct{}{}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
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
