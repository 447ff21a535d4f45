package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// plannedRounds is how often each change is made.
const plannedRounds = 4

// plannedFigures are what the clients saw of planned changes of one node.
type plannedFigures struct {
	changes []lab.StepFigures
	stolen  time.Duration
}

// BenchmarkPlannedChanges drains, resumes and rejoins one node of three while the
// clients do as much as the figures are promised for. It joins after a power-off,
// which is not counted here.
func BenchmarkPlannedChanges(b *testing.B) {
	l := measuredLab(b, lab.DetectSection{})
	startAll(b, l)
	crowd, err := l.Gather(b.Context(), lab.Load{})
	check(b, err)
	victim, survivors := l.Nodes[1], []*lab.Node{l.Nodes[0], l.Nodes[2]}
	command := func(name string) func() error {
		return func() error {
			_, err := victim.Peervip(b.Context(), name)
			return err
		}
	}
	var steps []lab.Step
	before := stolen()
	for range plannedRounds {
		for _, st := range []struct {
			name    string
			do      func() error
			serving []*lab.Node
		}{
			{"drain", command("drain"), survivors},
			{"resume", command("resume"), l.Nodes},
			{"power-off", victim.PowerOff, survivors},
			{"join", func() error {
				if err := victim.PowerOn(); err != nil {
					return err
				}
				return victim.Start()
			}, l.Nodes},
		} {
			step, err := crowd.Step(b.Context(), st.name, victim, st.do, st.serving)
			if err != nil {
				b.Fatalf("%s: %v", st.name, err)
			}
			if st.name != "power-off" {
				steps = append(steps, step)
			}
		}
	}
	crowd.Stop()
	for _, st := range steps {
		f := crowd.Report(st)
		bench.planned.changes = append(bench.planned.changes, f)
		progress("%-7s %s: %d broken, %d moved, %d failed, %d SYNs again, silent for %s ms (the lab was late by %s ms), %d twice",
			f.Name, l.Nodes[1].Name, broken(f), f.Hold.Moved, failed(f), f.TCP.SYNRetransmits, millis(silence(f)), millis(f.Talk.Pause), f.Talk.Twice)
		if f.Talk.Twice > 0 {
			b.Errorf("%s: %d datagrams were answered twice: %v", f.Name, f.Talk.Twice, f.Talk.Doubles)
		}
	}
	bench.planned.stolen = stolen() - before
}

func broken(f lab.StepFigures) int { return f.Hold.Reset + f.Hold.Stalled }

func failed(f lab.StepFigures) int { return f.Browse.Failed + f.Browse.Reset + f.Browse.TimedOut }

// silence is the longest of any source.
func silence(f lab.StepFigures) time.Duration {
	return max(f.Talk.Affected.Longest.Max, f.Talk.Others.Longest.Max)
}

func (p plannedFigures) rows(r *report) (measured bool) {
	if p.changes == nil {
		return false
	}
	r.title("drain, resume and join of one of three, each %d times, under load: %d connections talked on,", plannedRounds, lab.DefaultOpen)
	r.title("%d new ones a second, %d clients with a datagram each %v", lab.DefaultRate, lab.MaxSources, lab.DefaultPace)
	var sum struct{ held, broken, moved, begun, failed, sent, twice int }
	var silences, late spans
	again, worst := 0, 0
	for _, f := range p.changes {
		sum.held += f.Hold.Held
		sum.broken += broken(f)
		sum.moved += f.Hold.Moved
		sum.begun += f.Browse.Begun
		sum.failed += failed(f)
		sum.sent += f.Talk.Sent
		sum.twice += f.Talk.Twice
		again, worst = again+f.TCP.SYNRetransmits, max(worst, f.TCP.SYNRetransmits)
		silences, late = append(silences, silence(f)), append(late, f.Talk.Pause)
	}
	none := func(figure string, n, of int) {
		r.row("  "+figure, fmt.Sprintf("%d of %d", n, of), "0", met(n == 0))
	}
	none("open connections broken", sum.broken, sum.held)
	none("open connections moved", sum.moved, sum.held)
	none("new connections failed", sum.failed, sum.begun)
	r.row("  SYNs sent again", fmt.Sprintf("%d in all, %d in one change", again, worst), "2 in one change", met(worst <= 2))
	r.row("  longest silence of a source", silences.String(), "100 ms", met(silences.max() < 100*time.Millisecond))
	none("datagrams answered twice", sum.twice, sum.sent)
	r.row("  the lab itself was late by", late.String())
	if p.stolen > 0 {
		r.row("  processors were the host's for", strconv.Itoa(int(p.stolen.Milliseconds()))+" ms")
	}
	return true
}
