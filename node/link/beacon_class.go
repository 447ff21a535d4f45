package link

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Class is how the kernel schedules the thread that sends beacons.
type Class uint8

const (
	// ClassNone: the thread does not run.
	ClassNone Class = iota
	// ClassRealTime: before everything else, for as long as realTimeShare says, in
	// SCHED_DEADLINE.
	ClassRealTime
	// ClassFavoured: among all others, but with a better nice value.
	ClassFavoured
	// ClassNormal: as everybody else.
	ClassNormal
)

var classNames = [...]string{
	ClassNone: "not running", ClassRealTime: "real-time", ClassFavoured: "favoured", ClassNormal: "normal",
}

// String returns the class in a word or two.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

const (
	// realTimeShare of each realTimePeriod, in nanoseconds, is what the thread has a
	// right to; then it waits for the next one. A beacon takes a tenth of the share.
	//
	// The limit is why the class is not SCHED_RR, in which a thread may loop for ever.
	// Go's runtime has a thread that comes back from the kernel loop in casgstatus
	// (proc.go) while another one looks at its goroutine: the monitor, a collection of
	// garbage, somebody who wants its token. That one may be a normal thread, which the
	// real-time one has just pushed from its processor, and for which it then waits:
	// until the kernel throttles the class, for 950 ms and with the whole machine.
	// In SCHED_DEADLINE the loop's sched_yield(2) ends the thread's share, and the
	// other one goes on.
	realTimeShare  = 1_000_000
	realTimePeriod = 10_000_000
	favouredNice   = -15
	// shortSlice, in nanoseconds, asks the normal class for a wake-up soon rather than
	// for a long run after it (Linux 6.12; ignored before).
	shortSlice = 100_000
)

// favour gives the calling thread the best class that it may have, and says why it
// is not a better one. Threads that come of it are normal again (reset on fork). The
// real-time class needs CAP_SYS_NICE, all processors (no cpuset: sched_setattr(2)),
// and that others have left that much of them; a better nice value CAP_SYS_NICE or
// RLIMIT_NICE.
func favour() (Class, error) {
	return favourBy(func(attr *unix.SchedAttr) error { return unix.SchedSetAttr(0, attr, 0) })
}

func favourBy(set func(*unix.SchedAttr) error) (Class, error) {
	// The normal classes may wake up late by so many nanoseconds (prctl(2)), and before
	// Linux 6.13 the real-time ones too.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return ClassNormal, fmt.Errorf("setting the timer slack: %w", err)
	}
	var errs []error
	for _, try := range []struct {
		class Class
		attr  unix.SchedAttr
	}{
		{ClassRealTime, unix.SchedAttr{Policy: unix.SCHED_DEADLINE, Runtime: realTimeShare, Deadline: realTimePeriod, Period: realTimePeriod}},
		{ClassFavoured, unix.SchedAttr{Policy: unix.SCHED_NORMAL, Nice: favouredNice, Runtime: shortSlice}},
	} {
		try.attr.Flags = unix.SCHED_FLAG_RESET_ON_FORK
		err := set(&try.attr)
		if err == nil {
			return try.class, errors.Join(errs...)
		}
		errs = append(errs, fmt.Errorf("class %s: %w", try.class, err))
	}
	return ClassNormal, errors.Join(errs...)
}

// relax makes the calling thread a normal one again. Threads that come of it stay
// normal: to take that back would need a permission.
func relax() error {
	attr := unix.SchedAttr{Policy: unix.SCHED_NORMAL, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("leaving the scheduling class of the beacon thread: %w", err)
	}
	return nil
}
