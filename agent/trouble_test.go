package agent

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peervip/peervip/node"
)

// troubleLog follows troubles by a clock of its own, and returns what the log got.
type troubleLog struct {
	log  bytes.Buffer
	list troubles
	now  node.Time
}

func newTroubleLog() *troubleLog {
	l := &troubleLog{now: node.Time(time.Millisecond)}
	l.list = newTroubles(slog.New(slog.NewTextHandler(&l.log, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})))
	return l
}

// pass looks each second for so long, and returns the lines that came.
func (l *troubleLog) pass(d time.Duration, problems ...problem) []string {
	for end := l.now + d; l.now < end; l.now += node.Time(time.Second) {
		l.list.look(l.now, problems)
	}
	var lines []string
	for line := range strings.Lines(l.log.String()) {
		lines = append(lines, strings.TrimSpace(line))
	}
	l.log.Reset()
	return lines
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("logged (-want +got):\n%s", diff)
	}
}

// A problem is one line when it begins and one when it is over, whatever its numbers do
// meanwhile.
func TestTroubleBeginsLastsAndEnds(t *testing.T) {
	l := newTroubleLog()
	wantLines(t, l.pass(time.Second, problem{text: "3 beacons, the last 40ms late"}))
	wantLines(t, l.pass(time.Second, problem{text: "4 beacons, the last 41ms late"}),
		`level=WARN msg="4 beacons, the last 41ms late"`)
	for n := range 30 {
		wantLines(t, l.pass(time.Second, problem{text: strings.Repeat("1", n+1) + " beacons, the last 1.2s late"}))
	}
	wantLines(t, l.pass(4*time.Second))
	wantLines(t, l.pass(10*time.Second), `level=INFO msg="over: `+strings.Repeat("1", 30)+` beacons, the last 1.2s late" lasted=31s`)
}

// What passes at once is told by nobody, what comes and goes once a minute at the most,
// and if it has stayed, that it is there.
func TestTroubleThatComesAndGoes(t *testing.T) {
	l := newTroubleLog()
	p := problem{text: "the wire is silent"}
	wantLines(t, l.pass(time.Second, p))
	wantLines(t, l.pass(10*time.Second))
	lines := 0
	for range 60 { // 12 minutes
		lines += len(l.pass(4*time.Second, p))
		lines += len(l.pass(8 * time.Second))
	}
	if lines < 2 || lines > 24 {
		t.Errorf("%d lines in 12 minutes", lines)
	}
	l.pass(2 * time.Minute)
	wantLines(t, l.pass(10*time.Second, p), `level=WARN msg="the wire is silent"`)
	wantLines(t, l.pass(8*time.Second), `level=INFO msg="over: the wire is silent" lasted=9s`)
	if got := l.pass(90*time.Second, p); len(got) != 1 || !strings.Contains(got[0], "WARN") {
		t.Errorf("it came back to stay: logged %q", got)
	}
}

// Why a node does not serve is news at first, and a reason to act when it lasts.
func TestWaitingIsTold(t *testing.T) {
	l := newTroubleLog()
	first, then := problem{text: "not serving yet: a", waits: true}, problem{text: "not serving yet: b", waits: true}
	wantLines(t, l.pass(3*time.Second, first), `level=INFO msg="not serving yet: a"`)
	wantLines(t, l.pass(20*time.Second, then),
		`level=INFO msg="over: not serving yet: a" lasted=2s`, `level=INFO msg="not serving yet: b"`,
		`level=WARN msg="not serving yet: b" for=10s`)
	wantLines(t, l.pass(time.Second), `level=INFO msg="over: not serving yet: b" lasted=19s`)
	wantLines(t, l.pass(time.Hour))
}

// What others log is only remembered, and what is over is forgotten.
func TestTroubleThatIsLoggedElsewhere(t *testing.T) {
	l := newTroubleLog()
	wantLines(t, l.pass(time.Minute, problem{text: "web-2 is silent or dead", logged: true}))
	wantLines(t, l.pass(2*time.Minute))
	if n := len(l.list.open); n != 0 {
		t.Errorf("%d are remembered", n)
	}
}

func TestGist(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"beacons leave late, the last time by 20ms: busy", "beacons leave late, the last time by 1m3s: busy", true},
		{"web-2 is dead", "web-3 is dead", false},
		{"192.0.2.11 is silent", "192.0.2.12 is silent", false},
		{"full (80%, 12 of 15)", "full (81%, 13 of 15)", true},
		{"spec.buckets: 1024 here, 512 there", "spec.buckets: 512 here, 1024 there", true},
	} {
		if same := gist(c.a) == gist(c.b); same != c.same {
			t.Errorf("%q and %q: the same %t", c.a, c.b, same)
		}
	}
}
