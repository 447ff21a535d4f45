package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dial opens a TCP connection from the address to the VIP's port, inside the
// namespace. The file works with deadlines. The standard library's dialler would
// hold a thread in the namespace for as long as the handshake takes.
func dial(ns *Namespace, from netip.Addr, port uint16, timeout time.Duration) (*os.File, error) {
	var f *os.File
	err := ns.Do(func() (err error) {
		f, err = beginDial(from, port)
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, endDial(f, timeout)
}

// beginDial sends the SYN. Its caller's thread is inside the namespace.
func beginDial(from netip.Addr, port uint16) (*os.File, error) {
	to := netip.AddrPortFrom(VIP, port)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("a TCP socket for client %s: %w", from, err)
	}
	// The connection's four-tuple must be unique, not its port: choose it late.
	err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if err == nil {
		err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0)))
	}
	if err == nil {
		err = unix.Connect(fd, sockaddr(to))
	}
	if err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, fmt.Errorf("connecting %s to %s: %w", from, to, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("%s to %s", from, to)), nil
}

// endDial waits for the handshake. After an error the file is closed.
func endDial(f *os.File, timeout time.Duration) error {
	if err := waitConnected(f, timeout); err != nil {
		f.Close()
		return fmt.Errorf("connecting %s: %w", f.Name(), err)
	}
	return nil
}

// waitConnected waits for the end of a handshake, connect(2) under EINPROGRESS.
func waitConnected(f *os.File, timeout time.Duration) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if err := f.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	defer f.SetWriteDeadline(time.Time{})
	var result error
	err = raw.Write(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = syscall.Errno(errno)
		}
		if err == nil {
			_, err = unix.Getpeername(int(fd))
		}
		if err == unix.ENOTCONN {
			return false // still under way
		}
		result = err
		return true
	})
	return errors.Join(err, result)
}

// retransmits is how many segments the connection has sent again, SYNs included.
func retransmits(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	var infoErr error
	err = raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err := errors.Join(err, infoErr); err != nil {
		return 0, fmt.Errorf("reading TCP_INFO of %s: %w", f.Name(), err)
	}
	return int(info.Total_retrans), nil
}

// Outcome is how a connection went.
type Outcome uint8

const (
	// OK: served to the end.
	OK Outcome = iota
	// Failed: never opened, and not for want of time: refused, no route, or the
	// server's answer made no sense.
	Failed
	// Reset: opened, then reset or closed before the answer was whole.
	Reset
	// TimedOut: no handshake, or no answer, within the time given.
	TimedOut
)

var outcomeNames = [...]string{OK: "ok", Failed: "failed", Reset: "reset", TimedOut: "timed out"}

func (o Outcome) String() string { return outcomeNames[o] }

// outcome says what an error of an opened connection means.
func outcome(err error) Outcome {
	switch {
	case err == nil:
		return OK
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return TimedOut
	default:
		return Reset
	}
}
