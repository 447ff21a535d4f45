package e2e

import (
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// BenchmarkScenario prints what the clients see of a power-off, a rejoin, a drain
// and a resume of one of three nodes, and what the agents use.
func BenchmarkScenario(b *testing.B) {
	binary, err := measured()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		f := scenario(b, binary)
		fmt.Printf("\n%s", f.Table()) // b.Log would cut it short
		if err := f.Verdict(); err != nil {
			b.Error(err)
		}
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		b.ReportMetric(ms(f.Start), "start-ms")
		for _, s := range f.Steps {
			b.ReportMetric(ms(s.Talk.Affected.Longest.Max), s.Name+"-silence-ms")
			b.ReportMetric(ms(s.Talk.Others.Longest.Max), s.Name+"-others-ms")
		}
		var rss, cores float64
		for _, r := range f.Rest {
			rss, cores = max(rss, float64(r.RSS)/1e6), max(cores, r.Cores)
		}
		b.ReportMetric(rss, "agent-MB")
		b.ReportMetric(cores*100, "agent-CPU-%")
	}
}

func scenario(b *testing.B, binary string) lab.Figures {
	b.Helper()
	l, err := lab.New(b.Context(), lab.Config{Binary: binary})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	}()
	f, err := l.Scenario(b.Context(), lab.Options{Out: io.Discard})
	if err != nil {
		b.Fatal(err)
	}
	return f
}
