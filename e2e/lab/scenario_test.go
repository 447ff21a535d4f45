package lab

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// script is a program in place of peervip whose agent does as it says.
func script(t *testing.T, agent string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "peervip")
	text := "#!/bin/sh\ncase $1 in keygen) echo a key;; agent) " + agent + ";; *) exit 1;; esac\n"
	must(t, os.WriteFile(file, []byte(text), 0o755))
	return file
}

// mine are the named namespaces of this process.
func mine(t *testing.T) []string {
	prefix, _, _ := strings.Cut(UniquePrefix(), "-")
	return named(t, prefix+"-")
}

func TestAnInterruptedScenarioLeavesNothingBehind(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	var out strings.Builder
	done := make(chan error)
	go func() {
		done <- Run(ctx, Options{Binary: script(t, "exec sleep 60"), Nodes: 2, Clients: 2, Keep: true, Out: &out})
	}()
	must(t, Poll(patience(t), func() error {
		if len(mine(t)) < 4 {
			return os.ErrNotExist
		}
		return nil
	}))
	time.Sleep(200 * ms)
	interrupt()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("an interrupted scenario ended with %v", err)
	}
	if left := mine(t); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAnAgentThatEndsFailsTheScenarioAtOnce(t *testing.T) {
	begun := time.Now()
	err := Run(t.Context(), Options{Binary: script(t, "echo no such key >&2; exit 1"), Nodes: 2, Clients: 2, Out: &strings.Builder{}})
	if err == nil || !strings.Contains(err.Error(), "no such key") {
		t.Errorf("the error does not hold what the agent said: %v", err)
	}
	if took := time.Since(begun); took > settleLimit {
		t.Errorf("it took %v", took)
	}
	if left := mine(t); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := Run(t.Context(), Options{Nodes: 1}); err == nil {
		t.Error("one node alone shares an address")
	}
	if err := Run(t.Context(), Options{Nodes: MaxNodes + 1}); err == nil {
		t.Error("too many nodes")
	}
}
