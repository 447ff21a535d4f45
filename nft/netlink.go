package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// netlinkPatience is how long the kernel may take for one answer.
const netlinkPatience = 10 * time.Second

// netlinkSocket asks the kernel one thing after the other. It is for one goroutine.
type netlinkSocket struct {
	fd     int
	port   uint32
	buffer []byte // more than the kernel puts into one datagram of a dump
}

// openNetlink opens a socket in the network namespace of the calling thread.
func openNetlink(protocol int) (*netlinkSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(netlinkPatience))
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	own, nameErr := unix.Getsockname(fd)
	if err = errors.Join(err, nameErr); err != nil {
		return nil, errors.Join(fmt.Errorf("preparing a netlink socket: %w", err), unix.Close(fd))
	}
	return &netlinkSocket{fd, own.(*unix.SockaddrNetlink).Pid, make([]byte, 1<<16)}, nil
}

func (s *netlinkSocket) close() { unix.Close(s.fd) } // nothing is lost with it

// ask sends the request, which is for a dump or an acknowledgement, and yields the
// answers' content one by one, until yield wants no more or fails; after that
// nothing can be asked: close the socket. The content is good until yield returns.
// A listing that changes while it runs is no error.
func (s *netlinkSocket) ask(request *nl.NetlinkRequest, yield func([]byte) (bool, error)) error {
	if err := unix.Sendto(s.fd, request.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		n, from, err := unix.Recvfrom(s.fd, s.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
			continue
		}
		for rest := s.buffer[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(rest))
			if size < unix.NLMSG_HDRLEN || size > len(rest) {
				return fmt.Errorf("an answer of %d bytes in a datagram of %d", size, n)
			}
			kind, seq, port := binary.NativeEndian.Uint16(rest[4:]), binary.NativeEndian.Uint32(rest[8:]), binary.NativeEndian.Uint32(rest[12:])
			content := rest[unix.NLMSG_HDRLEN:size]
			rest = rest[min(len(rest), (size+3)&^3):]
			if seq != request.Seq || port != s.port {
				continue
			}
			if kind == unix.NLMSG_ERROR || kind == unix.NLMSG_DONE {
				return errorIn(content)
			}
			if more, err := yield(content); err != nil || !more {
				return err
			}
		}
	}
}

// errorIn is the error in the message that ends an answer; nil: all is well.
func errorIn(content []byte) error {
	if len(content) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(content)); code != 0 {
		return syscall.Errno(-code)
	}
	return nil
}

// order sends the request, which has no answer but whether it was done.
func (s *netlinkSocket) order(request *nl.NetlinkRequest) error {
	return s.ask(request, func([]byte) (bool, error) { return true, nil })
}

// attributes reads the attributes of a netlink message, one after the other.
type attributes struct {
	rest  []byte
	kind  uint16
	value []byte
}

var errCutShort = errors.New("an attribute is cut short")

// next moves to the next attribute; false: there is none, or it is cut short.
func (a *attributes) next() bool {
	if len(a.rest) < unix.NLA_HDRLEN {
		return false
	}
	size := int(binary.NativeEndian.Uint16(a.rest))
	if size < unix.NLA_HDRLEN || size > len(a.rest) {
		return false
	}
	a.kind, a.value = binary.NativeEndian.Uint16(a.rest[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), a.rest[unix.NLA_HDRLEN:size]
	a.rest = a.rest[min(len(a.rest), (size+3)&^3):]
	return true
}

// err is what is wrong with the attributes, when next has returned false.
func (a *attributes) err() error {
	if len(a.rest) > 0 {
		return errCutShort
	}
	return nil
}

// number reads an integer in the network's byte order, of as many bytes as there are.
func (a *attributes) number() uint64 {
	var n uint64
	for _, b := range a.value {
		n = n<<8 | uint64(b)
	}
	return n
}
