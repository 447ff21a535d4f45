package gossip

import (
	"sync"
	"time"
)

// bucket rations something to so much a second and so much in a moment.
type bucket struct {
	rate, most float64

	mu   sync.Mutex
	left float64
	at   time.Time // of left; zero: it is full
}

// take takes n if that much is there.
func (b *bucket) take(now time.Time, n int) bool { return b.wait(now, n, false) == 0 }

// owe takes n, now or ahead of time, and says how long whoever wants it has to wait.
func (b *bucket) owe(now time.Time, n int) time.Duration { return b.wait(now, n, true) }

func (b *bucket) wait(now time.Time, n int, owing bool) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() {
		b.left = b.most
	} else {
		b.left = min(b.most, b.left+now.Sub(b.at).Seconds()*b.rate)
	}
	b.at = now
	lacks := float64(n) - b.left
	if lacks <= 0 || owing {
		b.left -= float64(n)
	}
	if lacks <= 0 {
		return 0
	}
	return time.Duration(lacks / b.rate * float64(time.Second))
}
