package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
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
		{"two", []os.Signal{term, unix.SIGINT}, nil, "this node has ended without handing over"},
		{"a restart", []os.Signal{restart}, errAgent, "handing over; open connections wait for the next start"},
		{"a restart twice", []os.Signal{restart, restart}, nil, "this node has left"},
		{"a restart, and then a leave", []os.Signal{restart, term}, errAgent, "handing over and leaving; a second signal ends at once"},
		{"a restart, and then two", []os.Signal{restart, term, term}, nil, "this node has ended without handing over"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var text bytes.Buffer
			signals := make(chan os.Signal, 2)
			err := untilSignalled(t.Context(), slog.New(slog.NewTextHandler(&text, nil)), signals,
				func(ctx context.Context, leave, restarts <-chan struct{}) error {
					terms := 0
					for _, s := range test.signals {
						signals <- s
						told := ctx.Done()
						if s == restart {
							told = restarts
						} else if terms++; terms == 1 {
							told = leave
						}
						select {
						case <-told:
						case <-time.After(patience):
							t.Errorf("%v was not told", s)
						}
						if terms < 2 && ctx.Err() != nil {
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
