package link

import (
	"sync/atomic"
	"time"
)

// LatenessBounds are the upper ends of the buckets of Lateness.Counts; the last
// bucket has none.
var LatenessBounds = [...]time.Duration{
	100 * time.Microsecond, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond,
}

// Lateness is how much later than due the thread that sends beacons awoke. A value
// of it is a copy; it does not change.
type Lateness struct {
	// Counts has the regular beacons by their lateness, see LatenessBounds.
	Counts [len(LatenessBounds) + 1]uint64
	// Sum is the lateness of them all together.
	Sum time.Duration
	// Max is the worst.
	Max time.Duration
	// Skipped counts those that were late by more than an interval, so that at least
	// one beacon did not leave at all.
	Skipped uint64
	// LastSkip is how late the last of those was, and LastSkipAt when it left, by
	// BeaconConfig.Now; zero if there was none.
	LastSkip   time.Duration
	LastSkipAt time.Duration
}

// lateness is what one thread writes and all others may read at any time. What they
// read together may come from before and after one beacon.
type lateness struct {
	counts               [len(LatenessBounds) + 1]atomic.Uint64
	sum, max, recent     atomic.Int64
	skipped              atomic.Uint64
	lastSkip, lastSkipAt atomic.Int64
}

// record takes one wake-up. The clock is read only if it was later than the interval.
func (l *lateness) record(late, interval time.Duration, clock func() time.Duration) {
	bucket := 0
	for bucket < len(LatenessBounds) && late > LatenessBounds[bucket] {
		bucket++
	}
	l.counts[bucket].Add(1)
	l.sum.Add(int64(late))
	l.max.Store(max(l.max.Load(), int64(late)))
	for worst := l.recent.Load(); int64(late) > worst && !l.recent.CompareAndSwap(worst, int64(late)); {
		worst = l.recent.Load()
	}
	if late > interval {
		l.lastSkip.Store(int64(late))
		l.lastSkipAt.Store(int64(clock()))
		l.skipped.Add(1) // last: who sees it counted finds its amount
	}
}

func (l *lateness) read() Lateness {
	r := Lateness{Skipped: l.skipped.Load()}
	r.Sum, r.Max = time.Duration(l.sum.Load()), time.Duration(l.max.Load())
	r.LastSkip, r.LastSkipAt = time.Duration(l.lastSkip.Load()), time.Duration(l.lastSkipAt.Load())
	for i := range l.counts {
		r.Counts[i] = l.counts[i].Load()
	}
	return r
}

// takeRecent returns the worst since the last call.
func (l *lateness) takeRecent() time.Duration { return time.Duration(l.recent.Swap(0)) }
