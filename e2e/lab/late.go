package lab

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Pause is a stretch in which the lab itself was late: with what it had to send, or
// with an answer that one of its services had to give. Other processes had the
// processor, or the garbage collector.
type Pause struct{ At, Length time.Duration }

// minPause is the shortest that is noted.
const minPause = 2 * time.Millisecond

// lateness is when the lab itself was late. What it measures can be no better.
type lateness struct {
	mu     sync.Mutex
	pauses []Pause
}

func (l *lateness) note(at, length time.Duration) {
	if length < minPause {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pauses = append(l.pauses, Pause{at, length})
}

// longest is the longest pause that reaches into the window.
func (l *lateness) longest(w Window) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var longest time.Duration
	for _, p := range l.pauses {
		if p.At < w.To && p.At+p.Length >= w.From {
			longest = max(longest, p.Length)
		}
	}
	return longest
}

const (
	// timeNice and timeSlice, in nanoseconds, are the best that a thread may have among
	// ordinary ones: a greater share than all others, and a wake-up soon rather than a
	// long run after it (Linux 6.12; ignored before).
	timeNice  = -20
	timeSlice = 100_000
	// enoughProcs is how many threads may run Go code at once, at least. One that comes
	// back from the kernel waits for its turn among them, for up to 10 ms if all are
	// taken; whose turn it is on a processor is better left to the kernel.
	enoughProcs = 16
	// gcPercent is how much garbage there may be before it is collected, in percent of
	// what is no garbage. The runtime stops all threads twice in a collection.
	gcPercent = 400
)

// keepTime ties the calling goroutine to its thread, which ends with it, and has the
// kernel run that before others, if it may: what measures takes little time, but must
// have it at once. Where that is refused it is late at times, and the figures say so.
//
// Before others, but not in a real-time class: in Go's runtime, and in that of its race
// detector, a thread loops until another one is done that it may have pushed from its
// processor (casgstatus in proc.go, SpinMutex in sanitizer_mutex.h). In SCHED_RR that
// stopped the nodes of a lab for seconds, which passed for outages. SCHED_DEADLINE has
// a limit, but what a lab took of it the agents could not have.
func keepTime() {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	unix.SchedSetAttr(0, &unix.SchedAttr{
		Policy: unix.SCHED_NORMAL, Nice: timeNice, Runtime: timeSlice, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}, 0)
}

// tameRuntime keeps Go's runtime out of the way of threads that keep time.
var tameRuntime = sync.OnceFunc(func() {
	runtime.GOMAXPROCS(max(enoughProcs, runtime.GOMAXPROCS(0)))
	debug.SetGCPercent(gcPercent)
})

// nap sleeps in the kernel: a timer of Go's runtime would fire on another thread.
func nap(d time.Duration) {
	if d > 0 {
		ts := unix.NsecToTimespec(int64(d))
		unix.Nanosleep(&ts, nil)
	}
}
