package link

import "time"

// pace decides when beacons leave: one each interval, and an extra one at a change
// (a kick). Its times are those of one monotonic clock.
//
// Extra beacons do not move the regular ones. They go at once, but for a storm of
// changes: extraBurst of them may follow each other closely, since changes come in
// pairs (the view first, a commit later the claims, and others wait for both); more
// leave at the rate of extraPerInterval. A regular beacon carries what is pending
// too, so that at most 1 + extraPerInterval leave in an interval, and extraBurst on top.
//
// A regular one comes up to a fifth of the interval early, as vary says. Otherwise nodes
// whose beacons leave at the same moment would go on so for hours, and what one says
// through another would always just miss it (TestPairsThatAreDeaf in package node).
type pace struct {
	interval time.Duration
	vary     func(limit time.Duration) time.Duration // a random time below the limit; nil: 0
	tick     time.Duration                           // when the next regular beacon is due
	paid     time.Duration                           // until when the extra beacons sent so far use up their rate
}

const (
	extraPerInterval = 4
	extraBurst       = 2
)

// cause is why a beacon leaves.
type cause uint8

const (
	notDue cause = iota
	regular
	extra
)

func newPace(interval, start time.Duration) pace { return pace{interval: interval, tick: start} }

func (p *pace) gap() time.Duration { return p.interval / extraPerInterval }

// extraAt is the earliest time at which an extra beacon may leave.
func (p *pace) extraAt() time.Duration { return p.paid - (extraBurst-1)*p.gap() }

// due says whether a beacon has to leave now, and a regular one how late it is.
// Regular ones that were missed meanwhile are not made up for: they would tell
// nothing new.
func (p *pace) due(now time.Duration, kicked bool) (cause, time.Duration) {
	if late := now - p.tick; late >= 0 {
		p.tick += (late/p.interval + 1) * p.interval
		if p.vary != nil {
			p.tick -= p.vary(p.interval / 5)
		}
		return regular, late
	}
	if kicked && now >= p.extraAt() {
		p.paid = max(p.paid, now) + p.gap()
		return extra, 0
	}
	return notDue, 0
}

// next is when due has to be asked again.
func (p *pace) next(kicked bool) time.Duration {
	if kicked {
		return min(p.tick, p.extraAt())
	}
	return p.tick
}
