package link

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Send sends a beacon at once, then each interval and after each Kick, until the
// context is cancelled; then it returns nil. It runs on a thread of its own, in the
// best scheduling class that the kernel grants (see BeaconStatus), which sleeps in
// the kernel and allocates nothing. A send that would have to wait is dropped and
// counted.
//
// Lateness of more than an interval is logged, at most once a second.
func (b *Beacons) Send(ctx context.Context, build Build) error {
	b.sending.Lock()
	defer b.sending.Unlock()
	s := &b.sender
	if s.marked < 0 {
		return fmt.Errorf("sending beacons: %w", net.ErrClosed)
	}
	s.bell.hush(ringStop)
	defer onDone(ctx, func() { s.bell.ring(ringStop) })()

	ended := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine. (Go's main thread, if that
		// is the one, is parked for good.)
		runtime.LockOSThread()
		ended <- s.run(build)
	}()

	watch := time.NewTicker(time.Second)
	defer watch.Stop()
	for told := s.late.skipped.Load(); ; {
		select {
		case err := <-ended:
			return err
		case <-watch.C:
			if late := s.late.read(); late.Skipped != told {
				// What lasts is one of the problems, and told as such.
				b.link.log.Debug("beacons were late by more than their interval", "times", late.Skipped-told, "last_late", late.LastSkip.Round(time.Millisecond),
					"interval", s.interval, "class", s.standing.Load().class)
				told = late.Skipped
			}
		}
	}
}

// Kick asks for a beacon now: something has changed that the others should know. It
// never waits, and may be called from any goroutine and at any time. Kicks that come
// closely together are one; see pace for the most that leave.
func (b *Beacons) Kick() { b.sender.bell.ring(ringKick) }

// TakeMaxLateness returns how late the worst regular beacon left since the last call.
func (b *Beacons) TakeMaxLateness() time.Duration { return b.sender.late.takeRecent() }

// sender is what the sending thread works with. All but the bell, the counters, the
// lateness and the standing is its own while it runs.
type sender struct {
	link     *Link
	now      func() time.Duration
	interval time.Duration
	fresh    time.Duration
	overdue  func(time.Duration)
	port     uint16
	favour   func() (Class, error)

	marked, unmarked int // packet sockets
	udp              int // bound to the node's address

	bell  bell
	pace  pace
	frame beaconFrame
	from  hwAddr                 // the MAC that is in the frame
	to    unix.SockaddrLinklayer // its Ifindex is 0 while there is no interface
	peer  unix.SockaddrInet4     // of one unicast beacon

	late     lateness
	counters sentCounters
	standing atomic.Pointer[standing]
}

// standing is the thread's scheduling class.
type standing struct {
	class  Class
	reason string // why it is not a better one
}

func newStanding(class Class, err error) *standing {
	if err == nil {
		return &standing{class: class}
	}
	return &standing{class: class, reason: strings.ReplaceAll(err.Error(), "\n", "; ")}
}

func (s *sender) run(build Build) error {
	s.standing.Store(newStanding(s.favour()))
	defer s.standing.Store(&standing{})
	s.pace = newPace(s.interval, s.bell.monotonic())
	s.pace.vary = rand.N[time.Duration]
	for turns := 1; s.turn(build); turns++ {
		// What is refused while others have all of it, perhaps the thread of this
		// node's last life, may be granted later.
		if turns%favourAgain == 0 && s.standing.Load().class != ClassRealTime {
			s.standing.Store(newStanding(s.favour()))
		}
	}
	return relax()
}

// favourAgain is after how many turns the thread asks for a better class again: some
// seconds at the default interval.
const favourAgain = 512

// turn sends a beacon if one is due, or else sleeps till one may be; it returns false
// if the thread has to end.
func (s *sender) turn(build Build) bool {
	rings := s.bell.rings.Load()
	if rings&ringStop != 0 {
		return false
	}
	cause, late := s.pace.due(s.bell.monotonic(), rings&ringKick != 0)
	switch cause {
	case notDue:
		s.bell.sleep(rings, s.pace.next(rings&ringKick != 0))
		return true
	case regular:
		s.late.record(late, s.interval, s.now)
	case extra:
		s.counters.extra.Add(1)
	}
	// Before the beacon is built: a kick that comes now may be too late for it.
	s.bell.hush(ringKick)
	s.beacon(build)
	return true
}

// beacon sends one beacon on both media.
func (s *sender) beacon(build Build) {
	began := s.now()
	payload, marked, unicast, ok := build(began, s.frame.payload())
	switch {
	case !ok:
		s.counters.withheld.Add(1)
		return
	case len(payload) > MaxBeacon:
		s.counters.tooLong.Add(1)
		return
	}
	s.counters.size.Store(uint64(len(payload)))
	copy(s.frame[headersLen:], payload) // onto itself, if Build used the buffer
	s.follow(s.link.seen.Load())
	s.transmit(s.frame.seal(len(payload)), marked, began)
	for _, peer := range unicast {
		s.peer.Port, s.peer.Addr = int(peer.Port()), peer.Addr().Unmap().As4()
		s.counters.unicast.count(unix.Sendto(s.udp, payload, unix.MSG_DONTWAIT, &s.peer))
	}
}

// transmit sends a frame on the wire. The kernel has run the egress hook when it
// returns, even if the frame got lost behind it.
func (s *sender) transmit(frame []byte, marked bool, began time.Duration) {
	socket := s.unmarked
	if marked && s.isFresh(began) {
		socket = s.marked
		s.counters.marked.Add(1)
	} else if marked {
		s.counters.stale.Add(1)
	}
	s.counters.wire.count(unix.Sendto(socket, frame, unix.MSG_DONTWAIT, &s.to))
	if socket == s.marked && !s.isFresh(began) {
		s.counters.overdue.Add(1)
		if s.overdue != nil {
			s.overdue(s.now() - began)
		}
	}
}

// isFresh says whether a decision of that time may still have an effect.
func (s *sender) isFresh(began time.Duration) bool { return s.fresh == 0 || s.now()-began <= s.fresh }

// follow addresses the frame anew if the interface has another MAC or index than
// before. While there is none the index is 0, and sending fails with ENXIO.
func (s *sender) follow(now *sight) {
	s.to.Ifindex = now.index
	if s.from != now.mac || s.frame[0] == 0 && s.frame[1] == 0 {
		s.from = now.mac
		s.frame.address(s.link.config.MAC.addr, now.mac, s.link.config.Address, s.link.config.VIPs[0], s.port)
	}
}
