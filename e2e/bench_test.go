package e2e

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
)

// The benchmarks measure what `make bench` promises figures for, and leave them here
// for the one table that it prints at its end. None fails for being slow.
var bench struct {
	planned    plannedFigures
	deaths     []deathFigures
	keepalived []keepalivedFigures
	handoff    handoffFigures
	rest       []lab.Rest
}

// detection is how soon a silent node is dead, and the adverts of keepalived that
// compare with it.
type detection struct {
	name    string
	section lab.DetectSection
	adverts time.Duration
	// silence is what was promised for the clients of a node that dies.
	silence time.Duration
}

var detections = []detection{
	{"20 ms x 10, the default", lab.DetectSection{}, time.Second, 250 * time.Millisecond},
	{"5 ms x 8", lab.DetectSection{Interval: "5ms", Misses: 8}, 100 * time.Millisecond, 80 * time.Millisecond},
}

// measuredLab makes a lab with the program as it is delivered.
func measuredLab(b *testing.B, detect lab.DetectSection) *lab.Lab {
	b.Helper()
	binary, err := measured()
	if err != nil {
		b.Fatal(err)
	}
	return benchLab(b, lab.Config{Binary: binary, Agent: func(_ int, c *lab.AgentConfig) { c.Spec.Detect = detect }})
}

func benchLab(b *testing.B, c lab.Config) *lab.Lab {
	b.Helper()
	l, err := lab.New(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if b.Failed() {
			for _, n := range l.Nodes {
				fmt.Printf("log of %s:\n%s\n", n.Name, n.Log())
			}
		}
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

// startAll starts the agents and waits until they share everything.
func startAll(b *testing.B, l *lab.Lab) {
	b.Helper()
	for _, n := range l.Nodes {
		check(b, n.Start())
	}
	settled(b, l, l.Nodes...)
}

func settled(b *testing.B, l *lab.Lab, serving ...*lab.Node) {
	b.Helper()
	_, err := l.WaitSettled(b.Context(), serving...)
	check(b, err)
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// progress says what goes on: all of it takes minutes.
func progress(format string, args ...any) { fmt.Printf("# "+format+"\n", args...) }

// spans are measurements of one thing.
type spans []time.Duration

func (s spans) sorted() spans { return slices.Sorted(slices.Values(s)) }

func (s spans) median() time.Duration { return s.sorted()[len(s)/2] }

func (s spans) max() time.Duration { return slices.Max(s) }

// String is the least, the middle and the greatest one.
func (s spans) String() string {
	if len(s) == 0 {
		return "-"
	}
	o := s.sorted()
	return fmt.Sprintf("%s / %s / %s ms", millis(o[0]), millis(o[len(o)/2]), millis(o[len(o)-1]))
}

// millis has three digits or so.
func millis(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	digits := 0
	switch {
	case ms < 1:
		digits = 2
	case ms < 20:
		digits = 1
	}
	return strconv.FormatFloat(ms, 'f', digits, 64)
}

// report is the table. A row has a figure, what was measured, the target and whether
// it was met, a peer's figure and how many times ours that is; a title has one cell.
type report struct{ rows [][]string }

func (r *report) row(cells ...string) { r.rows = append(r.rows, cells) }

// title begins a group of rows.
func (r *report) title(format string, args ...any) { r.row(fmt.Sprintf(format, args...)) }

func (r *report) String() string {
	widths := make([]int, 6)
	for _, cells := range r.rows {
		for i, c := range cells {
			if len(cells) > 1 {
				widths[i] = max(widths[i], len(c))
			}
		}
	}
	var b strings.Builder
	for _, cells := range r.rows {
		line := ""
		for i, c := range cells {
			line += fmt.Sprintf("%-*s  ", widths[i], c)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

// met says whether the target was.
func met(ok bool) string {
	if ok {
		return "met"
	}
	return "MISSED"
}

// figureTable is what `make bench` ends with: whatever was measured, "" if nothing.
func figureTable() string {
	r := &report{}
	r.title("\nThree nodes on %d processors, Linux %s. Spans are least / middle / greatest.", runtime.NumCPU(), kernelRelease())
	r.row("figure", "measured", "target", "", "keepalived", "ratio")
	groups := []func(*report) bool{bench.planned.rows}
	for _, d := range bench.deaths {
		groups = append(groups, d.rows)
	}
	groups = append(groups, bench.handoff.rows, restRows)
	measured := false
	for _, rows := range groups {
		measured = rows(r) || measured
	}
	if !measured {
		return ""
	}
	return r.String()
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown release"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// stolen is for how long the host of this virtual machine has had the processors
// since its boot, in steps of 10 ms (proc_stat(5)).
func stolen() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 {
		return 0
	}
	ticks, _ := strconv.Atoi(fields[8])
	return time.Duration(ticks) * 10 * time.Millisecond
}

// The table's columns are in line, a missed target says so, and what was not measured
// is left out.
func TestFigureTable(t *testing.T) {
	saved := bench
	defer func() { bench = saved }()
	const ms = time.Millisecond
	bench.planned, bench.handoff, bench.rest = plannedFigures{}, handoffFigures{}, nil
	bench.deaths = []deathFigures{
		{"power-off", detections[0], spans{210 * ms, 200 * ms, 255 * ms}, spans{ms}, spans{0}},
		{"power-off", detections[1], spans{50 * ms}, spans{ms}, spans{0}},
	}
	bench.keepalived = []keepalivedFigures{
		{adverts: detections[0].adverts, silences: spans{3150 * ms}}, {adverts: detections[1].adverts, missing: lab.ErrNoKeepalived},
	}
	lines := strings.Split(figureTable(), "\n")
	column := func(words string, fields ...string) int {
		t.Helper()
		for _, line := range lines {
			if !strings.HasPrefix(strings.TrimSpace(line), words) {
				continue
			}
			at := -1
			for _, f := range fields {
				if at = strings.Index(line, f); at < 0 {
					t.Errorf("no %q in %q", f, line)
				}
			}
			return at
		}
		t.Errorf("no line %q", words)
		return -1
	}
	ratio := column("figure", "measured", "target", "keepalived", "ratio")
	if at := column("longest silence of its clients", "200 / 210 / 255 ms", "250 ms", "MISSED", "3150 / 3150 / 3150 ms", "15.0"); at != ratio {
		t.Errorf("the ratio is in column %d, its heading in %d", at, ratio)
	}
	text := strings.Join(lines, "\n")
	if !strings.Contains(text, lab.ErrNoKeepalived.Error()) || strings.Contains(text, "handoff") || strings.Contains(text, "rest") {
		t.Errorf("what was not measured:\n%s", text)
	}
	bench.deaths = nil
	if got := figureTable(); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}
