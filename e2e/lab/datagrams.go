package lab

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// datagrams is room for some datagrams, which one system call sends or receives.
// At the pace of the load a call for each would keep a core busy.
type datagrams struct {
	headers  []mmsghdr
	parts    [][2]unix.Iovec // of each datagram
	peers    []unix.RawSockaddrInet4
	controls [][]byte
}

// mmsghdr is the kernel's struct mmsghdr, recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	length uint32
}

// newDatagrams makes room for n, each with so many bytes of control messages.
func newDatagrams(n, control int) *datagrams {
	d := &datagrams{
		headers: make([]mmsghdr, n), parts: make([][2]unix.Iovec, n),
		peers: make([]unix.RawSockaddrInet4, n), controls: make([][]byte, n),
	}
	for i := range d.headers {
		h := &d.headers[i]
		d.controls[i] = make([]byte, control)
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&d.peers[i])), unix.SizeofSockaddrInet4
		h.Iov = &d.parts[i][0]
		h.Control = unsafe.SliceData(d.controls[i])
		h.SetControllen(control)
	}
	return d
}

// content makes a datagram consist of these parts, one or two. They are not copied.
func (d *datagrams) content(i int, parts ...[]byte) {
	for k, part := range parts {
		d.parts[i][k].Base = unsafe.SliceData(part)
		d.parts[i][k].SetLen(len(part))
	}
	d.headers[i].SetIovlen(len(parts))
}

// receive fills datagrams from the first on, and says how many. Without
// MSG_DONTWAIT it waits for one, and takes what else is there.
func (d *datagrams) receive(fd, flags int) (int, error) {
	for i := range d.headers {
		d.headers[i].Namelen = unix.SizeofSockaddrInet4
		d.headers[i].SetControllen(len(d.controls[i]))
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&d.headers[0])),
		uintptr(len(d.headers)), uintptr(flags|unix.MSG_WAITFORONE), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// length is that of a received datagram.
func (d *datagrams) length(i int) int { return int(d.headers[i].length) }

// control returns the control messages of a received datagram.
func (d *datagrams) control(i int) []byte { return d.controls[i][:d.headers[i].Controllen] }

// send sends the datagrams from the one to before the other, without waiting. One
// that cannot be sent is left out: it counts as lost.
func (d *datagrams) send(fd, from, to int) {
	for from < to {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&d.headers[from])),
			uintptr(to-from), unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 {
			n = 1
		}
		from += int(n)
	}
}

// manyDatagrams is a socket buffer for what all sources send in some seconds: who
// is not scheduled for a while must be late, not lossy, or it would pass for an
// outage.
const manyDatagrams = 16 << 20

// datagramSocket opens a UDP socket inside the namespace, on the port (0 is any) of
// all its addresses. The kernel notes of each datagram when it came and, if to is
// set, for which address.
func datagramSocket(ns *Namespace, port int, to bool) (fd int, err error) {
	err = ns.Do(func() error {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("opening a UDP socket: %w", err)
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, manyDatagrams},
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, manyDatagrams},
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1},
		{unix.IPPROTO_IP, unix.IP_PKTINFO, btoi(to)},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("preparing a UDP socket (option %d): %w", o.name, err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("binding UDP port %d: %w", port, err)
	}
	return fd, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// The control messages that the sockets above deliver and take.
var (
	stampSpace   = unix.CmsgSpace(int(unsafe.Sizeof(unix.Timespec{})))
	pktinfoSpace = unix.CmsgSpace(unix.SizeofInet4Pktinfo)
)

// arrival finds in a datagram's control messages when the kernel got it, as how
// long before now, and the address it was sent to, zero if the socket does not ask.
func arrival(control []byte, now time.Time) (ago time.Duration, to [4]byte) {
	for len(control) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		switch {
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS:
			// The stamp is of the wall clock: a step of it spoils one batch at most.
			ts := (*unix.Timespec)(unsafe.Pointer(unsafe.SliceData(data)))
			ago = max(0, time.Duration(now.UnixNano()-ts.Nano()))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO:
			to = (*unix.Inet4Pktinfo)(unsafe.Pointer(unsafe.SliceData(data))).Addr
		}
		control = rest
	}
	return ago, to
}

// sendFrom writes the control message by which a datagram leaves from the address,
// by any interface (ip(7), IP_PKTINFO).
func sendFrom(control []byte, from [4]byte) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(control)))
	h.Level, h.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
	h.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
	info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&control[unix.CmsgLen(0)]))
	*info = unix.Inet4Pktinfo{Spec_dst: from}
}
