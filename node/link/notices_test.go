package link

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

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
