package gossip

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkDetection measures how long after a power-off the last survivor knows
// of it, with the default Detection.
func BenchmarkDetection(b *testing.B) {
	for _, nodes := range []int{2, 3, 8} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			var took []time.Duration
			for range b.N {
				took = append(took, detect(b, nodes))
			}
			slices.Sort(took)
			ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
			b.ReportMetric(ms(took[0]), "min-ms")
			b.ReportMetric(ms(took[len(took)/2]), "median-ms")
			b.ReportMetric(ms(took[len(took)-1]), "max-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func detect(b *testing.B, count int) time.Duration {
	others := make([]int, count-1)
	for i := range others {
		others[i] = i + 1
	}
	w := newWire(b, others, []int{count})
	nodes := make([]*testNode, count)
	for i := range nodes {
		nodes[i] = w.startOn(i+1, quick)
	}
	meshed(b, nodes...)
	// The round of probes is at a different point each time.
	time.Sleep(time.Duration(time.Now().UnixNano()%100) * time.Millisecond)
	w.unplug(count)
	start := time.Now()
	victim := nodes[count-1]
	for _, n := range nodes[:count-1] {
		eventually(b, "the death is noticed", has(n.recorder, deadNamed(victim.cfg.Name)))
	}
	took := time.Since(start)
	for _, n := range nodes {
		n.end()
	}
	return took
}
