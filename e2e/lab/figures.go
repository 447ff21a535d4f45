package lab

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Figures are what the scenario measured.
type Figures struct {
	// Nodes are the nodes' names, in order.
	Nodes []string
	// Start is the time from the start of all agents until they had settled.
	Start time.Duration
	Steps []StepFigures
	Rest  []Rest
}

// StepFigures are what the clients saw of one step.
type StepFigures struct {
	Name string
	// Node is whom the step befell, "" for nobody.
	Node string
	// Settled is the time from the step's beginning until the agents had settled.
	// It is known by asking them one after the other, so to about 0.1 s.
	Settled time.Duration
	// Buckets and Clients are each node's share at the end of the step, in the
	// order of Figures.Nodes; Clients is measured by who answered.
	Buckets, Clients []int
	Talk             TalkReport
	Browse           BrowseReport
	Hold             HoldReport
	// TCP is what the clients' kernel had to do.
	TCP TCPCounts
}

// Rest is what an agent uses while no client talks.
type Rest struct {
	Node string
	// RSS is resident memory in bytes.
	RSS int64
	// Cores is the share of one processor core.
	Cores float64
}

func (s *scenario) figures(start time.Duration, rest []Rest) Figures {
	f := Figures{Start: start, Rest: rest}
	for _, n := range s.Nodes {
		f.Nodes = append(f.Nodes, n.Name)
	}
	for _, st := range s.steps {
		f.Steps = append(f.Steps, s.crowd.Report(st))
	}
	return f
}

// serves is how many buckets of all services the node takes new flows for.
func serves(n NodeStatus) int {
	sum := 0
	for service := range n.Services {
		sum += n.Serves(service)
	}
	return sum
}

// Verdict is an error that names what must not be: a datagram answered twice in
// any step, for no step is a split; a datagram lost or a connection broken while
// nothing happened.
func (f Figures) Verdict() error {
	for _, s := range f.Steps {
		if s.Talk.Twice > 0 {
			return fmt.Errorf("%s: %d datagrams were answered twice (%s)", s.Name, s.Talk.Twice, f.doubles(s.Talk))
		}
		if s.Node != "" {
			continue
		}
		b, h := s.Browse, s.Hold
		switch {
		case s.Talk.Lost > 0:
			return fmt.Errorf("%s: %d of %d datagrams were lost", s.Name, s.Talk.Lost, s.Talk.Sent)
		case b.Failed+b.Reset+b.TimedOut > 0:
			return fmt.Errorf("%s: %d of %d connections failed: %w", s.Name, b.Failed+b.Reset+b.TimedOut, b.Begun, b.FirstError)
		case h.Reset+h.Stalled > 0:
			return fmt.Errorf("%s: %d of %d open connections broke", s.Name, h.Reset+h.Stalled, h.Held)
		}
	}
	return nil
}

// doubles says who answered twice.
func (f Figures) doubles(r TalkReport) string {
	name := func(id NodeID) string {
		if i := int(id) - 1; i < len(f.Nodes) {
			return f.Nodes[i]
		}
		return "a stranger"
	}
	var who []string
	for pair, count := range r.Doubles {
		who = append(who, fmt.Sprintf("%s then %s: %d", name(pair[0]), name(pair[1]), count))
	}
	return strings.Join(who, ", ")
}

// Table is the one table of all figures, a column for each step, at most 80
// columns wide.
func (f Figures) Table() string {
	var t table
	t.row("measured at the clients", f.each(func(s StepFigures) string { return s.Name })...)
	for i, n := range f.Nodes {
		t.row(first(i, "buckets of   ")+n, f.each(func(s StepFigures) string { return strconv.Itoa(s.Buckets[i]) })...)
	}
	for i, n := range f.Nodes {
		t.row(first(i, "clients of   ")+n, f.each(func(s StepFigures) string { return strconv.Itoa(s.Clients[i]) })...)
	}
	count := func(label string, n func(StepFigures) int) {
		t.row(label, f.each(func(s StepFigures) string { return strconv.Itoa(n(s)) })...)
	}
	silence := func(title string, of func(TalkReport) Silences) {
		figure := func(label string, show func(Silences) string) {
			t.row(label, f.each(func(s StepFigures) string {
				if si := of(s.Talk); si.Sources > 0 {
					return show(si)
				}
				return "-"
			})...)
		}
		figure(title+"clients", func(s Silences) string { return strconv.Itoa(s.Sources) })
		figure("    silence, median", func(s Silences) string { return short(s.Longest.Median) })
		figure("    silence, longest", func(s Silences) string { return short(s.Longest.Max) })
		figure(fmt.Sprintf("    noticed (> %s)", short(Noticed)), func(s Silences) string { return strconv.Itoa(s.Noticed) })
	}
	silence("the node's ", func(r TalkReport) Silences { return r.Affected })
	silence("the others' ", func(r TalkReport) Silences { return r.Others })
	count("datagrams sent", func(s StepFigures) int { return s.Talk.Sent })
	count("    lost", func(s StepFigures) int { return s.Talk.Lost })
	count("    answered twice", func(s StepFigures) int { return s.Talk.Twice })
	count("connections begun", func(s StepFigures) int { return s.Browse.Begun })
	count("    failed", func(s StepFigures) int { return s.Browse.Failed })
	count("    reset", func(s StepFigures) int { return s.Browse.Reset })
	count("    timed out", func(s StepFigures) int { return s.Browse.TimedOut })
	count("    SYNs sent again", func(s StepFigures) int { return s.TCP.SYNRetransmits })
	t.row("    time, median", f.each(func(s StepFigures) string { return short(s.Browse.Took.Median) })...)
	t.row("    time, longest", f.each(func(s StepFigures) string { return short(s.Browse.Took.Max) })...)
	count("connections held open", func(s StepFigures) int { return s.Hold.Held })
	count("    reset", func(s StepFigures) int { return s.Hold.Reset })
	count("    moved", func(s StepFigures) int { return s.Hold.Moved })
	count(fmt.Sprintf("    stalled (> %s)", short(StalledAfter)), func(s StepFigures) int { return s.Hold.Stalled })
	t.row("agents settled after", f.each(func(s StepFigures) string {
		if s.Node == "" {
			return "-"
		}
		return short(s.Settled)
	})...)
	t.row("lab itself was late", f.each(func(s StepFigures) string { return short(s.Talk.Pause) })...)
	fmt.Fprintf(&t.b, "%d agents from start to settled: %s\n", len(f.Nodes), short(f.Start))
	for _, r := range f.Rest {
		fmt.Fprintf(&t.b, "%s at rest: %d MB resident, %.2f %% of a core\n", r.Node, r.RSS/1e6, r.Cores*100)
	}
	return t.b.String()
}

func (f Figures) each(show func(StepFigures) string) []string {
	cells := make([]string, len(f.Steps))
	for i, s := range f.Steps {
		cells[i] = show(s)
	}
	return cells
}

// first is the title on the first of some rows, and as many spaces on the others.
func first(i int, title string) string {
	if i == 0 {
		return title
	}
	return strings.Repeat(" ", len(title))
}

// table is text in columns: labels to the left, figures to the right.
type table struct{ b strings.Builder }

func (t *table) row(label string, cells ...string) {
	fmt.Fprintf(&t.b, "%-24s", label)
	for _, c := range cells {
		fmt.Fprintf(&t.b, " %10s", c)
	}
	t.b.WriteByte('\n')
}

// short writes a duration with two or three significant digits.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	default:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
}
