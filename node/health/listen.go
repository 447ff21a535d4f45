package health

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Listens reports whether a TCP connection from this host to that address and port would
// find somebody: the kernel is asked for the socket that its first packet would reach (one
// lookup, as inet_diag_find_one_icsk in net/ipv4/inet_diag.c does it), and no connection is made.
func Listens(at netip.AddrPort) (bool, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return false, fmt.Errorf("asking who listens: %w", err)
	}
	defer unix.Close(socket)
	patience := unix.Timeval{Sec: 1}
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return false, fmt.Errorf("asking who listens: %w", err)
	}
	if err := unix.Sendto(socket, listenQuestion(at), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, fmt.Errorf("asking who listens on %s: %w", at, err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(socket, answer, 0)
	if err != nil {
		return false, fmt.Errorf("asking who listens on %s: %w", at, err)
	}
	if n < unix.NLMSG_HDRLEN+4 {
		return false, fmt.Errorf("asking who listens on %s: an answer of %d bytes", at, n)
	}
	if binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return true, nil
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])))
	if errors.Is(errno, unix.ENOENT) {
		return false, nil
	}
	return false, fmt.Errorf("asking who listens on %s: %w", at, errno)
}

// The question: a struct nlmsghdr and a struct inet_diag_req_v2 (linux/inet_diag.h).
const (
	sockDiagByFamily = 20
	diagRequestLen   = 56
	diagPorts        = 8  // in the request: source and destination, as packets have them
	diagSource       = 12 // 16 bytes; the destination follows
	diagDevice       = 44
	diagCookie       = 48
)

func listenQuestion(at netip.AddrPort) []byte {
	q := make([]byte, unix.NLMSG_HDRLEN+diagRequestLen)
	binary.NativeEndian.PutUint32(q[0:], uint32(len(q)))
	binary.NativeEndian.PutUint16(q[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(q[6:], unix.NLM_F_REQUEST)
	request := q[unix.NLMSG_HDRLEN:]
	addr := at.Addr().Unmap()
	request[0], request[1] = unix.AF_INET, unix.IPPROTO_TCP
	if addr.Is6() {
		request[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(request[4:], ^uint32(0)) // in any state
	binary.BigEndian.PutUint16(request[diagPorts:], at.Port())
	binary.BigEndian.PutUint16(request[diagPorts+2:], 1) // of which there is no connection
	copy(request[diagSource:], addr.AsSlice())
	copy(request[diagSource+16:], addr.AsSlice())
	binary.NativeEndian.PutUint32(request[diagDevice:], 1)          // lo: the way to an own address
	binary.NativeEndian.PutUint64(request[diagCookie:], ^uint64(0)) // of any socket
	return q
}
