package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
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

const keepTimePriority = 1

// keepTime ties the calling goroutine to its thread, which ends with it, and has the
// kernel run that before all that is not real-time, if it may: what measures takes
// little time, but must have it at once. Where a real-time class is refused it is
// late at times, and the figures say so.
func keepTime() {
	runtime.LockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	unix.SchedSetAttr(0, &unix.SchedAttr{
		Policy: unix.SCHED_RR, Priority: keepTimePriority, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}, 0)
}

const (
	// enoughProcs is how many threads may run Go code at once, at least. One that comes
	// back from the kernel waits for its turn among them, for up to 10 ms if all are
	// taken; whose turn it is on a processor is better left to the kernel.
	enoughProcs = 16
	// enoughMemory is what this process may use before garbage is collected.
	enoughMemory = 1 << 30
)

// tameRuntime is for the whole process, once. A thread that keeps time must not come
// back from the kernel while the runtime looks at its goroutine: it loops until that is
// over (casgstatus in proc.go), and if it has pushed the one that looks from the
// processor, both wait for each other until the kernel throttles real-time threads, for
// 950 ms, which passed for outages. So the runtime's monitor, which looks often, goes
// before them, and garbage, which seldom matters here, is left to lie.
var tameRuntime = sync.OnceValue(func() error {
	runtime.GOMAXPROCS(max(enoughProcs, runtime.GOMAXPROCS(0)))
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(enoughMemory)
	// The kernel lists threads in the order of their creation (next_tid in
	// fs/proc/base.c), and the monitor is the second of all (main in proc.go).
	tasks, err := os.Open("/proc/self/task")
	if err != nil {
		return fmt.Errorf("looking for the runtime's monitor: %w", err)
	}
	defer tasks.Close()
	threads, err := tasks.Readdirnames(2)
	if err != nil || len(threads) < 2 {
		return fmt.Errorf("looking for the runtime's monitor: threads %v, %w", threads, err)
	}
	monitor, err := strconv.Atoi(threads[1])
	if err != nil {
		return fmt.Errorf("looking for the runtime's monitor: %w", err)
	}
	err = unix.SchedSetAttr(monitor, &unix.SchedAttr{
		Policy: unix.SCHED_RR, Priority: keepTimePriority + 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}, 0)
	if err != nil && !errors.Is(err, unix.EPERM) { // then those that keep time are refused it too
		return fmt.Errorf("favouring the runtime's monitor: %w", err)
	}
	return nil
})

// nap sleeps in the kernel: a timer of Go's runtime would fire on another thread.
func nap(d time.Duration) {
	if d > 0 {
		ts := unix.NsecToTimespec(int64(d))
		unix.Nanosleep(&ts, nil)
	}
}
