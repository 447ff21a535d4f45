package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/node"
)

// agentLog is the agent's log. It may be lost, when who has read it is gone; the agent
// lives on, and says so in its status.
type agentLog struct {
	*slog.Logger
	level slog.LevelVar // may change while the agent runs

	out    io.Writer
	direct *slog.Logger // writes at once

	mu      sync.Mutex
	lost    error       // why the last line was not written
	queue   chan []byte // nil: lines are written at once
	dropped int         // lines that found no room there, and have not been told of
}

const (
	// logRoom is how many lines wait for whoever reads the log. It may read no more (a
	// journald that is stopped), and the agent must not wait for it: without its loop this
	// node loses its lease.
	logRoom = 1000
	// logEnd bounds the wait for it at the end.
	logEnd = time.Second
)

// newAgentLog makes the log that the configuration asks for. For the journal of systemd
// each line begins with its priority, and the time is left out: the journal has one.
func newAgentLog(cfg agent.Config, out io.Writer, journal bool) *agentLog {
	l := &agentLog{out: out}
	l.level.Set(cfg.LogLevel)
	options := &slog.HandlerOptions{Level: &l.level}
	if journal {
		options.ReplaceAttr = withoutTime
	}
	handler := func(w io.Writer) slog.Handler {
		if cfg.LogFormat == "json" {
			return slog.NewJSONHandler(w, options)
		}
		return slog.NewTextHandler(w, options)
	}
	if !journal {
		l.Logger, l.direct = slog.New(handler(&logLine{l, "", l.put})), slog.New(handler(&logLine{l, "", l.write}))
		return l
	}
	var byPriority, direct priorities
	for i := range byPriority {
		prefix := fmt.Sprintf("<%d>", i)
		byPriority[i], direct[i] = handler(&logLine{l, prefix, l.put}), handler(&logLine{l, prefix, l.write})
	}
	l.Logger, l.direct = slog.New(byPriority), slog.New(direct)
	return l
}

// background has lines written by a goroutine of their own from now on, until end, which
// waits for it, but not for ever.
func (l *agentLog) background() (end func()) {
	queue, done := make(chan []byte, logRoom), make(chan struct{})
	l.mu.Lock()
	l.queue = queue
	l.mu.Unlock()
	go func() {
		defer close(done)
		for line := range queue {
			l.write(line)
			l.mu.Lock()
			dropped := l.dropped
			l.dropped = 0
			l.mu.Unlock()
			if dropped > 0 {
				l.direct.Warn("lines of this log are missing here: whoever reads it did not", "lines", dropped)
			}
		}
	}()
	return sync.OnceFunc(func() {
		l.mu.Lock()
		l.queue = nil
		close(queue)
		l.mu.Unlock()
		select {
		case <-done:
		case <-time.After(logEnd):
		}
	})
}

// put has the line written, now or soon.
func (l *agentLog) put(line []byte) {
	l.mu.Lock()
	queue := l.queue
	if queue != nil {
		select {
		case queue <- line:
		default:
			l.dropped++
		}
	}
	l.mu.Unlock()
	if queue == nil {
		l.write(line)
	}
}

// write writes the line, however long that takes.
func (l *agentLog) write(line []byte) {
	_, err := l.out.Write(line)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = err
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// err is why the log is lost; nil: it is not.
func (l *agentLog) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped > 0 {
		return fmt.Errorf("whoever reads it does not, and %s dropped by now", node.Count(l.dropped, "lines"))
	}
	return l.lost
}

// logLine takes one line of the log, with what goes before it.
type logLine struct {
	log    *agentLog
	prefix string
	put    func(line []byte)
}

// Write says that all is well whatever comes of it: there is nowhere to complain to.
func (w *logLine) Write(line []byte) (int, error) {
	w.put(append([]byte(w.prefix), line...)) // as one: the journal reads lines
	return len(line), nil
}

// priorities are the log's handlers by the priority of syslog(3), which the journal
// takes from the beginning of a line (sd-daemon(3)).
type priorities [8]slog.Handler

func priorityOf(level slog.Level) int {
	switch {
	case level >= slog.LevelError:
		return 3
	case level >= slog.LevelWarn:
		return 4
	case level >= slog.LevelInfo:
		return 6
	default:
		return 7
	}
}

func (p priorities) Enabled(ctx context.Context, level slog.Level) bool {
	return p[0].Enabled(ctx, level)
}

func (p priorities) Handle(ctx context.Context, r slog.Record) error {
	return p[priorityOf(r.Level)].Handle(ctx, r)
}

func (p priorities) WithAttrs(attrs []slog.Attr) slog.Handler {
	for i, h := range p {
		p[i] = h.WithAttrs(attrs)
	}
	return p
}

func (p priorities) WithGroup(name string) slog.Handler {
	for i, h := range p {
		p[i] = h.WithGroup(name)
	}
	return p
}

// toJournal says whether the file is the one that systemd has connected to the journal
// (systemd.exec(5), JOURNAL_STREAM): a shell or a pipe may have taken its place.
func toJournal(file *os.File, stream string) bool {
	var s unix.Stat_t
	if stream == "" || unix.Fstat(int(file.Fd()), &s) != nil {
		return false
	}
	return stream == fmt.Sprintf("%d:%d", s.Dev, s.Ino)
}
