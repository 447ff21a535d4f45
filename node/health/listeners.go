package health

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// listener is a TCP socket that listens on this host.
type listener struct {
	at      netip.AddrPort // an unspecified address: on all
	program uint64         // the cgroup of whoever made it: of systemd's, one unit's
}

// Of a struct inet_diag_msg and what follows it (linux/inet_diag.h).
const (
	diagMessageLen    = 72
	diagMessagePort   = 4
	diagMessageSource = 8
	diagCgroup        = 21 // INET_DIAG_CGROUP_ID, Linux 5.7
)

// listeners lists them all, in the network namespace of the calling thread.
func listeners() (all []listener, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		found, err := listenersOf(family)
		if err != nil {
			return nil, fmt.Errorf("listing who listens: %w", err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func listenersOf(family uint8) (all []listener, err error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer unix.Close(socket)
	patience := unix.Timeval{Sec: 1}
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return nil, err
	}
	q := make([]byte, unix.NLMSG_HDRLEN+diagRequestLen)
	binary.NativeEndian.PutUint32(q[0:], uint32(len(q)))
	binary.NativeEndian.PutUint16(q[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(q[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request := q[unix.NLMSG_HDRLEN:]
	request[0], request[1] = family, unix.IPPROTO_TCP
	const listening = 10 // TCP_LISTEN of net/tcp_states.h
	binary.NativeEndian.PutUint32(request[4:], 1<<listening)
	if err := unix.Sendto(socket, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	answer := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(socket, answer, 0)
		if err != nil {
			return nil, err
		}
		for rest := answer[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
			length := int(binary.NativeEndian.Uint32(rest))
			if length < unix.NLMSG_HDRLEN || length > len(rest) {
				return nil, fmt.Errorf("a message of %d bytes in %d", length, len(rest))
			}
			body := rest[unix.NLMSG_HDRLEN:length]
			switch kind := binary.NativeEndian.Uint16(rest[4:]); {
			case kind == unix.NLMSG_DONE:
				return all, nil
			case kind == unix.NLMSG_ERROR && len(body) >= 4:
				return nil, unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
			case len(body) < diagMessageLen:
				return nil, fmt.Errorf("a socket of %d bytes", len(body))
			}
			all = append(all, readListener(body))
			rest = rest[min(len(rest), (length+3)&^3):]
		}
	}
}

// readListener reads a struct inet_diag_msg with its attributes.
func readListener(msg []byte) (l listener) {
	addr := netip.AddrFrom4([4]byte(msg[diagMessageSource:]))
	if msg[0] == unix.AF_INET6 {
		addr = netip.AddrFrom16([16]byte(msg[diagMessageSource:])).Unmap()
	}
	l.at = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(msg[diagMessagePort:]))
	for rest := msg[diagMessageLen:]; len(rest) >= unix.SizeofRtAttr; {
		length := int(binary.NativeEndian.Uint16(rest))
		if length < unix.SizeofRtAttr || length > len(rest) {
			break
		}
		if binary.NativeEndian.Uint16(rest[2:]) == diagCgroup && length >= unix.SizeofRtAttr+8 {
			l.program = binary.NativeEndian.Uint64(rest[unix.SizeofRtAttr:])
		}
		rest = rest[min(len(rest), (length+3)&^3):]
	}
	return l
}

// hears reports whether a connection to that address and port may end there. A socket on
// all IPv6 addresses takes IPv4 as well, mostly.
func (l listener) hears(at netip.AddrPort) bool {
	return l.at.Port() == at.Port() && l.hearsAddr(at.Addr())
}

func (l listener) hearsAddr(addr netip.Addr) bool {
	on := l.at.Addr()
	return on == addr || on.IsUnspecified() && (on.Is6() || addr.Is4())
}

// hasItsOwnPort reports whether the program that answers at that address listens on the VIP at
// another port: then the port that is asked is one for checks alone, as it seems, and
// clients come to the other.
func hasItsOwnPort(all []listener, asked netip.AddrPort, vip netip.Addr) bool {
	for _, answers := range all {
		if !answers.hears(asked) {
			continue
		}
		for _, other := range all {
			if other.program == answers.program && other.at.Port() != asked.Port() && other.hearsAddr(vip) {
				return true
			}
		}
	}
	return false
}
