package agent

import (
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// Litter is collected before the runtime does it, and nothing else is.
func TestSweeperCollectsLitter(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	cycles := func() uint64 {
		sample := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	s := newSweeper()
	s.sweep() // whatever there was
	for round := range 5 {
		before := cycles()
		s.sweep()
		if now := cycles(); now != before {
			t.Errorf("round %d: %d collections of nothing", round, now-before)
		}
		waste = make([]byte, litter)
		s.sweep()
		s.sweep()
		if now := cycles(); now != before+1 {
			t.Errorf("round %d: %d collections of litter, want one", round, now-before)
		}
	}
}

var waste []byte
