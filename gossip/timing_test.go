package gossip

import (
	"testing"
	"time"
)

func TestTimingFollowsFromDetection(t *testing.T) {
	want := timing{probe: 100 * time.Millisecond, probeTimeout: 40 * time.Millisecond, gossip: 50 * time.Millisecond}
	if got := timingFor(DefaultDetection); got != want {
		t.Errorf("timing is %+v, want the measured %+v", got, want)
	}
	for _, d := range []time.Duration{minDetection, maxDetection} {
		got := timingFor(d)
		if got.gossip <= 0 || got.probeTimeout >= got.probe {
			t.Errorf("%s: %+v: the timeout must be below the interval", d, got)
		}
	}
}
