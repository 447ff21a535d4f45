package link

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// intake reads what comes to a socket, as much as is there with one system call. The
// socket is not known to Go's poller, which would be woken by each datagram, read or
// not; and a flood wakes the intake a thousand times a second, however much it brings.
type intake struct {
	socket int
	pace   readPace

	// What somebody else may ask for: see heardUntil.
	now     func() time.Duration // nil: nobody asks
	busy    atomic.Bool          // something was read, or is about to be, that was not taken yet
	asked   time.Duration        // when the last read began
	emptied atomic.Int64         // when all that had come has been taken

	mu     sync.Mutex
	stop   int // an eventfd: readable when the intake has to end
	closed bool

	headers  []mmsghdr
	contents [][]byte
	controls [][]byte
	sources  []unix.RawSockaddrInet4 // of a UDP socket
}

// mmsghdr is the kernel's struct mmsghdr, recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	length uint32
}

// newIntake makes room for so many datagrams of so many bytes at a time, each with so
// many bytes of control messages. It does not own the socket.
func newIntake(socket, datagrams, longest, control int) (*intake, error) {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("making an eventfd to stop reading by: %w", err)
	}
	in := &intake{
		socket: socket, stop: stop,
		headers: make([]mmsghdr, datagrams), contents: make([][]byte, datagrams), controls: make([][]byte, datagrams),
		sources: make([]unix.RawSockaddrInet4, datagrams),
	}
	parts := make([]unix.Iovec, datagrams)
	for i := range in.headers {
		in.contents[i] = make([]byte, longest)
		parts[i].Base = unsafe.SliceData(in.contents[i])
		parts[i].SetLen(longest)
		in.headers[i].Iov = &parts[i]
		in.headers[i].SetIovlen(1)
		if control > 0 {
			in.controls[i] = make([]byte, control)
			in.headers[i].Control = unsafe.SliceData(in.controls[i])
		}
	}
	return in, nil
}

// end has read return 0, now and ever after. It may be called by another goroutine.
func (in *intake) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return
	}
	if _, err := unix.Write(in.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		panic(fmt.Sprintf("link: waking a reader: %v", err))
	}
}

// close is for when nobody reads any more.
func (in *intake) close() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	return unix.Close(in.stop)
}

// read waits until something has come and returns how many datagrams it has; 0: the
// intake has ended.
func (in *intake) read() (int, error) {
	for {
		if ended, err := in.wait(); ended || err != nil {
			return 0, err
		}
		for i := range in.headers {
			in.headers[i].Name, in.headers[i].Namelen = (*byte)(unsafe.Pointer(&in.sources[i])), unix.SizeofSockaddrInet4
			in.headers[i].SetControllen(len(in.controls[i]))
		}
		in.busy.Store(true)
		if in.now != nil {
			in.asked = in.now()
		}
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(in.socket), uintptr(unsafe.Pointer(&in.headers[0])),
			uintptr(len(in.headers)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			in.pace.more = int(n) == len(in.headers)
			return int(n), nil
		case unix.EAGAIN, unix.EINTR:
			in.pace.more = false
			in.busy.Store(false)
		default:
			return 0, errno
		}
	}
}

// taken says that all of the last read was taken.
func (in *intake) taken() {
	if !in.pace.more {
		in.emptied.Store(int64(in.asked))
	}
	in.busy.Store(false)
}

// heardUntil returns until when everything that has come was taken, at least; the
// socket may bring more at any time. Another thread may ask.
func (in *intake) heardUntil(now time.Duration) time.Duration {
	// In this order: what is no longer in the socket may be on its way.
	if !readable(in.socket) && !in.busy.Load() {
		return now
	}
	return time.Duration(in.emptied.Load())
}

// wait waits until there is something to read, and not before it is time.
func (in *intake) wait() (ended bool, err error) {
	stop := []unix.PollFd{{Fd: int32(in.stop), Events: unix.POLLIN}}
	if pause := in.pace.pause(time.Now()); pause > 0 {
		if err := poll(stop, pause); err != nil {
			return false, err
		}
	}
	both := append(stop, unix.PollFd{Fd: int32(in.socket), Events: unix.POLLIN})
	for both[0].Revents == 0 && both[1].Revents == 0 {
		if err := poll(both, -1); err != nil {
			return false, err
		}
	}
	return both[0].Revents != 0, nil
}

// poll waits for as long; below 0: without end.
func poll(fds []unix.PollFd, within time.Duration) error {
	var timeout *unix.Timespec
	if within >= 0 {
		ts := unix.NsecToTimespec(int64(within))
		timeout = &ts
	}
	if _, err := unix.Ppoll(fds, timeout, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("waiting for datagrams: %w", err)
	}
	return nil
}

// readable says whether something waits to be read, be it an empty datagram. A socket that
// is closed is readable: what comes to it is not heard.
func readable(socket int) bool {
	fds := [1]unix.PollFd{{Fd: int32(socket), Events: unix.POLLIN}}
	_, err := unix.Ppoll(fds[:], &unix.Timespec{}, nil)
	return socket < 0 || err != nil || fds[0].Revents != 0
}

// content is what the i-th datagram of the last read holds, control its control
// messages, truncated whether there was more of it.
func (in *intake) content(i int) []byte { return in.contents[i][:in.headers[i].length] }
func (in *intake) control(i int) []byte { return in.controls[i][:in.headers[i].Controllen] }
func (in *intake) truncated(i int) bool { return in.headers[i].Flags&unix.MSG_TRUNC != 0 }

// source is where it came from, of a UDP socket.
func (in *intake) source(i int) netip.AddrPort {
	s := &in.sources[i]
	port := (*[2]byte)(unsafe.Pointer(&s.Port)) // in the network's order
	return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(port[0])<<8|uint16(port[1]))
}

// readPace lets readsAtOnce reads go at once, and then one each readEvery. One that is
// to empty the socket is free.
type readPace struct {
	left float64
	at   time.Time
	more bool // the last read left something behind
}

const (
	readEvery   = time.Millisecond
	readsAtOnce = 50
)

// pause returns how long to wait before the next read.
func (p *readPace) pause(now time.Time) time.Duration {
	if p.more {
		return 0
	}
	if p.at.IsZero() {
		p.left = readsAtOnce
	} else {
		p.left = min(readsAtOnce, p.left+float64(now.Sub(p.at))/float64(readEvery))
	}
	p.at = now
	p.left--
	if p.left >= 0 {
		return 0
	}
	return readEvery
}
