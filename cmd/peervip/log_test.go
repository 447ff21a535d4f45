package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/agent"
)

// In the journal a line has its priority, and no time: `journalctl -p warning` finds it,
// and shows one time.
func TestLogForTheJournal(t *testing.T) {
	var out bytes.Buffer
	log := newAgentLog(agent.Config{LogLevel: slog.LevelDebug, LogFormat: "text"}, &out, true)
	log.Debug("a", "n", 1)
	log.Info("b")
	log.With("service", "web").Warn("c")
	log.WithGroup("g").Error("d", "time", 7)
	want := "<7>level=DEBUG msg=a n=1\n<6>level=INFO msg=b\n<4>level=WARN msg=c service=web\n<3>level=ERROR msg=d g.time=7\n"
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	newAgentLog(agent.Config{LogFormat: "json"}, &out, true).Warn("c", "n", 1)
	line, ok := strings.CutPrefix(out.String(), "<4>")
	var fields map[string]any
	if err := json.Unmarshal([]byte(line), &fields); !ok || err != nil || fields["msg"] != "c" || fields["time"] != nil {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// Anywhere else it has its own time, and no priority.
func TestLogElsewhere(t *testing.T) {
	var out bytes.Buffer
	log := newAgentLog(agent.Config{LogFormat: "text"}, &out, false)
	log.Debug("too much")
	log.Info("b")
	if !strings.HasPrefix(out.String(), "time=") || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%q", out.String())
	}
	log.level.Set(slog.LevelDebug)
	log.Debug("now it is wanted")
	if !strings.Contains(out.String(), "now it is wanted") {
		t.Errorf("%q", out.String())
	}
}

func TestToJournal(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var s unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &s); err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[string]bool{
		fmt.Sprintf("%d:%d", s.Dev, s.Ino): true, fmt.Sprintf("%d:%d", s.Dev, s.Ino+1): false, "": false, "x": false,
	} {
		if got := toJournal(file, stream); got != want {
			t.Errorf("JOURNAL_STREAM=%s: %t", stream, got)
		}
	}
}

// A log that cannot be written is told of, until it can.
func TestLogIsLost(t *testing.T) {
	out := &fickleWriter{err: errors.New("broken pipe")}
	log := newAgentLog(agent.Config{LogFormat: "text"}, out, false)
	if log.err() != nil {
		t.Error("nothing was written yet")
	}
	log.Info("a")
	if err := log.err(); !errors.Is(err, out.err) {
		t.Error(err)
	}
	out.err = nil
	log.Info("b")
	if err := log.err(); err != nil {
		t.Error(err)
	}
}

type fickleWriter struct{ err error }

func (w *fickleWriter) Write(p []byte) (int, error) { return len(p), w.err }
