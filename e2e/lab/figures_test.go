package lab

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// figuresOf is a run of all steps at a large lab, with wide numbers.
func figuresOf() Figures {
	f := Figures{Start: 2100 * ms, Rest: []Rest{{Node: "node-12", RSS: 23_000_000, Cores: 0.0042}}}
	for i := range MaxNodes {
		f.Nodes = append(f.Nodes, NodeName(i))
	}
	for _, name := range []string{"steady", "power-off", "rejoin", "drain", "resume"} {
		s := StepFigures{Name: name, Buckets: make([]int, MaxNodes), Clients: make([]int, MaxNodes)}
		s.Buckets[11], s.Clients[11] = 16384, 64
		s.Talk = TalkReport{Sent: 1_000_000, Others: Silences{64, 64, Spread{999 * ms, 12 * time.Second}}}
		if name != "steady" {
			s.Node = "node-12"
			s.Talk.Affected = s.Talk.Others
		}
		f.Steps = append(f.Steps, s)
	}
	return f
}

func TestTableFitsATerminal(t *testing.T) {
	text := figuresOf().Table()
	for line := range strings.Lines(text) {
		if len(line) > 80+1 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
	for _, want := range []string{"power-off", "node-12", "16384", "999 ms", "12.0 s", "23 MB resident, 0.42 % of a core"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestVerdict(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(f *Figures)
		want  string // in the error; "" for none
	}{
		"all well":                     {func(*Figures) {}, ""},
		"a silence after a power-off":  {func(f *Figures) { f.Steps[1].Talk.Lost = 7 }, ""},
		"resets after a power-off":     {func(f *Figures) { f.Steps[1].Hold.Reset = 7 }, ""},
		"lost while nothing happened":  {func(f *Figures) { f.Steps[0].Talk.Lost = 7 }, "steady: 7 of"},
		"reset while nothing happened": {func(f *Figures) { f.Steps[0].Hold.Reset = 7 }, "steady: 7 of"},
		"refused while nothing happened": {func(f *Figures) {
			f.Steps[0].Browse.Failed, f.Steps[0].Browse.FirstError = 7, errors.New("why")
		}, "why"},
		"answered twice in any step": {func(f *Figures) {
			f.Steps[3].Talk.Twice = 7
			f.Steps[3].Talk.Doubles = map[[2]NodeID]int{{2, Stranger}: 7}
		}, "drain: 7 datagrams were answered twice (node-2 then a stranger: 7)"},
	} {
		t.Run(name, func(t *testing.T) {
			f := figuresOf()
			tt.spoil(&f)
			err := f.Verdict()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("verdict %v, want %q", err, tt.want)
			}
		})
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0 ms", 140 * time.Microsecond: "0.1 ms", 9990 * time.Microsecond: "10.0 ms",
		41500 * time.Microsecond: "42 ms", 412 * ms: "412 ms", 1250 * ms: "1.2 s", 5 * time.Second: "5.0 s",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%v) is %q, want %q", d, got, want)
		}
	}
}
