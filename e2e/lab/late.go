package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
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

const (
	// timePriority is of threads that keep time.
	timePriority = 1
	// enoughProcs is how many threads may run Go code at once, at least. One that comes
	// back from the kernel waits for its turn among them, for up to 10 ms if all are
	// taken; whose turn it is on a processor is better left to the kernel.
	enoughProcs = 16
	// enoughGarbage is what lies about, in bytes, before it is collected.
	enoughGarbage = 256 << 20
)

// timekeepers are the threads that keep time.
var timekeepers = struct {
	mu        sync.Mutex
	threads   map[int]bool
	collected uint64 // what had been allocated when garbage was collected
}{threads: map[int]bool{}}

// keepTime ties the calling goroutine to its thread, which ends with it, and has the
// kernel run that before all that is not real-time, if it may: what measures takes
// little time, but must have it at once. Where a real-time class is refused it is
// late at times, and the figures say so. It returns what is to be called at the end.
func keepTime() (over func()) {
	runtime.LockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	thread := unix.Gettid()
	timekeepers.mu.Lock()
	defer timekeepers.mu.Unlock()
	realTime(thread, timePriority)
	timekeepers.threads[thread] = true
	return func() {
		timekeepers.mu.Lock()
		defer timekeepers.mu.Unlock()
		delete(timekeepers.threads, thread)
	}
}

func realTime(thread, priority int) error {
	return unix.SchedSetAttr(thread, &unix.SchedAttr{
		Policy: unix.SCHED_RR, Priority: uint32(priority), Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}, 0)
}

// notRealTime leaves a thread the best of the normal classes.
func notRealTime(thread int) error {
	return unix.SchedSetAttr(thread, &unix.SchedAttr{
		Policy: unix.SCHED_NORMAL, Nice: -20, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}, 0)
}

// tameRuntime is for the whole process, once. A thread that keeps time must not come
// back from the kernel while the runtime looks at its goroutine: it loops until that is
// over (casgstatus in proc.go), and if it has pushed the one that looks from the
// processor, both wait for each other until the kernel throttles real-time threads, for
// 950 ms, which passed for outages. So the runtime's monitor, which looks often, goes
// before them; and while garbage is collected, see there, they are not real-time.
var tameRuntime = sync.OnceValue(func() error {
	runtime.GOMAXPROCS(max(enoughProcs, runtime.GOMAXPROCS(0)))
	debug.SetGCPercent(-1)
	// The kernel lists threads in the order of their creation (next_tid in
	// fs/proc/base.c), and the monitor is the second of all (main in proc.go).
	tasks, err := os.Open("/proc/self/task")
	if err != nil {
		return fmt.Errorf("looking for the runtime's monitor: %w", err)
	}
	defer tasks.Close()
	threads, err := tasks.Readdirnames(2)
	monitor := 0
	if err == nil {
		monitor, err = strconv.Atoi(threads[len(threads)-1])
	}
	if err != nil {
		return fmt.Errorf("looking for the runtime's monitor: %w", err)
	}
	if err := realTime(monitor, timePriority+1); err != nil && !errors.Is(err, unix.EPERM) { // then nobody is real-time
		return fmt.Errorf("favouring the runtime's monitor: %w", err)
	}
	return nil
})

// collectGarbage does so when there is much of it, in the place of the runtime, until
// it is told to stop.
func collectGarbage(stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			collectOnce()
		}
	}
}

func collectOnce() {
	t := &timekeepers
	t.mu.Lock()
	defer t.mu.Unlock()
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(allocated)
	if allocated[0].Value.Uint64() < t.collected+enoughGarbage {
		return
	}
	t.collected = allocated[0].Value.Uint64()
	for thread := range t.threads {
		notRealTime(thread)
	}
	runtime.GC()
	for thread := range t.threads {
		realTime(thread, timePriority)
	}
}

// nap sleeps in the kernel: a timer of Go's runtime would fire on another thread.
func nap(d time.Duration) {
	if d > 0 {
		ts := unix.NsecToTimespec(int64(d))
		unix.Nanosleep(&ts, nil)
	}
}
