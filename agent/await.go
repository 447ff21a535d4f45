package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// awaitPeriod is how often an interface or an address that is not there is looked for.
const awaitPeriod = 250 * time.Millisecond

// await is the agent before it can take part: its interface, or the node's own address,
// is not there yet, or the host does not take the VIPs. It answers at the control socket,
// says so, and looks again, without end.
type await struct {
	cfg     Config
	opts    Options
	mac     link.ClusterMAC
	started time.Time
	boot    uint64
	left    chan struct{} // closed when the operator has it end
	leaving sync.Once

	mu    sync.Mutex
	why   string     // not empty once it waits
	leave node.Leave // with left: how, as was said last
}

func newAwait(cfg Config, opts Options, mac link.ClusterMAC) *await {
	return &await{cfg: cfg, opts: opts, mac: mac, started: time.Now(), boot: newNonce(), left: make(chan struct{})}
}

// errLeft ends the wait when the node is to leave, which it may do at once.
var errLeft = errors.New("this node has left before it took part")

// wait returns nil when ready does, and errLeft when the agent is to end. Why it waits
// is told by waiting, each time that it changes.
func (w *await) wait(ctx context.Context, ready func() error, waiting func(why string)) error {
	tick := time.NewTicker(awaitPeriod)
	defer tick.Stop()
	said := ""
	for {
		if w.opts.Alive != nil {
			w.opts.Alive()
		}
		err := ready()
		if err == nil {
			return nil
		}
		w.mu.Lock()
		w.why = err.Error()
		w.mu.Unlock()
		// Which other interfaces the host has may change with each look while it boots.
		brief := err.Error()
		if absent, ok := errors.AsType[*link.AbsentError](err); ok {
			brief = absent.What
		}
		if brief != said {
			said = brief
			waiting(err.Error())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.opts.Leave:
			return errLeft
		case <-w.opts.Restart:
			w.mu.Lock()
			w.leave.KeepFlows = true
			w.mu.Unlock()
			return errLeft
		case <-w.left:
			return errLeft
		case <-tick.C:
		}
	}
}

// ask keeps what an operator wants, whatever this agent does just now: a life in the
// cluster that is ending may not hear of it any more, and the next one does.
func (w *await) ask(leave node.Leave) {
	w.mu.Lock()
	w.leave = node.Leave{KeepFlows: leave.KeepFlows, Now: w.leave.Now || leave.Now}
	w.mu.Unlock()
	w.leaving.Do(func() { close(w.left) })
}

// asked is the leave that was asked for. With KeepFlows what an earlier life has left is
// to stay for the next one.
func (w *await) asked() node.Leave {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leave
}

// handler answers at the control socket meanwhile.
func (w *await) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(rw http.ResponseWriter, _ *http.Request) { reply(rw, http.StatusOK, w.status()) })
	mux.HandleFunc("POST /v1/leave", func(rw http.ResponseWriter, r *http.Request) {
		var q LeaveRequest
		if r.ContentLength != 0 && !readBody(rw, r, &q) {
			return
		}
		w.ask(node.Leave{KeepFlows: q.KeepFlows, Now: q.Now})
		reply(rw, http.StatusOK, Reply{Node: w.cfg.Name})
	})
	mux.HandleFunc("/", func(rw http.ResponseWriter, _ *http.Request) {
		reply(rw, http.StatusConflict, Reply{Error: w.reason()})
	})
	return mux
}

func (w *await) reason() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why == "" {
		return "not serving yet: this node is starting"
	}
	return "not serving yet: " + w.why
}

// status is that of a node that knows of nobody yet.
func (w *await) status() Status {
	l := newLoop(w.cfg, slog.New(slog.DiscardHandler), memory{})
	s := w.cfg.statusOf(l.core.Snapshot())
	s.Version, s.Boot, s.MAC = w.opts.Version, fmt.Sprintf("%016x", w.boot), w.mac.String()
	s.Uptime = time.Since(w.started).Seconds()
	for i := range s.Nodes {
		s.Nodes[i].Unknown = true // no check has run
		if !w.cfg.Address.IsValid() {
			s.Nodes[i].Address = "" // it has none yet
		}
	}
	s.Problems = []string{w.reason()}
	return s
}
