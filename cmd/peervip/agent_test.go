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
// second ends it.
func TestSignals(t *testing.T) {
	errAgent := errors.New("node.interface: there is no interface eth9")
	const patience = 20 * time.Second
	for _, test := range []struct {
		name    string
		signals int
		result  error
		log     string // the last line's message
	}{
		{"none", 0, nil, "this node has left"},
		{"none, and a failure", 0, errAgent, ""},
		{"one", 1, nil, "this node has left"},
		{"one, and a failure", 1, errAgent, "handing over and leaving; a second signal ends at once"},
		{"two", 2, nil, "this node has ended without handing over"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var text bytes.Buffer
			signals := make(chan os.Signal, 2)
			err := untilSignalled(t.Context(), slog.New(slog.NewTextHandler(&text, nil)), signals,
				func(ctx context.Context, leave <-chan struct{}) error {
					if test.signals > 0 {
						signals <- unix.SIGTERM
						select {
						case <-leave:
						case <-time.After(patience):
							t.Error("the first signal was not told")
						}
						if ctx.Err() != nil {
							t.Error("the first signal ended the agent")
						}
					}
					if test.signals > 1 {
						signals <- unix.SIGINT
						select {
						case <-ctx.Done():
						case <-time.After(patience):
							t.Error("the second signal did not end the agent")
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
