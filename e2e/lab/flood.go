package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flood sends frames by an interface of the namespace, as many a second as it is told,
// until the context ends. Frames leave in batches, so that little of the machine goes
// into sending. Each is what next makes of its number, counted from 0, from the
// Ethernet header on; next may use the same memory again for a frame floodBatch later.
// It returns how many were sent: fewer than wanted, where the machine is too slow.
func (ns *Namespace) Flood(ctx context.Context, device string, rate int, next func(i int) []byte) (sent int, err error) {
	var socket int
	err = ns.Do(func() error {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		// Protocol 0 receives nothing; the interface is where frames leave by.
		if err := unix.Bind(socket, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
			return errors.Join(err, unix.Close(socket))
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("flooding by %s of %s: %w", device, ns.Name, err)
	}
	defer unix.Close(socket)
	var headers [floodBatch]mmsghdr
	var iovecs [floodBatch]unix.Iovec
	began := time.Now()
	for {
		due := int(time.Since(began).Seconds()*float64(rate)) - sent
		if due <= 0 {
			select {
			case <-ctx.Done():
				return sent, nil
			case <-time.After(time.Millisecond):
			}
			continue
		}
		if due > rate/10 { // the machine stood still: what was missed is not made up for
			began = time.Now().Add(-time.Duration(float64(sent) / float64(rate) * float64(time.Second)))
		}
		due = min(due, floodBatch)
		for i := range due {
			frame := next(sent + i)
			iovecs[i].Base = &frame[0]
			iovecs[i].SetLen(len(frame))
			headers[i].Iov = &iovecs[i]
			headers[i].SetIovlen(1)
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(socket), uintptr(unsafe.Pointer(&headers)), uintptr(due), 0, 0, 0)
		switch {
		case errno == unix.EINTR || errno == unix.EAGAIN || errno == unix.ENOBUFS:
		case errno != 0:
			return sent, fmt.Errorf("flooding by %s of %s: %w", device, ns.Name, errno)
		}
		if errno == 0 {
			sent += int(n)
		}
		if ctx.Err() != nil {
			return sent, nil
		}
	}
}

// floodBatch is how many frames one system call sends.
const floodBatch = 64

// firstStranger is the first address of a host that belongs to nobody's cluster.
var firstStranger = netip.MustParseAddr("10.77.0.200")

// Stranger plugs another host to the switch, with so many addresses, at most 50.
func (l *Lab) Stranger(addresses int) (*Namespace, []netip.Addr, error) {
	ns, err := NewNamespace(l.Prefix + "-stranger")
	if err != nil {
		return nil, nil, err
	}
	l.onClose(func() { ns.Close() })
	var addrs []netip.Addr
	for i := range addresses {
		addrs = append(addrs, addrPlus(firstStranger, i))
	}
	return ns, addrs, l.plug(ns, "stranger", 0xfd, addrs)
}

// Tap gives keep each IPv4 frame that a port of the switch takes in, until the context
// ends. The bytes are keep's own.
func (l *Lab) Tap(ctx context.Context, keep func(frame []byte)) error {
	socket, bridge := -1, 0
	err := l.sw.Do(func() error {
		br, err := net.InterfaceByName(Bridge)
		if err != nil {
			return err
		}
		bridge = br.Index
		// What a bridge forwards only sockets for all protocols see.
		all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	})
	if err != nil {
		return fmt.Errorf("tapping the switch: %w", err)
	}
	defer unix.Close(socket)
	for buf := make([]byte, 1<<16); ctx.Err() == nil; {
		n, from, err := unix.Recvfrom(socket, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("tapping the switch: %w", err)
		}
		// The bridge shows once more what it takes for itself.
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Ifindex != bridge && n >= 14 && buf[12] == 0x08 && buf[13] == 0x00 {
			keep(append([]byte(nil), buf[:n]...))
		}
	}
	return nil
}
