package link

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// realTimeThreads counts those of this process.
func realTimeThreads(t *testing.T) int {
	t.Helper()
	found := 0
	if err := eachThread("looking at threads", func(thread int) error {
		attr, err := unix.SchedGetAttr(thread, 0)
		if err == nil && attr.Policy == unix.SCHED_DEADLINE {
			found++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// One thread has the class, and it is gone when Send returns: no other thread of the
// process inherits it.
func TestTheSendingThreadAloneIsRealTime(t *testing.T) {
	b := lone(t, time.Millisecond, nil)
	if got := b.Status().Class; got != ClassNone {
		t.Errorf("class %s before Send", got)
	}
	for range 3 {
		before := b.Status().Wire.Sent
		stop := background(t, func(ctx context.Context) error { return b.Send(ctx, says("x", true)) })
		eventually(t, "beacons leave", func() bool { return b.Status().Wire.Sent > before+20 })
		status := b.Status()
		if status.Class != ClassRealTime || status.ClassReason != "" {
			t.Errorf("class %s (%s), want real-time: does this machine allow it?", status.Class, status.ClassReason)
		}
		spawn(t) // threads that are made now must not inherit the class
		if got := realTimeThreads(t); got != 1 {
			t.Errorf("%d real-time threads, want 1", got)
		}
		stop()
		eventually(t, "the thread is gone", func() bool { return realTimeThreads(t) == 0 })
		if got := b.Status().Class; got != ClassNone {
			t.Errorf("class %s after Send", got)
		}
	}
}

// A class that is refused at first is asked for again.
func TestTheClassIsAskedForAgain(t *testing.T) {
	b := lone(t, time.Millisecond, nil)
	asked := 0
	b.sender.favour = func() (Class, error) {
		if asked++; asked < 3 {
			return ClassFavoured, unix.EBUSY
		}
		return favour()
	}
	stop := background(t, func(ctx context.Context) error { return b.Send(ctx, says("x", true)) })
	eventually(t, "the class is had", func() bool { return b.Status().Class == ClassRealTime })
	sent := b.Status().Wire.Sent
	eventually(t, "many more beacons leave", func() bool { return b.Status().Wire.Sent > sent+favourAgain })
	stop()
	if asked != 3 || b.Status().Class != ClassNone {
		t.Errorf("asked %d times, want 3; class %s at the end", asked, b.Status().Class)
	}
}

// The class is given back, since not every thread ends: Go parks its main thread when the
// goroutine that was locked to it has ended.
func TestTheClassIsGivenBack(t *testing.T) {
	b := lone(t, time.Hour, nil)
	b.sender.bell.ring(ringStop)
	var attr *unix.SchedAttr
	if err := onThreadOfItsOwn(func() (err error) {
		if err := b.sender.run(says("x", false)); err != nil {
			return err
		}
		attr, err = unix.SchedGetAttr(0, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if attr.Policy != unix.SCHED_NORMAL || attr.Nice != 0 {
		t.Errorf("the kernel says %+v", *attr)
	}
}

// A real-time thread that loops, as Go's runtime has it do when it waits for a thread
// that is not real-time, leaves the processors to others. In SCHED_RR it did not, for
// most of a second.
func TestALoopInTheRuntimeStopsNobody(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var all, running sync.WaitGroup
	gaps := make([]time.Duration, runtime.NumCPU())
	for cpu := range gaps {
		running.Add(1)
		all.Go(func() { gaps[cpu] = longestGap(ctx, t, cpu, running.Done) })
	}
	running.Wait()
	err := onThreadOfItsOwn(func() error {
		if class, err := favour(); class != ClassRealTime {
			return err
		}
		if err := yieldFor(700 * time.Millisecond); err != nil {
			return err
		}
		return relax()
	})
	cancel()
	all.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for cpu, gap := range gaps {
		if gap > 300*time.Millisecond {
			t.Errorf("processor %d was not to be had for %v", cpu, gap)
		}
	}
}

// yieldFor does what casgstatus of Go's runtime does, which cannot be preempted.
func yieldFor(d time.Duration) error {
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return err
	}
	var now unix.Timespec
	for end := int64(0); end == 0 || now.Nano() < end; {
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&now)), 0)
		if end == 0 {
			end = now.Nano() + int64(d)
		}
	}
	return unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
}

// longestGap is how long a normal thread had to wait for the processor.
func longestGap(ctx context.Context, t *testing.T, cpu int, running func()) (longest time.Duration) {
	err := onThreadOfItsOwn(func() error {
		var set unix.CPUSet
		set.Set(cpu)
		err := unix.SchedSetaffinity(0, &set)
		running()
		for last := time.Now(); err == nil; {
			over := ctx.Err() != nil
			now := time.Now()
			longest, last = max(longest, now.Sub(last)), now
			if over {
				break
			}
		}
		return err
	})
	if err != nil {
		t.Errorf("processor %d: %v", cpu, err)
	}
	return longest
}

// spawn makes Go start threads.
func spawn(t *testing.T) {
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			runtime.LockOSThread() // for good: the thread ends
			time.Sleep(time.Millisecond)
		})
	}
	all.Wait()
}

// Without the permission the thread stays as it is, and the status says what is missing.
func TestClassesWithoutPermission(t *testing.T) {
	const refused = "operation not permitted"
	kernel := func(attr *unix.SchedAttr) error { return unix.SchedSetAttr(0, attr, 0) }
	for _, c := range []struct {
		name   string
		drop   uint32 // capabilities
		set    func(*unix.SchedAttr) error
		class  Class
		reason string
		policy uint32
		nice   int32
	}{
		{"all allowed", 0, kernel, ClassRealTime, "", unix.SCHED_DEADLINE, 0},
		{"only some of the processors", 0, func(attr *unix.SchedAttr) error {
			if attr.Policy == unix.SCHED_DEADLINE {
				return unix.EPERM
			}
			return kernel(attr)
		}, ClassFavoured, "class real-time: " + refused, unix.SCHED_NORMAL, -15},
		{"no CAP_SYS_NICE", 1 << unix.CAP_SYS_NICE, kernel, ClassNormal,
			"class real-time: " + refused + "; class favoured: " + refused, unix.SCHED_NORMAL, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var now *standing
			var attr *unix.SchedAttr
			err := onThreadOfItsOwn(func() (err error) {
				if err := setCapabilities(func(set uint32) uint32 { return set &^ c.drop }); err != nil {
					return err
				}
				now = newStanding(favourBy(c.set))
				attr, err = unix.SchedGetAttr(0, 0)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if want := (standing{c.class, c.reason}); *now != want {
				t.Errorf("%+v, want %+v", *now, want)
			}
			if attr.Policy != c.policy || attr.Nice != c.nice || (attr.Flags&unix.SCHED_FLAG_RESET_ON_FORK != 0) != (c.class != ClassNormal) {
				t.Errorf("the kernel says %+v", *attr)
			}
		})
	}
}

// onThreadOfItsOwn runs f on a thread that ends with it.
func onThreadOfItsOwn(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// setCapabilities changes the effective capabilities of the calling thread.
func setCapabilities(change func(uint32) uint32) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective = change(data[0].Effective)
	return unix.Capset(&header, &data[0])
}

func TestClassStrings(t *testing.T) {
	if got := fmt.Sprint(ClassNone, ClassRealTime, ClassFavoured, ClassNormal, Class(9)); got != "not running real-time favoured normal class(9)" {
		t.Error(got)
	}
}
