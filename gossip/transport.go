package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sys/unix"
)

// Socket buffers of the UDP socket, in bytes. The kernel counts a datagram that
// waits for ARP against its sender's buffer, up to 208 KiB for each neighbour
// (net.ipv4.neigh.default.unres_qlen_bytes) and 3 s long. With the usual buffer of
// 208 KiB two neighbours that have gone silent fill it, and the probes of all
// others wait. The kernel doubles the value: enough for 64 neighbours.
const (
	sendBuffer    = 8 << 20
	receiveBuffer = 2 << 20
)

// dialFunc opens one TCP connection, as d.DialContext does.
type dialFunc func(ctx context.Context, d *net.Dialer, addr string) (net.Conn, error)

func dialDirect(ctx context.Context, d *net.Dialer, addr string) (net.Conn, error) {
	return d.DialContext(ctx, "tcp", addr)
}

// transport is one address's UDP socket and TCP listener for memberlist. Unlike
// memberlist's own it knows each open connection, so that shutting down ends
// them, sends from the bound address only, and keeps a bind error's type.
type transport struct {
	bind    netip.AddrPort
	udp     *net.UDPConn
	tcp     net.Listener
	dial    dialFunc
	log     *limitedLog
	packets chan *memberlist.Packet
	streams chan net.Conn

	ctx    context.Context // ends with Shutdown, and the dials with it
	cancel context.CancelFunc
	busy   sync.WaitGroup // the loops and the dials

	known   func(netip.Addr) bool // whether a member, past member or seed has the address
	large   chan struct{}         // what connections with much to say hold, see door.go
	surplus atomic.Uint64         // connections that were closed for want of a place
	calls   bucket                // of strangers: connections,
	pace    bucket                // and bytes

	mu        sync.Mutex
	conns     map[*conn]struct{}
	places    map[netip.Addr]int // how many incoming ones are open, by address
	strangers []*conn            // those of unknown addresses, the oldest first
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// listen binds both sockets and starts reading them. Shutdown ends it.
// known tells whose addresses are known: see door.go.
func listen(bind netip.AddrPort, known func(netip.Addr) bool, dial dialFunc, log *limitedLog) (*transport, error) {
	brief := net.ListenConfig{KeepAlive: -1} // connections last a second at most
	tcp, err := brief.Listen(context.Background(), "tcp", bind.String())
	if err != nil {
		return nil, bindError("TCP", bind, err)
	}
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(bind))
	if err != nil {
		return nil, errors.Join(bindError("UDP", bind, err), tcp.Close())
	}
	if err := setBuffers(udp); err != nil {
		return nil, errors.Join(fmt.Errorf("sizing the buffers of gossip's UDP socket %s: %w", bind, err), tcp.Close(), udp.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &transport{
		bind: bind, udp: udp, tcp: tcp, dial: dial, log: log,
		packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn),
		ctx:     ctx, cancel: cancel,
		known: known, large: make(chan struct{}, largeAtOnce),
		calls: bucket{rate: strangersASecond, most: strangersAtOnce}, pace: bucket{rate: strangerPace, most: strangerPace},
		conns: make(map[*conn]struct{}), places: make(map[netip.Addr]int),
	}
	t.busy.Go(t.readPackets)
	t.busy.Go(t.accept)
	return t, nil
}

func bindError(network string, bind netip.AddrPort, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("gossip's %s port %d on %s is taken by another program, perhaps another agent: stop it or choose another gossip port: %w",
			network, bind.Port(), bind.Addr(), err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("gossip's address %s is not on this machine: name one of its own addresses: %w", bind.Addr(), err)
	default:
		return fmt.Errorf("opening gossip's %s port %d on %s: %w", network, bind.Port(), bind.Addr(), err)
	}
}

// setBuffers asks for more than net.core.{r,w}mem_max where it may
// (CAP_NET_ADMIN), and else for as much as the kernel grants.
func setBuffers(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var errSet error
	err = raw.Control(func(fd uintptr) {
		errSet = errors.Join(
			setBuffer(int(fd), unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer),
			setBuffer(int(fd), unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer))
	})
	return errors.Join(err, errSet)
}

func setBuffer(fd, force, ask, size int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size)
	if errors.Is(err, unix.EPERM) {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, ask, size)
	}
	return err
}

// FinalAdvertiseAddr returns the bound address: nodes speak without translation.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.bind.Addr().AsSlice(), int(t.bind.Port()), nil
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress sends one datagram. The time is taken after it.
func (t *transport) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	addr, err := netip.ParseAddrPort(to.Addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("sending a datagram to %q: %w", to.Addr, err)
	}
	_, err = t.udp.WriteToUDPAddrPort(b, addr)
	return time.Now(), err
}

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout connects within the timeout. All reading and writing must
// be done within another timeout; memberlist sets no deadline of its own
// before it writes a message.
func (t *transport) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	t.mu.Lock()
	if t.conns == nil {
		t.mu.Unlock()
		return nil, net.ErrClosed
	}
	t.busy.Add(1)
	t.mu.Unlock()
	defer t.busy.Done()

	d := &net.Dialer{Timeout: timeout, LocalAddr: &net.TCPAddr{IP: t.bind.Addr().AsSlice(), Zone: t.bind.Addr().Zone()}}
	c, err := t.dial(t.ctx, d, to.Addr)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, errors.Join(fmt.Errorf("setting a deadline on the connection to %s: %w", to.Addr, err), c.Close())
	}
	tracked, ok := t.track(c)
	if !ok {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	return tracked, nil
}

// Shutdown closes the sockets and every open connection, and waits for the
// loops and dials to end. A second call does nothing.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	open := t.conns
	t.conns = nil
	t.mu.Unlock()
	if open == nil {
		return nil
	}
	t.cancel()
	err := errors.Join(t.tcp.Close(), t.udp.Close())
	for c := range open {
		err = errors.Join(err, c.Conn.Close())
	}
	t.busy.Wait()
	return err
}

func (t *transport) readPackets() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := t.udp.ReadFromUDPAddrPort(buf)
		now := time.Now()
		if err != nil {
			if !t.pause("reading gossip's UDP socket failed", err) {
				return
			}
			continue
		}
		if n == 0 {
			continue // memberlist wants at least the byte of kind
		}
		p := &memberlist.Packet{
			Buf:       append([]byte(nil), buf[:n]...),
			From:      net.UDPAddrFromAddrPort(netip.AddrPortFrom(from.Addr().Unmap(), from.Port())),
			Timestamp: now,
		}
		select {
		case t.packets <- p:
		case <-t.ctx.Done():
			return
		}
	}
}

func (t *transport) accept() {
	for {
		c, err := t.tcp.Accept()
		if err != nil {
			if !t.pause("accepting a gossip connection failed", err) {
				return
			}
			continue
		}
		in := t.admit(c)
		if in == nil {
			continue // after Shutdown the next Accept fails
		}
		select {
		case t.streams <- in:
		case <-t.ctx.Done():
			return // Shutdown closes it
		}
	}
}

// pause reports a socket's failure and waits a moment, lest a lasting one (out
// of file descriptors) becomes a busy loop. It says whether to go on.
func (t *transport) pause(what string, err error) bool {
	if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return false
	}
	t.log.limited(slog.LevelWarn, what, "error", err)
	t.pauseFor(20 * time.Millisecond)
	return t.ctx.Err() == nil
}

// pauseFor waits, at most until the end.
func (t *transport) pauseFor(d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-t.ctx.Done():
	case <-time.After(d):
	}
}

// track takes note of an open connection; false when shut down.
func (t *transport) track(c net.Conn) (*conn, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns == nil {
		return nil, false
	}
	tracked := &conn{Conn: c, t: t, from: addrOfConn(c), left: knownBytes}
	t.conns[tracked] = struct{}{}
	return tracked, true
}

// conn is a connection that its transport knows of until it is closed.
type conn struct {
	net.Conn
	t        *transport
	from     netip.Addr
	inbound  bool
	stranger bool
	answered bool // this node has written to it; guarded by t.mu
	large    bool // it has a place in t.large; set by who reads, under t.mu

	got, left int // bytes that were read, and that still may be: of who reads
}

// Write closes the connection when it fails: memberlist forgets one whose first
// write, of the label, fails.
func (c *conn) Write(b []byte) (int, error) {
	c.t.mu.Lock()
	c.answered = true
	c.t.mu.Unlock()
	n, err := c.Conn.Write(b)
	if err != nil {
		c.Close()
	}
	return n, err
}

func (c *conn) Close() error {
	c.t.mu.Lock()
	c.t.forget(c)
	c.t.mu.Unlock()
	return c.Conn.Close()
}
