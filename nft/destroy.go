package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Destroyed says what Destroy has ended.
type Destroyed struct {
	// Sockets of this network namespace: TCP connections. Both ends were told.
	Sockets int
	// Flows that conntrack has forgotten: what had no such socket. Nobody was told: a
	// client learns it from the node that it meets next, a server behind destination
	// NAT from silence.
	Flows int
}

// Destroy ends the live flows of clients to the VIPs that are picked, in the
// network namespace of the calling thread. Local TCP connections are reset at both
// ends, as if their application had given up; they must still be able to reach the
// client, so the buckets change their state afterwards. Conntrack forgets all other
// flows. Connections of this node to its own VIPs go on.
//
// A kernel without SOCK_DESTROY (a *MissingFeature) has conntrack forget all of them:
// then clients are told by the new owner, and the servers not at all.
func Destroy(vips []netip.Addr, pick func(Flow) bool) (Destroyed, error) {
	var done Destroyed
	var err error
	if done.Sockets, err = destroySockets(vips, pick); err != nil {
		err = fmt.Errorf("closing the connections of the VIPs: %w", err)
	}
	var forgetErr error
	if done.Flows, forgetErr = forgetFlows(vips, pick); forgetErr != nil {
		err = errors.Join(err, fmt.Errorf("removing tracked flows: %w", forgetErr))
	}
	return done, err
}

// ProbeDestroy asks the kernel whether it can close connections. The error is a
// *MissingFeature, or a failure to ask. Whether this process may is as for Probe.
func ProbeDestroy() error {
	socket, err := openNetlink(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer socket.close()
	// Whether there are sockets to be listed is asked first: for lack of that the
	// kernel says what it says for lack of a socket.
	if err := socket.connections(unix.AF_INET, netip.IPv4Unspecified(), func(connection) bool { return false }); err != nil {
		return fmt.Errorf("listing connections: %w", cannotDestroy(err))
	}
	_, err = socket.destroy(connection{family: unix.AF_INET})
	return err
}

func destroySockets(vips []netip.Addr, pick func(Flow) bool) (int, error) {
	socket, err := openNetlink(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, err
	}
	defer socket.close()
	var picked []connection
	for _, vip := range vips {
		// A server that listens for both IPv6 and IPv4 has IPv6 sockets for all.
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			err := socket.connections(family, vip, func(c connection) bool {
				if !slices.Contains(vips, c.client.Addr()) && pick(c.flow()) {
					picked = append(picked, c)
				}
				return true
			})
			if err != nil {
				return 0, fmt.Errorf("listing those to %s: %w", vip, err)
			}
		}
	}
	n := 0
	for _, c := range picked {
		destroyed, err := socket.destroy(c)
		if err != nil {
			return n, err
		}
		if destroyed {
			n++
		}
	}
	return n, nil
}

// Of include/uapi/linux/inet_diag.h and sock_diag.h: the messages, in the order of
// their fields, and the one operation of a filter's code that is used here.
const (
	sockDestroy = 21

	diagRequestSize = 8 + diagIDSize // inet_diag_req_v2
	diagIDSize      = 48             // inet_diag_sockid: ports, addresses, interface, cookie
	diagMessageSize = 4 + diagIDSize + 20

	diagInfo            = 2 // INET_DIAG_INFO: a tcp_info
	diagRequestBytecode = 1 // INET_DIAG_REQ_BYTECODE
	diagSourceIs        = 7 // INET_DIAG_BC_S_COND
)

// The states of open connections (include/net/tcp_states.h).
const (
	tcpEstablished = 1
	openStates     = 1<<tcpEstablished |
		1<<3 | // SYN_RECV
		1<<4 | 1<<5 | // FIN_WAIT1, FIN_WAIT2
		1<<8 | 1<<9 | // CLOSE_WAIT, LAST_ACK
		1<<11 // CLOSING
)

// connection is an open TCP socket.
type connection struct {
	family, state uint8
	id            [diagIDSize]byte // with the cookie: exactly this socket, not one that is like it
	client, vip   netip.AddrPort
	unanswered    time.Duration // see the function
}

// flow is how conntrack knows the connection, if it does.
func (c connection) flow() Flow {
	return Flow{Client: c.client, VIP: c.vip, Protocol: unix.IPPROTO_TCP, Established: c.state == tcpEstablished, Live: true}
}

// connections yields the open TCP sockets of the family with that local address,
// until yield wants no more. The kernel picks them.
func (s *netlinkSocket) connections(family uint8, local netip.Addr, yield func(connection) bool) error {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	header := connectionRequest(family, openStates, [diagIDSize]byte{})
	request.AddRawData(append(header, nl.NewRtAttr(diagRequestBytecode, sourceIs(local)).Serialize()...))
	return s.ask(request, func(msg []byte) (bool, error) {
		c, err := parseConnection(msg)
		return err == nil && yield(c), err
	})
}

// connectionRequest is an inet_diag_req_v2 for TCP sockets, with what the kernel knows of
// each.
func connectionRequest(family uint8, states uint32, id [diagIDSize]byte) []byte {
	header := make([]byte, 8, diagRequestSize)
	header[0], header[1], header[2] = family, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	binary.NativeEndian.PutUint32(header[4:], states)
	return append(header, id[:]...)
}

// sourceIs is filter code: a socket passes if its local address is this one. An
// IPv6 socket's may be an IPv4 address in disguise.
func sourceIs(addr netip.Addr) []byte {
	const size = 4 + 8 + 4
	code := []byte{diagSourceIs, size}                        // to the end if it is,
	code = binary.NativeEndian.AppendUint16(code, size+4)     // and beyond if not
	code = append(code, unix.AF_INET, 32, 0, 0)               // an IPv4 address, all its bits,
	code = binary.NativeEndian.AppendUint32(code, ^uint32(0)) // any port
	return append(code, addr.AsSlice()...)
}

// parseConnection reads an inet_diag_msg.
func parseConnection(msg []byte) (connection, error) {
	if len(msg) < diagMessageSize {
		return connection{}, fmt.Errorf("a socket of %d bytes is too short", len(msg))
	}
	c := connection{family: msg[0], state: msg[1], id: [diagIDSize]byte(msg[4:])}
	size := 16
	if c.family == unix.AF_INET {
		size = 4
	}
	local, _ := netip.AddrFromSlice(c.id[4 : 4+size])
	remote, _ := netip.AddrFromSlice(c.id[20 : 20+size])
	c.vip = netip.AddrPortFrom(local.Unmap(), binary.BigEndian.Uint16(c.id[0:]))
	c.client = netip.AddrPortFrom(remote.Unmap(), binary.BigEndian.Uint16(c.id[2:]))
	more := attributes{rest: msg[diagMessageSize:]}
	for more.next() {
		if more.kind == diagInfo {
			c.unanswered = unanswered(more.value)
		}
	}
	return c, more.err()
}

// destroy closes the connection; it may be gone already.
func (s *netlinkSocket) destroy(c connection) (bool, error) {
	request := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
	header := make([]byte, 8, diagRequestSize)
	header[0], header[1] = c.family, unix.IPPROTO_TCP
	request.AddRawData(append(header, c.id[:]...))
	err := s.order(request)
	// Without that very socket the kernel finds none, or another one with another
	// cookie, such as the server's that listens.
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) {
		return false, nil
	}
	return err == nil, cannotDestroy(err)
}

func cannotDestroy(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return ErrNotPermitted
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT):
		return feature{name: "the closing of connections from outside (SOCK_DESTROY), for the end of a drain", kernel: "4.5", module: "CONFIG_INET_DIAG_DESTROY"}.missing(err)
	}
	return err
}

// forgetFlows has conntrack forget the live flows that are picked.
func forgetFlows(vips []netip.Addr, pick func(Flow) bool) (int, error) {
	var picked []Flow
	for f, err := range Flows(vips) {
		if err != nil {
			return 0, err
		}
		if f.Live && pick(f) {
			picked = append(picked, f)
		}
	}
	socket, err := openNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, err
	}
	defer socket.close()
	n := 0
	for _, f := range picked {
		gone, err := socket.forget(f)
		if err != nil {
			return n, err
		}
		if gone {
			n++
		}
	}
	return n, nil
}

// forget removes the flow from conntrack; it may be gone already.
func (s *netlinkSocket) forget(f Flow) (bool, error) {
	err := s.order(f.naming(ctRequest(ctDelete, unix.NLM_F_ACK)))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}
