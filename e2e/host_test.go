package e2e

import (
	"errors"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hostWatch notices when the host of a virtual machine takes its processors away. Nothing
// that runs here can be on time then. On each processor a thread of the highest priority
// (SCHED_FIFO, 99) sleeps for a moment again and again: what keeps it from waking up is not
// on this machine.
type hostWatch struct {
	stop atomic.Bool
	done chan []time.Time
	cpus int
}

// hostTook is the lateness from which on the host is taken to have been away.
const hostTook = 20 * time.Millisecond

func watchHost(t *testing.T) *hostWatch {
	t.Helper()
	w := &hostWatch{done: make(chan []time.Time, runtime.NumCPU()), cpus: runtime.NumCPU()}
	ready := make(chan error, w.cpus)
	for cpu := range w.cpus {
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			var away []time.Time
			defer func() { w.done <- away }()
			ready <- toTheTop(cpu)
			for !w.stop.Load() {
				began := time.Now()
				_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(2 * time.Millisecond)}, nil)
				if time.Since(began) > hostTook {
					away = append(away, time.Now())
				}
			}
		}()
	}
	for range w.cpus {
		if err := <-ready; err != nil {
			t.Errorf("a thread that watches the host: %v", err)
		}
	}
	return w
}

// toTheTop gives this thread the highest priority of one processor.
func toTheTop(cpu int) error {
	var only unix.CPUSet
	only.Set(cpu)
	priority := int32(99)
	_, _, errno := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&priority)))
	if errno != 0 {
		return errno
	}
	return errors.Join(unix.SchedSetaffinity(0, &only))
}

// end returns how often the host had a processor for longer than hostTook. What it takes
// of several processors at once counts once.
func (w *hostWatch) end() (times uint64) {
	w.stop.Store(true)
	var away []time.Time
	for range w.cpus {
		away = append(away, <-w.done...)
	}
	slices.SortFunc(away, time.Time.Compare)
	var last time.Time
	for _, at := range away {
		if at.Sub(last) > hostTook {
			times++
		}
		last = at
	}
	return times
}
