package lab

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const ms = time.Millisecond

// steady is a trace of an ask every 10 ms, each answered by the node after 1 ms.
func steady(n int, by NodeID) Trace {
	t := make(Trace, n)
	for i := range t {
		t[i] = Ask{Sent: time.Duration(i) * 10 * ms, Delay: ms, By: by}
	}
	return t
}

// deaf takes away the answers to the asks from i to j, j not included.
func deaf(t Trace, i, j int) Trace {
	for k := i; k < j; k++ {
		t[k].By, t[k].Delay = 0, 0
	}
	return t
}

func TestLongestSilence(t *testing.T) {
	slow := steady(10, 1)
	slow[3].Delay = 300 * ms // but the next is answered at once
	paused := steady(10, 1)
	for i := 5; i < 10; i++ {
		paused[i].Sent += time.Second // the sender did not run
	}
	whole := Window{0, 100 * ms}
	for name, tt := range map[string]struct {
		trace Trace
		w     Window
		want  time.Duration
	}{
		"nothing asked":                       {nil, whole, 0},
		"all well: a round trip":              {steady(10, 1), whole, ms},
		"a gap, from the first lost ask on":   {deaf(steady(10, 1), 3, 6), whole, 31 * ms},
		"two gaps: the longer":                {deaf(deaf(steady(10, 1), 1, 2), 5, 8), whole, 31 * ms},
		"a gap that outlasts its window":      {deaf(steady(10, 1), 3, 6), Window{0, 40 * ms}, 31 * ms},
		"a gap that began before":             {deaf(steady(10, 1), 3, 6), Window{40 * ms, 100 * ms}, 21 * ms},
		"silent to the end":                   {deaf(steady(10, 1), 8, 10), whole, 70 * ms},
		"an answer late, the next in between": {slow, whole, 11 * ms},
		"the sender's pause is no silence":    {paused, Window{0, 2 * time.Second}, ms},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.trace.LongestSilence(tt.w, 150*ms); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// The definition, word for word, against the one pass backwards.
func TestLongestSilenceIsItsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		trace := steady(rapid.IntRange(0, 30).Draw(t, "asks"), 1)
		for i := range trace {
			trace[i].Delay = time.Duration(rapid.IntRange(0, 80).Draw(t, "delay")) * ms
			trace[i].By = NodeID(rapid.IntRange(0, 1).Draw(t, "by"))
		}
		w := Window{time.Duration(rapid.IntRange(0, 150).Draw(t, "from")) * ms, time.Duration(rapid.IntRange(150, 300).Draw(t, "to")) * ms}
		const end = 500 * ms
		var want time.Duration
		for i, asked := range trace {
			if asked.Sent < w.From || asked.Sent >= w.To {
				continue
			}
			heard := end
			for _, a := range trace[i:] {
				if a.By != 0 {
					heard = min(heard, a.Sent+a.Delay)
				}
			}
			want = max(want, heard-asked.Sent)
		}
		if got := trace.LongestSilence(w, end); got != want {
			t.Fatalf("got %v, want %v of %v", got, want, trace)
		}
	})
}

func TestReportTalkSplitsByWhoServed(t *testing.T) {
	hit := deaf(steady(100, 1), 50, 70)
	for i := 70; i < 100; i++ {
		hit[i].By = 2 // another took over
	}
	spared := steady(100, 2)
	spared[60].Again = 1
	got := reportTalk([]Trace{hit, spared}, Window{500 * ms, time.Second}, 1, 2*time.Second)
	want := TalkReport{
		Affected: Silences{Sources: 1, Noticed: 1, Longest: Spread{201 * ms, 201 * ms}},
		Others:   Silences{Sources: 1, Longest: Spread{ms, ms}},
		Sent:     100, Lost: 20,
		Twice: 1, Doubles: map[[2]NodeID]int{{2, 1}: 1},
		Answers: map[NodeID]int{2: 80},
		Sources: map[NodeID]int{2: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// The way back: the source that comes to node 1 is affected, too.
	back := append(steady(50, 2), steady(100, 1)[50:]...)
	if got := reportTalk([]Trace{back, spared}, Window{500 * ms, time.Second}, 1, 2*time.Second); got.Affected.Sources != 1 {
		t.Errorf("a source that came to the node is not among the affected: %+v", got)
	}
}

// What was asked a moment before the traces were read is not yet lost.
func TestReportTalkKnowsWhatIsUnderWay(t *testing.T) {
	trace := deaf(steady(100, 1), 98, 100)
	if got := reportTalk([]Trace{trace}, Window{0, time.Second}, 0, time.Second).Lost; got != 0 {
		t.Errorf("%d lost when read at once", got)
	}
	if got := reportTalk([]Trace{trace}, Window{0, time.Second}, 0, 2*time.Second).Lost; got != 2 {
		t.Errorf("%d lost when read later, want 2", got)
	}
}

func TestReportVisits(t *testing.T) {
	visits := []Visit{
		{Start: 5 * ms, Outcome: Failed}, // before the step
		{Start: 10 * ms, Took: 2 * ms, By: 1},
		{Start: 20 * ms, Took: 1010 * ms, By: 1, Retransmits: 1},
		{Start: 30 * ms, Outcome: Reset},
		{Start: 40 * ms, Outcome: TimedOut, Retransmits: 2},
		{Start: 50 * ms, Outcome: Failed},
		{Start: 60 * ms, Outcome: Failed}, // after it
	}
	got := reportVisits(visits, Window{10 * ms, 60 * ms})
	want := BrowseReport{
		Begun: 5, Failed: 1, Reset: 1, TimedOut: 1, Retransmitted: 2,
		Took: Spread{1010 * ms, 1010 * ms}, By: map[NodeID]int{1: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReportLives(t *testing.T) {
	w := Window{time.Second, 10 * time.Second}
	long := steady(1000, 1)
	stalls := deaf(steady(1000, 2), 200, 350)
	lives := []Life{
		{Opened: ms, By: 1, Trace: long},                                                      // fine
		{Opened: ms, By: 1, Trace: long, Ended: 12 * time.Second},                             // fine, ended by the measurement
		{Opened: ms, By: 1, Trace: long[:300], Ended: 3 * time.Second, How: Reset},            // reset
		{Opened: ms, By: 2, Trace: steady(300, 2), Ended: 3 * time.Second, How: Reset},        // reset, on another node
		{Opened: ms, By: 1, Trace: long[:50], Ended: 500 * ms, How: Reset},                    // reset before the step
		{Opened: 2 * time.Second, By: 1, Trace: nil, Ended: 3 * time.Second, How: Reset},      // opened in the step
		{Opened: ms, By: 2, Trace: stalls},                                                    // stalled, then went on
		{Opened: ms, By: 1, Trace: deaf(steady(500, 1), 499, 500)},                            // stalled for good
		{Opened: ms, By: 1, Trace: deaf(steady(500, 1), 499, 500), Ended: 4991 * ms, How: OK}, // asked, and the measurement ended
	}
	lives = append(lives,
		Life{Opened: ms, By: 1, Trace: deaf(steady(100, 1), 99, 100)}, // the last line, before the step, waits
		Life{Opened: ms, By: 1, Trace: long[:100]},                    // says nothing in the step
		Life{By: 1, Trace: Trace{{Sent: 0}}},                          // stalled before the step
	)
	got := reportLives(lives, w, 1, 11*time.Second)
	want := HoldReport{Held: 9, Reset: 2, Stalled: 3, OthersBroken: 2}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
