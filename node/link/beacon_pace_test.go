package link

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A step of a pace test: at the time the beacon thread is awake, and this leaves.
type step struct {
	at     time.Duration
	kicked bool
	cause  cause
	late   time.Duration
	next   time.Duration
}

func TestPace(t *testing.T) {
	const ms = time.Millisecond
	for name, steps := range map[string][]step{
		"regular beacons": {
			{0, false, regular, 0, 20 * ms},
			{19 * ms, false, notDue, 0, 20 * ms},
			{20 * ms, false, regular, 0, 40 * ms},
			{41 * ms, false, regular, 1 * ms, 60 * ms},
			{60 * ms, false, regular, 0, 80 * ms},
		},
		"what was missed is not made up for": {
			{0, false, regular, 0, 20 * ms},
			{70 * ms, false, regular, 50 * ms, 80 * ms},
			{80 * ms, false, regular, 0, 100 * ms},
			{200 * ms, false, regular, 100 * ms, 220 * ms},
		},
		"a kick goes at once and does not move the regular ones": {
			{0, false, regular, 0, 20 * ms},
			{1 * ms, true, extra, 0, 20 * ms},
			{20 * ms, false, regular, 0, 40 * ms},
			{39 * ms, true, extra, 0, 40 * ms},
			{40 * ms, false, regular, 0, 60 * ms},
		},
		"a pair of changes goes at once, the third waits": {
			{0, false, regular, 0, 20 * ms},
			{1 * ms, true, extra, 0, 20 * ms},
			{2 * ms, true, extra, 0, 20 * ms},
			{3 * ms, true, notDue, 0, 6 * ms},
			{6 * ms, true, extra, 0, 20 * ms},
			{7 * ms, true, notDue, 0, 11 * ms},
			{11 * ms, true, extra, 0, 20 * ms},
			{12 * ms, true, notDue, 0, 16 * ms},
			{16 * ms, true, extra, 0, 20 * ms},
			{17 * ms, true, notDue, 0, 20 * ms},
			{20 * ms, true, regular, 0, 40 * ms},
		},
		"the second of a pair is granted again after a rest": {
			{0, false, regular, 0, 20 * ms},
			{1 * ms, true, extra, 0, 20 * ms},
			{1 * ms, true, extra, 0, 20 * ms},
			{11 * ms, true, extra, 0, 20 * ms},
			{11 * ms, true, extra, 0, 20 * ms},
			{11 * ms, true, notDue, 0, 16 * ms},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPace(20*ms, 0)
			for _, want := range steps {
				got := want
				got.cause, got.late = p.due(want.at, want.kicked)
				got.next = p.next(want.kicked && got.cause == notDue)
				if diff := cmp.Diff(want, got, cmp.AllowUnexported(step{})); diff != "" {
					t.Errorf("at %v (-want +got):\n%s", want.at, diff)
				}
			}
		})
	}
}

// Whatever happens when: the thread is never told to wake in the past, a change never
// waits longer than a quarter of the interval, and no storm makes more beacons than the
// rate allows, in any window of time.
func TestPaceUnderStorms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		interval := time.Duration(rapid.IntRange(4, 100).Draw(t, "interval in ms")) * time.Millisecond
		gap := interval / extraPerInterval
		p := newPace(interval, 0)
		var now, kickedAt time.Duration
		kicked := false
		var left []time.Duration
		for range rapid.IntRange(1, 300).Draw(t, "turns") {
			if !kicked && rapid.Bool().Draw(t, "kick") {
				kicked, kickedAt = true, now
			}
			cause, _ := p.due(now, kicked)
			if cause != notDue {
				left = append(left, now)
				kicked = false
			} else if next := p.next(kicked); next <= now {
				t.Fatalf("at %v nothing is due, and the thread is told to wake at %v", now, next)
			} else if kicked && next-kickedAt > gap {
				t.Fatalf("a change of %v waits until %v, longer than %v", kickedAt, next, gap)
			}
			if rapid.Bool().Draw(t, "sleep as told") {
				now = max(now, p.next(kicked))
			} else {
				now += time.Duration(rapid.IntRange(0, int(interval)/2).Draw(t, "ns till woken"))
			}
		}
		for i, first := range left {
			for j, last := range left[i:] {
				window := last - first
				if most := int(window/interval) + 2 + int(window/gap) + extraBurst; j+1 > most {
					t.Fatalf("%d beacons in %v, want at most %d", j+1, window, most)
				}
			}
		}
	})
}
