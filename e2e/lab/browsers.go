package lab

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// BrowseConfig says how the client host opens connections.
type BrowseConfig struct {
	// Interval is the time between two new connections, over all sources; 0
	// means 20 ms.
	Interval time.Duration
	// Timeout is for the handshake and for the answer each; 0 means 5 s, enough
	// for two SYNs to be lost.
	Timeout time.Duration
	// Limit ends the browsing by itself; 0 means 10 minutes.
	Limit time.Duration
}

// Visit is one HTTP request on a connection of its own.
type Visit struct {
	// Source is the index in Lab.Sources of the client.
	Source int
	// Start is when the connection was begun, on the lab's clock.
	Start time.Duration
	// Connect is the time of the handshake, Took that of the whole visit.
	Connect, Took time.Duration
	Outcome       Outcome
	// Retransmits are segments sent again, of which the handshake's are SYNs.
	Retransmits int
	By          NodeID
	Err         error
}

// Browsers open connections to the VIP's web service at a steady rate, from each
// source in turn.
type Browsers struct {
	lab  *Lab
	cfg  BrowseConfig
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	mu     sync.Mutex
	visits []Visit
}

// maxVisits is how many connections are under way at the most; the turns that
// find no room are left out.
const maxVisits = 512

// maxLate is how many turns are made up for when this process did not run.
const maxLate = 10

// Browse starts opening connections, until Stop or the end of the lab.
func (l *Lab) Browse(cfg BrowseConfig) *Browsers {
	if cfg.Interval == 0 {
		cfg.Interval = 20 * time.Millisecond
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Limit == 0 {
		cfg.Limit = 10 * time.Minute
	}
	b := &Browsers{lab: l, cfg: cfg, stop: make(chan struct{})}
	b.wg.Go(func() { l.Client.Do(b.run) }) // one thread begins all connections
	l.onClose(b.Stop)
	return b
}

// Stop ends the browsing and waits for the connections that are under way.
func (b *Browsers) Stop() {
	b.once.Do(func() { close(b.stop) })
	b.wg.Wait()
}

// run begins a connection per interval. What it is late with it makes up for, up to
// maxLate of them.
func (b *Browsers) run() error {
	ticker := time.NewTicker(b.cfg.Interval)
	defer ticker.Stop()
	slots := make(chan struct{}, maxVisits)
	start := b.lab.Now()
	next := start
	for i := 0; ; {
		select {
		case <-b.stop:
			return nil
		case <-ticker.C:
		}
		now := b.lab.Now()
		if now-start >= b.cfg.Limit {
			return nil
		}
		next = max(next, now-maxLate*b.cfg.Interval)
		for ; next <= now; next += b.cfg.Interval {
			select {
			case slots <- struct{}{}:
			default:
				continue
			}
			source := i % len(b.lab.Sources)
			i++
			begun := b.lab.Now()
			conn, err := beginDial(b.lab.Sources[source], WebPort)
			b.wg.Go(func() {
				v := Visit{Source: source, Start: begun}
				b.lab.visit(&v, conn, err, b.cfg.Timeout)
				<-slots
				b.mu.Lock()
				b.visits = append(b.visits, v)
				b.mu.Unlock()
			})
		}
	}
}

// visit ends what beginDial began, asks for / and reads the answer.
func (l *Lab) visit(v *Visit, conn *os.File, err error, timeout time.Duration) {
	if err == nil {
		err = endDial(conn, timeout)
	}
	v.Connect = l.Now() - v.Start
	if err != nil {
		v.Took, v.Err, v.Outcome = v.Connect, err, Failed
		if outcome(err) == TimedOut {
			v.Outcome = TimedOut
		}
		return
	}
	defer conn.Close()
	body, err := get(conn, timeout)
	v.Took, v.Err, v.Outcome = l.Now()-v.Start, err, outcome(err)
	if n, err := retransmits(conn); err == nil {
		v.Retransmits = n
	} // else the connection is gone, and how is in the outcome
	if v.Outcome == OK {
		v.By = nodeID(bytes.TrimSpace(body))
	}
}

// get asks for / and returns the body.
func get(conn *os.File, timeout time.Duration) ([]byte, error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", VIP); err != nil {
		return nil, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}

// Visits returns a copy of the visits that have ended, in the order of their end.
func (b *Browsers) Visits() []Visit {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.visits)
}

// BrowseReport is what became of the connections that were begun in one step.
type BrowseReport struct {
	Begun, Failed, Reset, TimedOut int
	// Retransmitted needed a segment sent again, most often the SYN.
	Retransmitted int
	// Took is the time of the whole visit of those that went well.
	Took Spread
	// By counts the visits by the node that answered.
	By map[NodeID]int
	// FirstError is an example of what went wrong, nil if nothing did.
	FirstError error
}

// Report says what became of the connections begun in the window, as far as they
// have ended.
func (b *Browsers) Report(w Window) BrowseReport {
	return reportVisits(b.Visits(), w)
}

func reportVisits(visits []Visit, w Window) BrowseReport {
	r := BrowseReport{By: map[NodeID]int{}}
	var took []time.Duration
	for _, v := range visits {
		if v.Start < w.From || v.Start >= w.To {
			continue
		}
		r.Begun++
		if v.Retransmits > 0 {
			r.Retransmitted++
		}
		if r.FirstError == nil {
			r.FirstError = v.Err
		}
		switch v.Outcome {
		case OK:
			took = append(took, v.Took)
			r.By[v.By]++
		case Failed:
			r.Failed++
		case Reset:
			r.Reset++
		case TimedOut:
			r.TimedOut++
		}
	}
	r.Took = spread(took)
	return r
}
