package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// clientPatience is how long a client may leave what was sent to it unanswered before
// it has vanished: RFC 1122, 4.2.3.5, wants no connection to be given up sooner (R2).
const clientPatience = 100 * time.Second

// LiveFlows is Flows, and knows of TCP more than conntrack, which keeps an open
// connection for five days after its last packet. A connection is not live, nor
// established, if it ends at this host (its addresses are not translated) and
//   - its socket is gone: whatever comes is reset;
//   - or its client has vanished: what the socket has sent was sent again and again
//     for clientPatience, and nothing came in that time.
//
// A connection on which nothing is outstanding may be idle for ever: it is live. So is
// one that is forwarded, to a container or by a proxy in the kernel, whose socket is
// elsewhere, and all of them if sockets cannot be listed.
func LiveFlows(vips []netip.Addr) iter.Seq2[Flow, error] { return liveFlowsOf(vips, anyProtocol) }

func liveFlowsOf(vips []netip.Addr, protocol uint8) iter.Seq2[Flow, error] {
	if protocol != anyProtocol && protocol != unix.IPPROTO_TCP {
		return flowsOf(vips, protocol)
	}
	return func(yield func(Flow, error) bool) {
		var known map[connectionName]bool
		socket, err := openNetlink(unix.NETLINK_SOCK_DIAG)
		if err == nil {
			defer socket.close()
			// Sockets first: one that comes later is asked for by name.
			known, err = socket.toVIPs(vips)
		}
		for f, errFlow := range flowsOf(vips, protocol) {
			if errFlow == nil && f.Local && err == nil {
				vanished, there := known[connectionName{f.Client, f.VIP}]
				if !there {
					vanished, err = socket.dead(f)
				}
				if vanished {
					f.Live, f.Established = false, false
				}
			}
			if !yield(f, errFlow) {
				return
			}
		}
	}
}

// vanished reports whether the connection's client has.
func (c connection) vanished() bool { return c.unanswered >= clientPatience }

// connectionName is what a connection to a VIP is known by.
type connectionName struct{ client, vip netip.AddrPort }

// toVIPs are the open TCP sockets of clients to the VIPs, and whether their client has
// vanished.
func (s *netlinkSocket) toVIPs(vips []netip.Addr) (map[connectionName]bool, error) {
	known := map[connectionName]bool{}
	for _, vip := range vips {
		// A server that listens for both IPv6 and IPv4 has IPv6 sockets for all.
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			err := s.connections(family, vip, func(c connection) bool {
				known[connectionName{c.client, c.vip}] = c.vanished()
				return true
			})
			if err != nil {
				return nil, fmt.Errorf("listing the connections to %s: %w", vip, err)
			}
		}
	}
	return known, nil
}

// dead reports whether the flow has no socket here, or one whose client has vanished.
func (s *netlinkSocket) dead(f Flow) (bool, error) {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_ACK)
	request.AddRawData(connectionRequest(unix.AF_INET, openStates, f.diagID()))
	dead := true
	err := s.ask(request, func(msg []byte) (bool, error) {
		c, err := parseConnection(msg)
		// Without such a connection the kernel finds the server's socket, which listens.
		if err == nil && c.client == f.Client {
			dead = c.vanished()
		}
		return true, err
	})
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	return dead && err == nil, err
}

// diagID names the flow's socket, whatever its cookie is.
func (f Flow) diagID() (id [diagIDSize]byte) {
	binary.BigEndian.PutUint16(id[0:], f.VIP.Port())
	binary.BigEndian.PutUint16(id[2:], f.Client.Port())
	copy(id[4:], f.VIP.Addr().AsSlice())
	copy(id[20:], f.Client.Addr().AsSlice())
	copy(id[40:], "\xff\xff\xff\xff\xff\xff\xff\xff") // INET_DIAG_NOCOOKIE
	return id
}

// unanswered reads a tcp_info (include/uapi/linux/tcp.h): for how long at the least the
// client has left unanswered what was sent again and again; 0 if it is not.
func unanswered(info []byte) time.Duration {
	const (
		backoff  = 4  // how often the timeout was doubled since the last answer
		timeout  = 8  // as it is now, in microseconds
		unacked  = 24 // segments that were sent and are not acknowledged
		lastData = 52 // when something came last, in milliseconds ago
		lastAck  = 56
		size     = 60
	)
	if len(info) < size {
		return 0 // it is not told
	}
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(info[at:]) }
	if word(unacked) == 0 || info[backoff] < 2 {
		return 0
	}
	silent := time.Duration(min(word(lastData), word(lastAck))) * time.Millisecond
	// Each timeout was twice the one before, so between the first time and the last
	// that it was sent again all of them but the first have passed.
	last := time.Duration(word(timeout)) * time.Microsecond
	return min(silent, last-last>>(info[backoff]-1))
}
