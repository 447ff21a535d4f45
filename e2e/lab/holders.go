package lab

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// HoldConfig says how the client host keeps connections open.
type HoldConfig struct {
	// Connections is how many are kept, by the sources in turn; 0 means one of each.
	Connections int
	// Interval is the pause between an answer and the next line; 0 means 100 ms.
	Interval time.Duration
	// GiveUp is how long a line waits for its answer before the client calls the
	// connection dead; 0 means 10 s.
	GiveUp time.Duration
}

// Holders keep connections to the VIP's talk service open and say a line on each
// from time to time. One that breaks is opened anew.
type Holders struct {
	lab  *Lab
	cfg  HoldConfig
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	mu    sync.Mutex
	conns map[*os.File]*Life // those open now
	lives []*Life
}

// Life is one connection from its opening to its end. Its trace is that of its
// lines. All times are on the lab's clock.
type Life struct {
	Opened time.Duration
	// Ended is 0 while it is open. How says why it ended: Reset, TimedOut, or OK
	// if the measurement ended first.
	Ended time.Duration
	How   Outcome
	// By is who answered first.
	By    NodeID
	Trace Trace
}

// StalledAfter is the wait for a line's answer from which on a connection that
// was not reset counts as stalled: longer than a few lost segments take.
const StalledAfter = time.Second

// Hold starts opening the connections; WaitOpen waits until all are open. They
// are kept until Stop or the end of the lab.
func (l *Lab) Hold(cfg HoldConfig) *Holders {
	if cfg.Connections == 0 {
		cfg.Connections = len(l.Sources)
	}
	if cfg.Interval == 0 {
		cfg.Interval = 100 * time.Millisecond
	}
	if cfg.GiveUp == 0 {
		cfg.GiveUp = 10 * time.Second
	}
	h := &Holders{lab: l, cfg: cfg, stop: make(chan struct{}), conns: map[*os.File]*Life{}}
	for i := range cfg.Connections {
		h.wg.Go(func() {
			h.pause(cfg.Interval * time.Duration(i) / time.Duration(cfg.Connections)) // spread over it
			h.keep(i % len(l.Sources))
		})
	}
	l.onClose(h.Stop)
	return h
}

// WaitOpen waits until all connections are open and each has been answered.
func (h *Holders) WaitOpen(ctx context.Context) error {
	return Poll(ctx, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		open := 0
		for _, life := range h.conns {
			if life.By != 0 {
				open++
			}
		}
		if open < h.cfg.Connections {
			return fmt.Errorf("%d of %d connections are open", open, h.cfg.Connections)
		}
		return nil
	})
}

// Stop closes the connections and waits for their goroutines.
func (h *Holders) Stop() {
	h.once.Do(func() {
		h.mu.Lock()
		close(h.stop)
		for c := range h.conns {
			c.SetDeadline(time.Unix(1, 0)) // wakes the one who waits for an answer
		}
		h.mu.Unlock()
	})
	h.wg.Wait()
}

func (h *Holders) stopped() bool {
	select {
	case <-h.stop:
		return true
	default:
		return false
	}
}

// pause waits for d, or until the end of the measurement.
func (h *Holders) pause(d time.Duration) {
	select {
	case <-h.stop:
	case <-time.After(d):
	}
}

// keep holds one connection from the source open, life after life.
func (h *Holders) keep(source int) {
	for !h.stopped() {
		conn, err := dial(h.lab.Client, h.lab.Sources[source], TalkPort, 2*time.Second)
		if err != nil {
			h.pause(h.cfg.Interval)
			continue
		}
		life := &Life{Opened: h.lab.Now()}
		h.mu.Lock()
		h.conns[conn] = life
		h.lives = append(h.lives, life)
		h.mu.Unlock()

		err = h.talk(conn, life)

		h.mu.Lock()
		delete(h.conns, conn)
		life.Ended, life.How = h.lab.Now(), outcome(err)
		if h.stopped() {
			life.How = OK
		}
		h.mu.Unlock()
		conn.Close()
	}
}

// talk says a line and waits for its answer, until the connection breaks or the
// measurement ends.
func (h *Holders) talk(conn *os.File, life *Life) error {
	answers := bufio.NewReader(conn)
	for {
		h.mu.Lock()
		if h.stopped() {
			h.mu.Unlock()
			return nil
		}
		life.Trace = append(life.Trace, Ask{Sent: h.lab.Now()})
		last := &life.Trace[len(life.Trace)-1] // only this goroutine appends
		err := conn.SetDeadline(time.Now().Add(h.cfg.GiveUp))
		h.mu.Unlock()
		if err != nil {
			return err
		}
		if _, err := conn.WriteString("hello\n"); err != nil {
			return err
		}
		answer, err := answers.ReadSlice('\n')
		if err != nil {
			return err
		}
		name, _, _ := bytes.Cut(answer, []byte{' '})
		h.mu.Lock()
		last.Delay, last.By = h.lab.Now()-last.Sent, nodeID(name)
		if life.By == 0 {
			life.By = last.By
		}
		h.mu.Unlock()
		h.pause(h.cfg.Interval)
	}
}

// HoldReport is what became of the open connections in one step.
type HoldReport struct {
	// Held were open, and had not stalled, when the step began.
	Held int
	// Reset of them were reset or closed in the step, Stalled had a line that
	// waited StalledAfter or longer.
	Reset, Stalled int
	// Moved had a line of the step answered by another node than their first.
	Moved int
	// OthersBroken is how many of the broken were not on the affected node.
	OthersBroken int
}

// Report says what became, in the window, of the connections that were open at
// its beginning; affected is the node that the step befell, nil for none.
func (h *Holders) Report(w Window, affected *Node) HoldReport {
	var id NodeID
	if affected != nil {
		id = affected.ID()
	}
	now := h.lab.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	lives := make([]Life, len(h.lives))
	for i, life := range h.lives {
		lives[i] = *life
		lives[i].Trace = slices.Clone(life.Trace)
	}
	return reportLives(lives, w, id, now)
}

// reportLives is Report on values; read is when the traces were read.
func reportLives(lives []Life, w Window, affected NodeID, read time.Duration) HoldReport {
	var r HoldReport
	for _, life := range lives {
		if life.Opened >= w.From || life.Ended != 0 && life.Ended < w.From {
			continue
		}
		// A line that was waiting when the step began is the step's, unless the
		// connection had stalled by then.
		asked := w
		if waiting, ok := life.Trace.waiting(w.From); ok {
			asked.From = waiting
		}
		if w.From-asked.From >= StalledAfter {
			continue
		}
		r.Held++
		if slices.ContainsFunc(life.Trace.during(w), func(a Ask) bool { return a.By != 0 && a.By != life.By }) {
			r.Moved++
		}
		end := read
		if life.Ended != 0 {
			end = life.Ended
		}
		switch {
		case life.Ended != 0 && life.Ended < w.To && life.How == Reset:
			r.Reset++
		case life.Trace.LongestSilence(asked, end) >= StalledAfter:
			r.Stalled++
		default:
			continue
		}
		if life.By != affected {
			r.OthersBroken++
		}
	}
	return r
}
