package link

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLateness(t *testing.T) {
	const us, ms = time.Microsecond, time.Millisecond
	var l lateness
	clock := func() time.Duration { return 7 * time.Second }
	for _, late := range []time.Duration{0, 100 * us, 101 * us, 2 * ms, 21 * ms, time.Second, 50 * ms} {
		l.record(late, 20*ms, clock)
	}
	want := Lateness{
		Counts: [6]uint64{2, 1, 1, 0, 2, 1},
		Sum:    100*us + 101*us + 2*ms + 21*ms + time.Second + 50*ms,
		Max:    time.Second, Skipped: 3, LastSkip: 50 * ms, LastSkipAt: 7 * time.Second,
	}
	if diff := cmp.Diff(want, l.read()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := l.takeRecent(); got != time.Second {
		t.Errorf("worst %v, want 1s", got)
	}
	l.record(3*ms, 20*ms, clock)
	if got := l.takeRecent(); got != 3*ms {
		t.Errorf("worst since then %v, want 3ms", got)
	}
	if got := l.takeRecent(); got != 0 {
		t.Errorf("worst of nothing %v", got)
	}
}
