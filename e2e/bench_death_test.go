package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// deathRuns is how often a node dies, in each way and at each detection.
const deathRuns = 7

// othersSilence is what was promised for the clients of the nodes that live.
const othersSilence = 30 * time.Millisecond

// deathFigures are the longest silences of each death of a node.
type deathFigures struct {
	how              string
	detect           detection
	its, others, lab spans
}

// BenchmarkDeaths takes the power from one node of three, and kills its agent, at the
// default detection and at a fast one.
func BenchmarkDeaths(b *testing.B) {
	for _, detect := range detections {
		b.Run(detect.name, func(b *testing.B) {
			l := measuredLab(b, detect.section)
			startAll(b, l)
			talkers, err := l.Talk(lab.TalkConfig{Interval: lab.DefaultPace})
			check(b, err)
			pause(b, time.Second)
			victim, survivors := l.Nodes[1], []*lab.Node{l.Nodes[0], l.Nodes[2]}
			for _, way := range []struct {
				how  string
				die  func() error
				back func() error
			}{
				{"power-off", victim.PowerOff, victim.PowerOn},
				{"kill", victim.Kill, func() error { return nil }},
			} {
				f := deathFigures{how: way.how, detect: detect}
				for range deathRuns {
					w := lab.Window{From: l.Now()}
					check(b, way.die())
					settled(b, l, survivors...)
					pause(b, 700*time.Millisecond)
					w.To = l.Now()
					r := talkers.Report(w, victim)
					f.its = append(f.its, r.Affected.Longest.Max)
					f.others = append(f.others, r.Others.Longest.Max)
					f.lab = append(f.lab, r.Pause)
					progress("%-9s at %s: its clients silent for %s ms, the others' for %s ms, %d answered twice (the lab was late by %s ms)",
						way.how, detect.name, millis(r.Affected.Longest.Max), millis(r.Others.Longest.Max), r.Twice, millis(r.Pause))
					if r.Twice > 0 {
						b.Errorf("%s: %d datagrams were answered twice: %v", way.how, r.Twice, r.Doubles)
					}
					check(b, way.back())
					check(b, victim.Start())
					settled(b, l, l.Nodes...)
					pause(b, time.Second)
				}
				bench.deaths = append(bench.deaths, f)
			}
		})
	}
}

func pause(b *testing.B, d time.Duration) {
	b.Helper()
	select {
	case <-time.After(d):
	case <-b.Context().Done():
		b.Fatal(b.Context().Err())
	}
}

func (f deathFigures) rows(r *report) (measured bool) {
	if len(f.its) == 0 {
		return false
	}
	r.title("%s of one of three at %s, %d times (keepalived: adverts each %v)", f.how, f.detect.name, len(f.its), f.detect.adverts)
	peer, ratio := "not measured", ""
	for _, k := range bench.keepalived {
		if k.adverts == f.detect.adverts {
			peer, ratio = k.compared(f.its)
		}
	}
	r.row("  longest silence of its clients", f.its.String(), millis(f.detect.silence)+" ms", met(f.its.max() <= f.detect.silence), peer, ratio)
	r.row("  of the others' clients", f.others.String(), millis(othersSilence)+" ms", met(f.others.max() < othersSilence))
	r.row("  the lab itself was late by", f.lab.String())
	return true
}

// compared is the peer's figure, and how many times ours it is by the medians.
func (k keepalivedFigures) compared(ours spans) (peer, ratio string) {
	if k.missing != nil {
		return k.missing.Error(), ""
	}
	return k.silences.String(), fmt.Sprintf("%.1f", float64(k.silences.median())/float64(ours.median()))
}
