package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What TuneProcess sets.
const (
	processNice  = -15
	processProcs = 8
	spareThreads = 16
	monitorSlack = 20 * time.Millisecond // small against any detection time that works
)

// TuneProcess makes the whole process fit to keep time, at no great cost. The class of
// the thread that sends is not enough, since it runs under Go's runtime:
//
//   - The runtime stops all threads twice in a collection of garbage, and a thread that
//     comes back from the kernel waits for one of GOMAXPROCS tokens. Whoever holds it up
//     then may be without a CPU himself, behind all other programs of a busy machine:
//     beacons late by 50 ms and more were measured. So all threads get a better nice
//     value, and the session a better weight, if the process leads one (with
//     CONFIG_SCHED_AUTOGROUP the kernel weighs sessions, and nice values only within
//     them, unless the cgroup has a weight of its own: CPUWeight= of systemd). And
//     GOMAXPROCS becomes at least 8, so that there is a token to be had.
//   - While a thread is in a system call, the runtime's monitor (sysmon in proc.go)
//     looks after it every 20 us for up to 10 ms: with one that sleeps there 50 times a
//     second, 3 to 4 % of a core. So the monitor gets a timer slack, by which the kernel
//     may put off a sleeper until it is awake anyway. What it does can wait: to take
//     back the token of a thread that stays in the kernel, while there are others, and
//     to interrupt a goroutine that runs on. The other threads get none: they sleep for
//     3 us when they take over a goroutine from a thread that has gone into the kernel,
//     and each step of a handoff would wait for the slack; and what they sleep for until
//     a timer is due must not be late. A thread inherits its slack from the one that
//     starts it, so there are spare threads before the monitor could start any.
//
// It belongs at the start of the program, before Send. Threads that come later inherit
// the nice value, and so do child processes. An error says what was refused; the rest is done.
func TuneProcess() error {
	runtime.GOMAXPROCS(max(processProcs, runtime.GOMAXPROCS(0)))
	startThreads(spareThreads)
	nice := strconv.Itoa(processNice)
	errs := []error{
		eachThread("setting the nice value of this process to "+nice, func(thread int) error {
			return unix.Setpriority(unix.PRIO_PROCESS, thread, processNice)
		}),
		relaxMonitor(),
	}
	if session, err := unix.Getsid(0); err == nil && session == os.Getpid() {
		err := setAutogroup(nice)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without it
			errs = append(errs, fmt.Errorf("giving this session a better weight: %w", err))
		}
	}
	return errors.Join(errs...)
}

// setAutogroup gives the scheduler's group of this session the nice value. Without
// CAP_SYS_ADMIN the kernel takes one write in a tenth of a second, of all processes
// together (kernel/sched/autogroup.c): a write that comes too soon is repeated.
func setAutogroup(nice string) error {
	const file, tries, pause = "/proc/self/autogroup", 5, 110 * time.Millisecond
	for try := 1; ; try++ {
		now, err := os.ReadFile(file)
		if err != nil || strings.HasSuffix(strings.TrimSpace(string(now)), " nice "+nice) {
			return err
		}
		if err = os.WriteFile(file, []byte(nice), 0); !errors.Is(err, unix.EAGAIN) || try == tries {
			return err
		}
		time.Sleep(pause)
	}
}

// startThreads makes sure that the runtime has so many threads, which it never ends.
func startThreads(n int) {
	var running, all sync.WaitGroup
	running.Add(n)
	for range n {
		all.Go(func() {
			runtime.LockOSThread() // else one thread could run them all
			defer runtime.UnlockOSThread()
			running.Done()
			running.Wait()
		})
	}
	all.Wait()
}

// relaxMonitor gives the runtime's monitor its slack. The monitor is the second of all
// threads (main in proc.go), and the kernel lists them in the order of their creation
// (next_tid in fs/proc/base.c).
func relaxMonitor() error {
	doing := "setting the timer slack of Go's monitor to " + monitorSlack.String()
	tasks, err := os.Open("/proc/self/task")
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer tasks.Close()
	threads, err := tasks.Readdirnames(2)
	if err == nil {
		err = os.WriteFile(fmt.Sprintf("/proc/%s/timerslack_ns", threads[len(threads)-1]), strconv.AppendInt(nil, int64(monitorSlack), 10), 0)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// eachThread does something to every thread of the process, also to those that are
// started meanwhile by threads it has not come to yet.
func eachThread(doing string, set func(thread int) error) error {
	done := map[string]bool{}
	for more := true; more; {
		more = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("listing the threads of this process: %w", err)
		}
		for _, task := range tasks {
			if done[task.Name()] {
				continue
			}
			done[task.Name()], more = true, true
			thread, err := strconv.Atoi(task.Name())
			if err == nil {
				err = set(thread)
			}
			if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, fs.ErrNotExist) { // has ended
				return fmt.Errorf("%s: %w", doing, err)
			}
		}
	}
	return nil
}

// LockMemory keeps the pages of the process in memory once they were used, so that a
// beacon never waits for a disk. It locks nothing that was not used: what the
// process has of memory grows by nothing, and Go's runtime still gives back what it
// no longer needs (with mmap instead of madvise, which locked memory refuses). Child
// processes do not inherit the lock.
//
// It needs CAP_IPC_LOCK or a limit (RLIMIT_MEMLOCK) of infinity: under any lesser
// limit it refuses, since Go's runtime could not take address space later, and
// would crash.
func LockMemory() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return fmt.Errorf("reading the limit of locked memory: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("reading the process's capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_IPC_LOCK) == 0 && limit.Cur != unix.RLIM_INFINITY {
		return errors.New("locking memory: missing CAP_IPC_LOCK: grant it to the service, or set LimitMEMLOCK=infinity in its unit")
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("locking memory: %w", err)
	}
	return nil
}
