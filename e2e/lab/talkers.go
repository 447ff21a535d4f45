package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// TalkConfig says how the client host talks.
type TalkConfig struct {
	// Interval is the time between two datagrams of one source; 0 means 10 ms.
	Interval time.Duration
	// Limit ends the talking by itself; 0 means 10 minutes.
	Limit time.Duration
}

// Talkers send a datagram to the VIP's echo service from each source at a steady
// pace, and note each answer.
type Talkers struct {
	lab     *Lab
	cfg     TalkConfig
	sources []*talker
	stop    chan struct{}
	once    sync.Once
	senders sync.WaitGroup
	readers sync.WaitGroup
	mu      sync.Mutex
	// pauses are when and for how long this process did not run, though a source's
	// turn had come.
	pauses []Pause

	// ended is when the talking ended, in nanoseconds of the lab's clock; 0
	// while it goes on.
	ended atomic.Int64
}

// Pause is a stretch in which the sender was late: other processes had the
// processor, or the garbage collector.
type Pause struct{ At, Length time.Duration }

// minPause is the shortest that is noted.
const minPause = 2 * time.Millisecond

// talker is one source. The sender appends to the trace, the reader fills in
// answers; both hold mu.
type talker struct {
	conn    *net.UDPConn
	request [8]byte // the number of the ask
	// send tries to send the request once, without waiting.
	send func() error
	mu   sync.Mutex
	// trace has one entry per number.
	trace Trace
}

// Talk starts talking from all sources, until Stop or the end of the lab.
func (l *Lab) Talk(cfg TalkConfig) (*Talkers, error) {
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Millisecond
	}
	if cfg.Limit == 0 {
		cfg.Limit = 10 * time.Minute
	}
	t := &Talkers{lab: l, cfg: cfg, stop: make(chan struct{})}
	for _, addr := range l.Sources {
		s, err := newTalker(l.Client, addr)
		if err != nil {
			t.Stop()
			return nil, fmt.Errorf("a UDP socket for client %s: %w", addr, err)
		}
		t.sources = append(t.sources, s)
	}
	for _, s := range t.sources {
		t.readers.Go(func() { s.read(l) })
	}
	t.senders.Go(t.sendAll)
	l.onClose(t.Stop)
	return t, nil
}

func newTalker(ns *Namespace, addr netip.Addr) (*talker, error) {
	s := &talker{trace: make(Trace, 0, 4096)}
	err := ns.Do(func() (err error) {
		s.conn, err = net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(VIP, EchoPort)))
		return err
	})
	if err != nil {
		return nil, err
	}
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, s.conn.Close())
	}
	// One attempt that never waits: a source whose buffer is full, because the
	// VIP's MAC is not resolved, must not hold up the others.
	var sendErr error
	once := func(fd uintptr) bool {
		sendErr = unix.Send(int(fd), s.request[:], unix.MSG_DONTWAIT)
		return true
	}
	s.send = func() error {
		if err := raw.Write(once); err != nil {
			return err
		}
		return sendErr
	}
	return s, nil
}

// Stop ends the talking; the traces stay. It waits a moment for the last answers.
func (t *Talkers) Stop() {
	t.once.Do(func() {
		close(t.stop)
		t.senders.Wait()
		t.ended.Store(int64(t.lab.Now()))
		if len(t.sources) > 0 {
			time.Sleep(20 * time.Millisecond)
		}
		for _, s := range t.sources {
			s.conn.Close()
		}
		t.readers.Wait()
	})
}

// sendAll gives each source its turn once per interval, spread over it. A turn
// missed because this process did not run is left out, not made up for.
func (t *Talkers) sendAll() {
	const tick = time.Millisecond
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	start := t.lab.Now()
	step := t.cfg.Interval / time.Duration(len(t.sources))
	next := start // the time of the next source's turn
	for i := 0; ; {
		select {
		case <-t.stop:
			return
		case <-ticker.C:
		}
		now := t.lab.Now()
		if now-start > t.cfg.Limit {
			return
		}
		behind := now - next
		if behind >= minPause+tick {
			t.mu.Lock()
			t.pauses = append(t.pauses, Pause{next, behind})
			t.mu.Unlock()
		}
		if behind > t.cfg.Interval {
			next += behind.Truncate(t.cfg.Interval)
		}
		for ; next <= now; next += step {
			t.sources[i].ask(t.lab)
			i = (i + 1) % len(t.sources)
		}
	}
}

func (s *talker) ask(l *Lab) {
	s.mu.Lock()
	binary.BigEndian.PutUint64(s.request[:], uint64(len(s.trace)))
	s.trace = append(s.trace, Ask{Sent: l.Now()})
	s.mu.Unlock()
	// The error may be an earlier datagram's, such as EHOSTUNREACH, reported
	// instead of sending. What cannot be sent the second time either is asked and
	// not heard, which is how the client sees it.
	if s.send() != nil {
		s.send()
	}
}

// read notes answers until the socket is closed.
func (s *talker) read(l *Lab) {
	buf := make([]byte, 256)
	for {
		n, err := s.conn.Read(buf)
		now := l.Now()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error
		}
		name, payload, ok := bytes.Cut(buf[:n], []byte{' '})
		if !ok || len(payload) != len(s.request) {
			continue // nothing that our services say
		}
		s.note(int(binary.BigEndian.Uint64(payload)), l.nodeID(name), now)
	}
}

func (s *talker) note(number int, by NodeID, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number < 0 || number >= len(s.trace) {
		return
	}
	if a := &s.trace[number]; a.By == 0 {
		a.By, a.Delay = by, now-a.Sent
	} else {
		a.Again = by
	}
}

// nodeID is the number of the node of that name.
func (l *Lab) nodeID(name []byte) NodeID {
	for _, n := range l.Nodes {
		if n.Name == string(name) {
			return n.ID()
		}
	}
	return Stranger
}

// Report says what the sources saw in the window; affected is the node that the
// step befell, nil for none.
func (t *Talkers) Report(w Window, affected *Node) TalkReport {
	var id NodeID
	if affected != nil {
		id = affected.ID()
	}
	read := t.lab.Now()
	if ended := t.ended.Load(); ended != 0 {
		read = time.Duration(ended)
	}
	r := reportTalk(t.Traces(), w, id, read)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.pauses {
		if p.At < w.To && p.At+p.Length >= w.From {
			r.Pause = max(r.Pause, p.Length)
		}
	}
	return r
}

// Traces returns a copy of each source's trace, in the order of Lab.Sources.
func (t *Talkers) Traces() []Trace {
	traces := make([]Trace, len(t.sources))
	for i, s := range t.sources {
		s.mu.Lock()
		traces[i] = slices.Clone(s.trace)
		s.mu.Unlock()
	}
	return traces
}
