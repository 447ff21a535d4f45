package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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

// A log that nobody reads (a journald that is stopped) holds nobody up: the loop logs, and
// without the loop the node loses its lease. What finds no room is counted.
func TestALogThatNobodyReadsHoldsNobodyUp(t *testing.T) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	log := newAgentLog(agent.Config{LogFormat: "text"}, to, true)
	end := log.background()
	const lines = 5000
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		for range lines {
			log.Info(strings.Repeat("x", 100))
		}
	}()
	select {
	case <-logged:
	case <-time.After(10 * time.Second):
		t.Fatal("who logs waits for who reads")
	}
	if err := log.err(); err == nil || !strings.Contains(err.Error(), "lines dropped by now") {
		t.Errorf("%v", err)
	}
	began := time.Now()
	end() // nor is the end held up
	if took := time.Since(began); took > 10*logEnd {
		t.Errorf("the end took %v", took)
	}
	// When somebody reads again, all lines are there, or are told to be missing.
	there, missing := 0, 0
	if err := from.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for text := bufio.NewScanner(from); there+missing < lines && text.Scan(); {
		if strings.Contains(text.Text(), "xxx") {
			there++
		}
		if _, n, ok := strings.Cut(text.Text(), `<4>level=WARN msg="lines of this log are missing here: whoever reads it did not" lines=`); ok {
			dropped, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			missing += dropped
		}
	}
	if there+missing != lines || missing == 0 {
		t.Errorf("%d lines are there, and %d are said to be missing", there, missing)
	}
}

// In the order in which they were logged, and all of them when the log ends.
func TestLogInTheBackground(t *testing.T) {
	var out bytes.Buffer
	log := newAgentLog(agent.Config{LogFormat: "text"}, &out, true)
	end := log.background()
	var want strings.Builder
	for i := range 500 {
		log.Info("a", "n", i)
		fmt.Fprintf(&want, "<6>level=INFO msg=a n=%d\n", i)
	}
	end()
	log.Info("after")
	if got := out.String(); got != want.String()+"<6>level=INFO msg=after\n" {
		t.Errorf("%s", got)
	}
}
