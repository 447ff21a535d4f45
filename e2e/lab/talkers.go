package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
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
// pace, and note each answer. One thread does both. An answer counts from when the
// kernel got it, so it need not be read at once.
type Talkers struct {
	lab     *Lab
	cfg     TalkConfig
	fd      int
	sources []*talker
	out     *datagrams // the next one of each source
	in      *datagrams
	answers [][]byte // the contents of in

	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
	// ended is when the talking ended, in nanoseconds of the lab's clock; 0
	// while it goes on.
	ended atomic.Int64
}

// talker is one source.
type talker struct {
	// request is the source's index in Lab.Sources and the number of the ask.
	request [requestLen]byte
	mu      sync.Mutex
	// trace has one entry per number.
	trace Trace
}

const (
	requestLen = 4 + 8
	// tick is the time between two looks at what is to be sent and has come.
	tick = time.Millisecond
	// readAtOnce is how many answers one look reads by one system call.
	readAtOnce = 128
	answerRoom = 64
)

// Talk starts talking from all sources, until Stop or the end of the lab.
func (l *Lab) Talk(cfg TalkConfig) (*Talkers, error) {
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Millisecond
	}
	if cfg.Limit == 0 {
		cfg.Limit = 10 * time.Minute
	}
	fd, err := datagramSocket(l.Client, 0, false)
	if err != nil {
		return nil, fmt.Errorf("the clients' socket: %w", err)
	}
	t := &Talkers{
		lab: l, cfg: cfg, fd: fd, stop: make(chan struct{}),
		out: newDatagrams(len(l.Sources), pktinfoSpace), in: newDatagrams(readAtOnce, stampSpace),
	}
	for i, addr := range l.Sources {
		s := &talker{trace: make(Trace, 0, 4096)}
		binary.BigEndian.PutUint32(s.request[:], uint32(i))
		t.sources = append(t.sources, s)
		t.out.content(i, s.request[:])
		sendFrom(t.out.controls[i], addr.As4())
		t.out.peers[i] = rawSockaddr(netip.AddrPortFrom(VIP, EchoPort))
	}
	for i := range readAtOnce {
		t.answers = append(t.answers, make([]byte, answerRoom))
		t.in.content(i, t.answers[i])
	}
	t.wg.Go(t.run)
	l.onClose(t.Stop)
	return t, nil
}

// Stop ends the talking; the traces stay. It waits a moment for the last answers.
func (t *Talkers) Stop() {
	t.once.Do(func() { close(t.stop) })
	t.wg.Wait()
}

// run gives each source its turn once per interval, spread over it. A turn missed
// because this process did not run is left out, not made up for.
func (t *Talkers) run() {
	keepTime()
	defer unix.Close(t.fd)
	start := t.lab.Now()
	step := t.cfg.Interval / time.Duration(len(t.sources))
	next := start // the time of the next source's turn
	due := start  // of the next look
	for i := 0; !t.stopped() && due-start < t.cfg.Limit; {
		nap(due - t.lab.Now())
		now := t.lab.Now()
		t.lab.late.note(due, now-due)
		due = max(due+tick, now)
		if behind := now - next; behind > t.cfg.Interval {
			next += behind.Truncate(t.cfg.Interval)
		}
		first, turns := i, 0
		for ; next <= now; next += step {
			t.sources[i].ask(now)
			i = (i + 1) % len(t.sources)
			turns++
		}
		t.send(first, turns)
		t.read()
	}
	t.ended.Store(int64(t.lab.Now()))
	nap(20 * time.Millisecond)
	t.read()
}

func (t *Talkers) stopped() bool {
	select {
	case <-t.stop:
		return true
	default:
		return false
	}
}

func (s *talker) ask(now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	binary.BigEndian.PutUint64(s.request[4:], uint64(len(s.trace)))
	s.trace = append(s.trace, Ask{Sent: now})
}

// send sends the asks of so many sources from the first on. A source has one turn
// at the most, since none is made up for.
func (t *Talkers) send(first, turns int) {
	all := len(t.sources)
	turns = min(turns, all)
	t.out.send(t.fd, first, min(first+turns, all))
	t.out.send(t.fd, 0, first+turns-all)
}

// read notes the answers that have come.
func (t *Talkers) read() {
	for {
		n, err := t.in.receive(t.fd, unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		now := time.Now()
		for i := range n {
			ago, _ := arrival(t.in.control(i), now)
			t.note(t.answers[i][:t.in.length(i)], now.Sub(t.lab.base)-ago)
		}
		if n < readAtOnce {
			return
		}
	}
}

func (t *Talkers) note(answer []byte, at time.Duration) {
	name, payload, ok := bytes.Cut(answer, []byte{' '})
	if !ok || len(payload) != requestLen {
		return // nothing that our services say
	}
	source, number := binary.BigEndian.Uint32(payload), binary.BigEndian.Uint64(payload[4:])
	if source >= uint32(len(t.sources)) {
		return
	}
	s, by := t.sources[source], nodeID(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if number >= uint64(len(s.trace)) {
		return
	}
	if a := &s.trace[number]; a.By == 0 {
		a.By, a.Delay = by, at-a.Sent
	} else {
		a.Again = by
	}
}

// nodeID is the number of the node that NodeName calls so.
func nodeID(name []byte) NodeID {
	number, ok := bytes.CutPrefix(name, []byte(nodePrefix))
	n, err := strconv.Atoi(string(number))
	if !ok || err != nil || n < 1 || n > MaxNodes {
		return Stranger
	}
	return NodeID(n)
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
	tally := newTally(w, id, read)
	for _, s := range t.sources { // without a copy of the traces, which are long
		s.mu.Lock()
		tally.add(s.trace)
		s.mu.Unlock()
	}
	r := tally.report()
	r.Pause = t.lab.late.longest(w)
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
