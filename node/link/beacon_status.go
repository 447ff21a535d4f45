package link

import (
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// BeaconStatus is what became of the beacons since OpenBeacons. All numbers only grow.
type BeaconStatus struct {
	// Class is how the sending thread is scheduled, and ClassReason why not better.
	Class       Class
	ClassReason string
	Lateness    Lateness
	// Cramped says that the sockets have less room than they should, and the cure.
	Cramped string

	Wire, Unicast MediumStatus
	// Extra beacons left because of a Kick, besides the regular ones.
	Extra uint64
	// Withheld is how often Build wanted no beacon.
	Withheld uint64
	// TooLong is how often Build made more than MaxBeacon bytes, which were not sent.
	TooLong uint64
	// Packet is the length of the last beacon as an IP packet, and MTU the longest that the
	// interface takes; 0: it is not known.
	Packet, MTU int
	// Marked frames were sent with the mark. Stale ones were to have it and were sent
	// without, since Build was longer ago than BeaconConfig.Fresh. Overdue ones
	// left with it though Build was.
	Marked, Stale, Overdue uint64
}

// MediumStatus is what became of the beacons on one medium.
type MediumStatus struct {
	// Sent were taken by the kernel, Dropped found no room in a queue, Failed could
	// not be sent; LastError is the last reason of either, nil if there was none.
	Sent, Dropped, Failed uint64
	LastError             error

	// Received were delivered.
	Received uint64
	// Own came from this node's own address: a loop on the wire, or another host with
	// the address. (The kernel drops most of them unseen, as martians.)
	Own uint64
	// WrongTTL came over a router, which no beacon on the wire does.
	WrongTTL uint64
	// Oversized were longer than MaxBeacon.
	Oversized uint64
	// Overflows found no room in the socket's buffer. It is known with the first
	// datagram after them, and starts anew after 2^32.
	Overflows uint64
}

// Status reads the counters; it may be called at any time, from any goroutine.
func (b *Beacons) Status() BeaconStatus {
	s := &b.sender
	status := BeaconStatus{
		Lateness: s.late.read(), Cramped: b.cramped,
		Wire: b.wire.counters.read(), Unicast: b.unicast.counters.read(),
		Extra: s.counters.extra.Load(), Withheld: s.counters.withheld.Load(), TooLong: s.counters.tooLong.Load(),
		Marked: s.counters.marked.Load(), Stale: s.counters.stale.Load(), Overdue: s.counters.overdue.Load(),
	}
	if size := s.counters.size.Load(); size > 0 {
		status.Packet = int(size) + ipLen + udpLen
	}
	if s.link != nil {
		status.MTU = s.link.seen.Load().mtu
	}
	if standing := s.standing.Load(); standing != nil {
		status.Class, status.ClassReason = standing.class, standing.reason
	}
	s.counters.wire.read(&status.Wire)
	s.counters.unicast.read(&status.Unicast)
	return status
}

// sentCounters are written by the sending thread and read by everybody.
type sentCounters struct {
	wire, unicast                                    outcomes
	extra, withheld, tooLong, marked, stale, overdue atomic.Uint64
	size                                             atomic.Uint64
}

// outcomes counts what became of sends.
type outcomes struct {
	sent, dropped, failed atomic.Uint64
	last                  atomic.Uint32 // the errno of the last that was not sent
}

// count takes the result of a system call.
func (o *outcomes) count(err error) {
	if err == nil {
		o.sent.Add(1)
		return
	}
	errno, ok := err.(syscall.Errno)
	if !ok {
		errno = unix.EINVAL // x/sys refuses a malformed address by itself
	}
	o.last.Store(uint32(errno))
	switch errno {
	case unix.EAGAIN, unix.ENOBUFS: // the socket's own buffer, or a queue behind it
		o.dropped.Add(1)
	default:
		o.failed.Add(1)
	}
}

func (o *outcomes) read(to *MediumStatus) {
	to.Sent, to.Dropped, to.Failed = o.sent.Load(), o.dropped.Load(), o.failed.Load()
	if errno := syscall.Errno(o.last.Load()); errno != 0 {
		to.LastError = errno
	}
}

func (c *receivedCounters) read() MediumStatus {
	return MediumStatus{
		Received: c.delivered.Load(), Own: c.own.Load(), WrongTTL: c.farAway.Load(), Oversized: c.oversized.Load(),
		Overflows: uint64(c.overflows.Load()),
	}
}
