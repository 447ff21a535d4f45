package e2e

import (
	"errors"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// keepalivedRuns is how often the port of the active node goes down.
const keepalivedRuns = 5

// keepalivedFigures are what the clients of an address under keepalived saw.
type keepalivedFigures struct {
	adverts  time.Duration
	silences spans
	missing  error
}

// BenchmarkKeepalived measures the relative that most people have, by the same
// clients on the same switch.
func BenchmarkKeepalived(b *testing.B) {
	for _, detect := range detections {
		b.Run(detect.adverts.String(), func(b *testing.B) {
			f := keepalivedFigures{adverts: detect.adverts}
			defer func() { bench.keepalived = append(bench.keepalived, f) }()
			l := benchLab(b, lab.Config{})
			k, err := l.StartKeepalived(detect.adverts)
			if errors.Is(err, lab.ErrNoKeepalived) {
				f.missing = err
				progress("%v: its figures are left out", err)
				return
			}
			check(b, err)
			talkers, err := l.Talk(lab.TalkConfig{Interval: lab.DefaultPace})
			check(b, err)
			for range keepalivedRuns {
				r, err := k.Failover(b.Context(), talkers)
				check(b, err)
				f.silences = append(f.silences, r.Affected.Longest.Max)
				progress("keepalived, adverts each %v: the clients silent for %s ms (the lab was late by %s ms)",
					detect.adverts, millis(r.Affected.Longest.Max), millis(r.Pause))
			}
		})
	}
}
