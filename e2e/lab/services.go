package lab

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

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
	closed  atomic.Bool

	web  *http.Server
	talk net.Listener
	echo int // a socket
	late *lateness
	now  func() time.Duration // the lab's clock

	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]struct{} // open talk connections; nil once closed
}

// startServices opens the sockets inside the namespace and serves them until
// close.
func startServices(name string, ns *Namespace, l *Lab) (*services, error) {
	s := &services{name: name, late: &l.late, now: l.Now, conns: map[net.Conn]struct{}{}}
	s.healthy.Store(true)
	err := s.startWeb(ns)
	if err == nil {
		err = ns.Do(func() (err error) {
			s.talk, err = net.Listen("tcp4", fmt.Sprintf(":%d", TalkPort))
			return err
		})
		if err != nil {
			err = errors.Join(err, s.web.Close())
		} else if s.echo, err = datagramSocket(ns, EchoPort, true); err != nil {
			err = errors.Join(err, s.web.Close(), s.talk.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("starting the services of %s: %w", name, err)
	}
	s.wg.Go(s.serveTalk)
	s.wg.Go(s.serveEcho)
	return s, nil
}

// startWeb begins to serve WebPort.
func (s *services) startWeb(ns *Namespace) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, s.name) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.healthy.Load() {
			http.Error(w, "unhealthy", http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Handler: mux}
	var web net.Listener
	if err := ns.Do(func() (err error) {
		web, err = net.Listen("tcp4", fmt.Sprintf(":%d", WebPort))
		return err
	}); err != nil {
		return err
	}
	s.web = server
	s.wg.Go(func() { server.Serve(web) }) // ends with ErrServerClosed
	return nil
}

// close ends the services and waits for their goroutines.
func (s *services) close() {
	s.closed.Store(true)
	s.web.Close()
	s.talk.Close()
	// It wakes who waits for a datagram, and says ENOTCONN all the same.
	unix.Shutdown(s.echo, unix.SHUT_RD)
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.wg.Wait()
	unix.Close(s.echo)
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

// serveEcho answers until the socket is shut down. It notes how late it was: that
// much of a client's silence is the lab's own.
func (s *services) serveEcho() {
	keepTime()
	const atOnce, room = 64, 2048
	in, out := newDatagrams(atOnce, pktinfoSpace+stampSpace), newDatagrams(atOnce, pktinfoSpace)
	contents, prefix := make([][]byte, atOnce), []byte(s.name+" ")
	for i := range contents {
		contents[i] = make([]byte, room)
		in.content(i, contents[i])
	}
	for {
		n, err := in.receive(s.echo, 0)
		if s.closed.Load() {
			return
		}
		if err != nil {
			continue // the ICMP error of an earlier answer
		}
		now := time.Now()
		var latest time.Duration
		for i := range n {
			ago, to := arrival(in.control(i), now)
			latest = max(latest, ago)
			out.peers[i] = in.peers[i]
			out.content(i, prefix, contents[i][:in.length(i)])
			sendFrom(out.controls[i], to)
		}
		out.send(s.echo, 0, n) // a lost answer is for the client to notice
		s.late.note(s.now()-latest, latest)
	}
}
