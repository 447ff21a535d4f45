package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The ports of the services that each node offers on all its addresses.
const (
	// WebPort answers GET / with the node's name, and /healthz with 200 or 503.
	WebPort = 80
	// EchoPort answers a UDP datagram with the node's name, a space and the
	// datagram, from the address that it was sent to.
	EchoPort = 9000
	// TalkPort answers each line with the node's name, a space and the line,
	// until the client closes.
	TalkPort = 9001
)

// services are the sockets of one node and the goroutines that serve them.
type services struct {
	name    string
	healthy atomic.Bool

	web  *http.Server
	talk net.Listener
	echo *net.UDPConn

	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]struct{} // open talk connections; nil once closed
}

// startServices opens the sockets inside the namespace and serves them until
// close.
func startServices(name string, ns *Namespace) (*services, error) {
	s := &services{name: name, conns: map[net.Conn]struct{}{}}
	s.healthy.Store(true)
	var web net.Listener
	err := ns.Do(func() (err error) {
		if web, err = net.Listen("tcp4", fmt.Sprintf(":%d", WebPort)); err != nil {
			return err
		}
		if s.talk, err = net.Listen("tcp4", fmt.Sprintf(":%d", TalkPort)); err != nil {
			return errors.Join(err, web.Close())
		}
		if s.echo, err = listenEcho(); err != nil {
			return errors.Join(err, web.Close(), s.talk.Close())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("starting the services of %s: %w", name, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, name) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.healthy.Load() {
			http.Error(w, "unhealthy", http.StatusServiceUnavailable)
		}
	})
	s.web = &http.Server{Handler: mux}
	s.wg.Go(func() { s.web.Serve(web) }) // ends with ErrServerClosed
	s.wg.Go(s.serveTalk)
	s.wg.Go(s.serveEcho)
	return s, nil
}

// close ends the services and waits for their goroutines.
func (s *services) close() {
	s.web.Close()
	s.talk.Close()
	s.echo.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *services) serveTalk() {
	for {
		c, err := s.talk.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a connection that ended before it was accepted
		}
		s.mu.Lock()
		if s.conns == nil {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			s.talkTo(c)
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

func (s *services) talkTo(c net.Conn) {
	lines := bufio.NewReader(c)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return // closed, or a line longer than the buffer
		}
		if _, err := fmt.Fprintf(c, "%s %s", s.name, line); err != nil {
			return
		}
	}
}

// echoBuffer holds what all sources send in some seconds: a service that is not
// scheduled for a while must be late, not lossy, or it would pass for an outage.
const echoBuffer = 16 << 20

// listenEcho opens the UDP socket that also tells which address a datagram was
// sent to: a socket bound to no address would answer from the NIC's.
func listenEcho() (*net.UDPConn, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: EchoPort})
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		ctlErr := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, echoBuffer))
		})
		err = errors.Join(err, ctlErr)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("preparing the echo socket: %w", err), conn.Close())
	}
	return conn, nil
}

func (s *services) serveEcho() {
	buf := make([]byte, 2048)
	prefix := copy(buf, s.name+" ")
	oob := make([]byte, unix.CmsgSpace(unix.SizeofInet4Pktinfo))
	for {
		n, on, _, from, err := s.echo.ReadMsgUDPAddrPort(buf[prefix:], oob)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
			return
		}
		if err != nil || on != len(oob) {
			continue // the ICMP error of an earlier answer
		}
		answerFrom(oob)
		s.echo.WriteMsgUDPAddrPort(buf[:prefix+n], oob, from) // a lost answer is for the client to notice
	}
}

// answerFrom turns the IP_PKTINFO of a received datagram into that of its answer,
// in place: from the address it was sent to, by any interface. The message is a
// header of 16 bytes, then ipi_ifindex, ipi_spec_dst and ipi_addr, ip(7).
func answerFrom(oob []byte) {
	info := oob[unix.CmsgLen(0):]
	clear(info[0:4])
	copy(info[4:8], info[8:12])
}
