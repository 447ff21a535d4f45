package link

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestBellSleepsUntilItsTime(t *testing.T) {
	var b bell
	until := b.monotonic() + 30*time.Millisecond
	for b.monotonic() < until {
		b.sleep(0, until) // a signal may end it early
	}
	for _, past := range []time.Duration{b.monotonic() - 1, 0, -1, -time.Hour} { // the clock begins at the boot
		b.sleep(0, past) // must return
	}
}

func TestBellThatRingsEndsTheSleep(t *testing.T) {
	var b bell
	never := b.monotonic() + time.Hour
	b.ring(ringKick)
	b.sleep(0, never) // it rang before

	if !b.hush(ringKick) || b.hush(ringKick) {
		t.Error("hush does not say whether it rang")
	}
	b.ring(ringKick)
	asleep := make(chan struct{})
	go func() {
		defer close(asleep)
		for b.rings.Load() == ringKick { // a ring that was seen does not end it, another does
			b.sleep(ringKick, never)
		}
	}()
	time.Sleep(10 * time.Millisecond)
	b.ring(ringKick)
	b.ring(ringStop)
	<-asleep
	if got := b.rings.Load(); got != ringKick|ringStop {
		t.Errorf("rings %b", got)
	}
}

// No ring is lost, whoever rings when.
func TestBellLosesNoRing(t *testing.T) {
	var b bell
	var heard atomic.Uint64
	never := b.monotonic() + time.Hour
	var sleeper, ringers sync.WaitGroup
	sleeper.Go(func() {
		for {
			rings := b.rings.Load()
			switch {
			case rings&ringStop != 0:
				return
			case b.hush(ringKick):
				heard.Add(1)
			default:
				b.sleep(rings, never)
			}
		}
	})
	for range 4 {
		ringers.Go(func() {
			for range 2000 {
				before := heard.Load()
				b.ring(ringKick)
				for heard.Load() == before { // would not end if the ring were lost
					time.Sleep(time.Microsecond)
				}
			}
		})
	}
	ringers.Wait()
	b.ring(ringStop)
	sleeper.Wait()
}
