package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The first signal asks the agent to leave, and it goes on until it has; the
// second ends it. One for a restart does not count, however often it comes.
func TestSignals(t *testing.T) {
	errAgent := errors.New("node.interface: there is no interface eth9")
	const patience = 20 * time.Second
	const term, restart = unix.SIGTERM, unix.SIGUSR2
	const later = unix.SIGCONT // stands for a while
	for _, test := range []struct {
		name    string
		signals []os.Signal
		result  error
		log     string // the last line's message
	}{
		{"none", nil, nil, "this node has left"},
		{"none, and a failure", nil, errAgent, ""},
		{"one", []os.Signal{term}, nil, "this node has left"},
		{"one, and a failure", []os.Signal{term}, errAgent, "handing over and leaving; a second signal ends at once"},
		{"two", []os.Signal{term, later, unix.SIGINT}, nil, "this node has ended at once, by a second signal"},
		{"a restart", []os.Signal{restart}, errAgent, "handing over; open connections wait for the next start"},
		{"a restart twice", []os.Signal{restart, restart}, nil, "this node has left"},
		{"a restart, and then a leave", []os.Signal{restart, term}, errAgent, "handing over and leaving; a second signal ends at once"},
		{"two that are one, of timeout(1)", []os.Signal{term, term}, nil, "this node has left"},
		{"two that are one, and then a second", []os.Signal{unix.SIGINT, unix.SIGINT, later, unix.SIGINT}, nil, "this node has ended at once, by a second signal"},
		{"a reload", []os.Signal{unix.SIGHUP}, nil, "this node has left"},
		{"a reload of one that leaves", []os.Signal{term, unix.SIGHUP}, errAgent, "nothing is reloaded: this node is leaving"},
		{"a restart, and then two", []os.Signal{restart, term, later, term}, nil, "this node has ended at once, by a second signal"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var text bytes.Buffer
			var clock atomic.Int64
			sigs := &signals{got: make(chan os.Signal), now: func() time.Time { return time.Unix(clock.Load(), 0) }, exit: func(int) { t.Error("it ended hard") }, endBy: patience}
			err := sigs.until(t.Context(), slog.New(slog.NewTextHandler(&text, nil)), &serviceManager{},
				func(ctx context.Context, leave, restarts, reloads <-chan struct{}) error {
					told := func(what string, c <-chan struct{}) {
						t.Helper()
						select {
						case <-c:
						case <-time.After(patience):
							t.Errorf("%s was not told", what)
						}
					}
					terms, left := 0, clock.Load()
					for _, s := range test.signals {
						if s == later {
							clock.Add(1)
							continue
						}
						sigs.got <- s
						switch {
						case s == restart:
							told("the restart", restarts)
						case s == unix.SIGHUP && terms == 0:
							told("the reload", reloads)
						case s == unix.SIGHUP:
						case terms == 0:
							terms++
							told("the leave", leave)
							left = clock.Load()
						case clock.Load() > left:
							told("the end", ctx.Done())
							return test.result
						default: // the next one is taken when this one was
							sigs.got <- unix.SIGHUP
						}
						if ctx.Err() != nil {
							t.Errorf("%v ended the agent", s)
						}
					}
					return test.result
				})
			if !errors.Is(err, test.result) {
				t.Errorf("%v, want %v", err, test.result)
			}
			lines := strings.Split(strings.TrimSpace(text.String()), "\n")
			if last := lines[len(lines)-1]; !strings.Contains(last, test.log) {
				t.Errorf("the log ends with %q", last)
			}
		})
	}
}

// What keeps an agent from ending does not keep its process.
func TestSecondSignalEndsHard(t *testing.T) {
	hang, code := make(chan struct{}), make(chan int, 1)
	var clock atomic.Int64
	s := &signals{
		got: make(chan os.Signal), now: func() time.Time { return time.Unix(clock.Add(1), 0) }, endBy: time.Millisecond,
		exit: func(c int) { code <- c; close(hang) },
	}
	go func() {
		s.got <- unix.SIGTERM
		s.got <- unix.SIGTERM
	}()
	_ = s.until(t.Context(), slog.New(slog.DiscardHandler), &serviceManager{}, func(context.Context, <-chan struct{}, <-chan struct{}, <-chan struct{}) error {
		<-hang
		return nil
	})
	if c := <-code; c != exitFailure {
		t.Errorf("exit code %d", c)
	}
}
