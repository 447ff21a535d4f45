package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// BeaconConfig says how beacons are sent and received. What they say is not known
// here: payloads are bytes.
type BeaconConfig struct {
	// Port is the UDP port that beacons come from and go to, the same on every node.
	Port uint16
	// Interval is the time between two regular beacons; more than 0.
	Interval time.Duration
	// Mark is the firewall mark (SO_MARK) of beacons that may prolong the lease.
	Mark uint32
	// Now is the clock for all times here, monotonic; it is called from several
	// threads and must not wait for any.
	Now func() time.Duration
	// Fresh bounds how old a decision to mark may be: the time from the call of Build
	// to the frame on its way. A marked beacon that Build took longer for leaves
	// unmarked. 0: no bound.
	Fresh time.Duration
	// Overdue, if set, is called after a marked beacon left later than Fresh after
	// all, because the machine stood still between the check and the kernel: it may
	// have prolonged a lease that had to run out, so the lease must be dropped at
	// once. It gets the time from the call of Build, runs on the thread that sends,
	// and must not wait for anything.
	Overdue func(took time.Duration)
}

// Build makes the next beacon, of at most MaxBeacon bytes; buf is empty and has room
// for it, but need not be used. The payload and unicast are used until the next call.
//
// With marked, the beacon carries the mark on the wire. It goes to the unicast
// addresses too, unmarked. If not ok, there is no beacon now, on either medium.
//
// Build runs on the thread that sends: it must be quick, allocate nothing, and take
// no lock that anybody holds for long.
type Build func(now time.Duration, buf []byte) (payload []byte, marked bool, unicast []netip.AddrPort, ok bool)

// Beacons has the sockets for beacons on two media. On the wire a beacon takes
// exactly the path of a client's packet: a frame to the cluster MAC, sent past the
// IP stack by a packet socket, received from the first VIP's UDP port. The same
// payload goes by plain unicast between the nodes' addresses.
//
// Frames follow the interface as Link.Run sees it: with a new MAC or a new index
// they go on by themselves.
type Beacons struct {
	link   *Link
	config BeaconConfig

	wire, unicast inlet
	cramped       string     // see BeaconStatus
	receiving     sync.Mutex // held by Receive while it runs
	sender        sender
	sending       sync.Mutex // held by Send while it runs
}

// MaxLetter is the longest datagram that the unicast medium carries, in fragments if
// need be: as much as UDP over IPv4 can.
const MaxLetter = 1<<16 - 1 - ipLen - udpLen

// Tell sends a datagram by unicast, past the thread that sends beacons: for what the
// nodes have to say when nothing else reaches them. It never waits; what does not go
// at once is an error. It must not be called after Close.
func (b *Beacons) Tell(to netip.AddrPort, payload []byte) error {
	addr := &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()}
	if err := unix.Sendto(b.sender.udp, payload, unix.MSG_DONTWAIT, addr); err != nil {
		return fmt.Errorf("sending %d bytes to %s: %w", len(payload), to, err)
	}
	return nil
}

// index is that of the interface as Run saw it last; 0: there is none.
func (l *Link) index() int { return l.seen.Load().index }

// Unread reports whether datagrams have come that Receive has not read yet. It does not
// wait, and may be called from the thread that sends.
func (b *Beacons) Unread() bool {
	for _, socket := range []int{b.wire.socket, b.unicast.socket} {
		if readable(socket) {
			return true
		}
	}
	return false
}

// HeardUntil returns until when all that has come, on both media, was delivered: now, if
// nothing waits. It is exact also where something always waits, as in a flood. It does
// not wait, and may be called from the thread that sends.
func (b *Beacons) HeardUntil(now time.Duration) time.Duration {
	return min(now, b.wire.heardUntil(now), b.unicast.heardUntil(now))
}

// receiveBuffer of a socket, in bytes as the kernel counts them, is room for about
// five thousand beacons: two seconds of 63 peers at 50 per second each, while the
// default is full after 256.
const receiveBuffer = 4 << 20

// OpenBeacons opens the sockets in the network namespace of the calling thread. The
// VIP need not be on lo yet, and should not: without a socket each node would answer
// the beacons of the others with an ICMP error. For the same reason Close belongs
// after Link.Down.
func (l *Link) OpenBeacons(config BeaconConfig) (*Beacons, error) {
	if config.Port == 0 || config.Interval <= 0 || config.Now == nil {
		panic("link: BeaconConfig needs Port, Interval and Now")
	}
	b := &Beacons{link: l, config: config}
	b.sender = sender{
		now: config.Now, fresh: config.Fresh, overdue: config.Overdue, port: config.Port, interval: config.Interval,
		link: l, favour: favour, marked: -1, unmarked: -1,
	}
	b.sender.to = unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Halen: uint8(len(hwAddr{}))}
	copy(b.sender.to.Addr[:], l.config.MAC.addr[:])
	if err := b.open(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Beacons) open() (err error) {
	own := b.link.config.Address
	b.wire = inlet{socket: -1, medium: MediumWire, own: own, longest: MaxBeacon, atOnce: 64, now: b.config.Now, on: b.link.index}
	b.unicast = inlet{socket: -1, medium: MediumUnicast, own: own, longest: MaxLetter, atOnce: 32, now: b.config.Now, on: b.link.index}
	if b.wire.socket, err = listen(netip.AddrPortFrom(b.link.config.VIPs[0], b.config.Port)); err != nil {
		return err
	}
	if b.unicast.socket, err = listen(netip.AddrPortFrom(own, b.config.Port)); err != nil {
		return err
	}
	b.sender.udp = b.unicast.socket
	if b.cramped, err = receiveRoom(b.wire.socket); err != nil {
		return err
	}
	if b.sender.unmarked, err = transmitter(0); err != nil {
		return err
	}
	b.sender.marked, err = transmitter(b.config.Mark)
	return err
}

// Close closes the sockets once Send and Receive have returned, and waits for that.
func (b *Beacons) Close() error {
	b.sending.Lock()
	defer b.sending.Unlock()
	b.receiving.Lock()
	defer b.receiving.Unlock()
	var errs []error
	for _, socket := range []*int{&b.wire.socket, &b.unicast.socket, &b.sender.marked, &b.sender.unmarked} {
		if *socket >= 0 {
			errs = append(errs, unix.Close(*socket))
			*socket = -1
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("closing the sockets of beacons: %w", err)
	}
	return nil
}

// listen opens a UDP socket for beacons to the address. Go's poller does not know it:
// see intake.
func listen(at netip.AddrPort) (int, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("opening a socket for beacons to %s: %w", at, err)
	}
	if err = prepare(socket); err == nil {
		err = unix.Bind(socket, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()})
	}
	switch {
	case err == nil:
		return socket, nil
	case errors.Is(err, unix.EADDRINUSE):
		err = fmt.Errorf("cluster.beacon_port: UDP port %d of %s is in use by another program: stop it, or choose another port, the same on every node", at.Port(), at.Addr())
	default:
		err = fmt.Errorf("opening a socket for beacons to %s: %w", at, err)
	}
	return -1, errors.Join(err, unix.Close(socket))
}

// prepare sets the options of a socket that sends and receives beacons.
func prepare(socket int) error {
	for _, option := range []struct {
		name              string
		level, key, value int
	}{
		{"IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND, 1}, // the address may come later, or go and come back
		{"SO_RXQ_OVFL", unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1},
		{"IP_RECVTTL", unix.IPPROTO_IP, unix.IP_RECVTTL, 1},
		{"IP_PKTINFO", unix.IPPROTO_IP, unix.IP_PKTINFO, 1},
		{"IP_TTL", unix.IPPROTO_IP, unix.IP_TTL, beaconTTL},
		{"IP_TOS", unix.IPPROTO_IP, unix.IP_TOS, beaconTOS},
		{"SO_PRIORITY", unix.SOL_SOCKET, unix.SO_PRIORITY, beaconPriority}, // after IP_TOS, which sets one of its own
	} {
		if err := unix.SetsockoptInt(socket, option.level, option.key, option.value); err != nil {
			return fmt.Errorf("setting %s: %w", option.name, err)
		}
	}
	err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	if errors.Is(err, unix.EPERM) { // without CAP_NET_ADMIN on the host; see receiveRoom
		err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err != nil {
		return fmt.Errorf("setting SO_RCVBUF: %w", err)
	}
	return nil
}

// receiveRoom says, if the socket's buffer is smaller than it should be, what follows and
// the cure. The kernel doubles what it is asked for, and bounds it by a setting of the host.
func receiveRoom(socket int) (string, error) {
	got, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return "", fmt.Errorf("reading SO_RCVBUF: %w", err)
	}
	if got >= 2*receiveBuffer {
		return "", nil
	}
	return fmt.Sprintf("room for beacons that wait is %d KB instead of %d (sysctl net.core.rmem_max=%d on the host gives it)",
		got>>10, 2*receiveBuffer>>10, receiveBuffer), nil
}

// transmitter opens a packet socket that sends frames with the mark and, being for
// protocol 0, receives none. It is not bound: each frame says where it goes, so
// that an interface that is down or made anew leaves nothing behind in the socket.
// The frames pass the queueing discipline and the egress hook (no
// PACKET_QDISC_BYPASS).
func transmitter(mark uint32) (int, error) {
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("opening a packet socket for beacons: %w", err)
	}
	err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PRIORITY, beaconPriority)
	if err == nil {
		err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("setting priority and mark of a packet socket for beacons: %w", err), unix.Close(socket))
	}
	return socket, nil
}

// htons turns a number into the network's byte order, as packet sockets want it.
func htons(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// onDone calls f when the context is done, unless it is released first. After
// release has returned, f is not running and will not run.
func onDone(ctx context.Context, f func()) (release func()) {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(over); f() })
	return func() {
		if !stop() {
			<-over
		}
	}
}
