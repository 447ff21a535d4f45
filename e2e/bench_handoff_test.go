package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

const (
	handoffRounds = 10
	restFor       = 30 * time.Second
)

// handoffFigures are what the kernels did when a third of the buckets moved.
type handoffFigures struct {
	moved []int
	word  spans // from the word to the last commit
	taken spans // from the first request to it
	gaps  spans // of all buckets
}

// BenchmarkRestAndHandoff measures the agents while no client talks, and then how
// fast a third of the buckets goes and comes.
func BenchmarkRestAndHandoff(b *testing.B) {
	l := measuredLab(b, lab.DetectSection{})
	startAll(b, l)
	pause(b, 3*time.Second)
	progress("the agents at rest, %v", restFor)
	var err error
	bench.rest, err = l.MeasureRest(b.Context(), restFor)
	check(b, err)

	node, others := l.Nodes[1], []*lab.Node{l.Nodes[0], l.Nodes[2]}
	changes := []struct {
		want    string
		serving []*lab.Node
	}{{"drain", others}, {"resume", l.Nodes}}
	meter := l.NewHandoffMeter()
	for _, change := range changes {
		check(b, meter.Rehearse(b.Context(), node, change.want, change.serving))
	}
	for range handoffRounds {
		for _, change := range changes {
			pause(b, time.Second)
			h, err := meter.Handoff(b.Context(), node, change.want, change.serving)
			check(b, err)
			if h.Moved == 0 {
				b.Fatalf("%s: no bucket moved", change.want)
			}
			gaps := spans(h.Gaps)
			bench.handoff.moved = append(bench.handoff.moved, h.Moved)
			bench.handoff.word = append(bench.handoff.word, h.Taken)
			bench.handoff.taken = append(bench.handoff.taken, h.Taken-h.Asked)
			bench.handoff.gaps = append(bench.handoff.gaps, gaps...)
			progress("%-6s %d buckets: asked for after %s ms, first given up after %s ms, last taken after %s ms, without an owner for %s",
				change.want, h.Moved, millis(h.Asked), millis(h.Released), millis(h.Taken), gaps)
		}
	}
}

func (h handoffFigures) rows(r *report) (measured bool) {
	if h.taken == nil {
		return false
	}
	r.title("handoff of %d buckets, %d times", h.moved[0], len(h.moved))
	const target = 10 * time.Millisecond
	r.row("  from the first request to the last commit", h.taken.String(), millis(target)+" ms", met(h.taken.max() < target))
	r.row("  from the operator's word to the last commit", h.word.String())
	r.row("  a bucket without an owner", h.gaps.String())
	return true
}

func restRows(r *report) (measured bool) {
	rest := bench.rest
	if rest == nil {
		return false
	}
	r.title("an agent at rest at the default detection, over %v", restFor)
	var cores, megabytes float64
	for _, n := range rest {
		cores, megabytes = max(cores, n.Cores*100), max(megabytes, float64(n.RSS)/1e6)
	}
	r.row("  of one core, the busiest of three", fmt.Sprintf("%.2f %%", cores), "2 %", met(cores < 2))
	r.row("  resident memory, the largest", strconv.Itoa(int(megabytes))+" MB", "40 MB", met(megabytes < 40))
	return true
}
