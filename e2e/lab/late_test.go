package lab

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLatenessReachesIntoAWindow(t *testing.T) {
	var l lateness
	l.note(100*ms, 50*ms)
	l.note(300*ms, minPause-1)
	for w, want := range map[Window]time.Duration{
		{0, 100 * ms}:         0,
		{0, 101 * ms}:         50 * ms,
		{120 * ms, 130 * ms}:  50 * ms,
		{151 * ms, time.Hour}: 0,
	} {
		if got := l.longest(w); got != want {
			t.Errorf("in %v: %v, want %v", w, got, want)
		}
	}
}

// Who reads late still learns when a datagram came.
func TestADatagramCountsFromItsArrival(t *testing.T) {
	ns, err := NewNamespace(UniquePrefix() + "n")
	must(t, err)
	defer ns.Close()
	fd, err := datagramSocket(ns, 9, true)
	must(t, err)
	defer unix.Close(fd)
	to := [4]byte{127, 0, 0, 1}
	content := []byte("hello")
	out := newDatagrams(2, pktinfoSpace)
	for i := range 2 {
		out.content(i, content, content)
		out.peers[i] = rawSockaddr(netip.AddrPortFrom(netip.AddrFrom4(to), 9))
		sendFrom(out.controls[i], to)
	}
	in := newDatagrams(4, stampSpace+pktinfoSpace)
	room := make([]byte, 64)
	for i := range 4 {
		in.content(i, room)
	}
	must(t, Poll(patience(t), func() error {
		begun := time.Now()
		out.send(fd, 0, 2)
		time.Sleep(50 * ms)
		n, err := in.receive(fd, unix.MSG_DONTWAIT)
		now := time.Now()
		if err != nil || n != 2 || in.length(0) != 10 || string(room[:10]) != "hellohello" {
			return Final(fmt.Errorf("%d datagrams (%v), the first of %d bytes: %q", n, err, in.length(0), room))
		}
		for i := range n {
			// The kernel begins to stamp a moment after the first socket that asks for it.
			if ago, at := arrival(in.control(i), now); ago < 50*ms || ago > now.Sub(begun) || at != to {
				return fmt.Errorf("datagram %d came %v ago to %v", i, ago, at)
			}
		}
		return nil
	}))
}

// What keeps time goes before others, and is never real-time: see keepTime.
func TestThreadsThatKeepTimeAreFavoured(t *testing.T) {
	kept := make(chan *unix.SchedAttr)
	go func() {
		keepTime()
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			t.Error(err)
		}
		kept <- attr
	}()
	if attr := <-kept; attr == nil || attr.Policy != unix.SCHED_NORMAL || attr.Nice != timeNice {
		t.Errorf("a thread that keeps time is scheduled by %+v", attr)
	}
}
