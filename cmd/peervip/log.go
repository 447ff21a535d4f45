package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/agent"
)

// agentLog is the agent's log. It may be lost, when who has read it is gone; the agent
// lives on, and says so in its status.
type agentLog struct {
	*slog.Logger
	level slog.LevelVar // may change while the agent runs

	out  io.Writer
	mu   sync.Mutex
	lost error // why the last line was not written
}

// newAgentLog makes the log that the configuration asks for. For the journal of systemd
// each line begins with its priority, and the time is left out: the journal has one.
func newAgentLog(cfg agent.Config, out io.Writer, journal bool) *agentLog {
	l := &agentLog{out: out}
	l.level.Set(cfg.LogLevel)
	options := &slog.HandlerOptions{Level: &l.level}
	if journal {
		options.ReplaceAttr = withoutTime
	}
	handler := func(prefix string) slog.Handler {
		w := &logLine{l, prefix}
		if cfg.LogFormat == "json" {
			return slog.NewJSONHandler(w, options)
		}
		return slog.NewTextHandler(w, options)
	}
	if !journal {
		l.Logger = slog.New(handler(""))
		return l
	}
	var byPriority priorities
	for i := range byPriority {
		byPriority[i] = handler(fmt.Sprintf("<%d>", i))
	}
	l.Logger = slog.New(byPriority)
	return l
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
	return l.lost
}

// logLine writes one line of the log, with what goes before it.
type logLine struct {
	log    *agentLog
	prefix string
}

// Write says that all is well whatever comes of it: there is nowhere to complain to.
func (w *logLine) Write(line []byte) (int, error) {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	text := line
	if w.prefix != "" {
		text = append([]byte(w.prefix), line...) // in one write: the journal reads lines
	}
	_, w.log.lost = w.log.out.Write(text)
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
