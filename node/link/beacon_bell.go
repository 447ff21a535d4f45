package link

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bell is what the beacon thread sleeps by: until a moment, or until somebody rings.
// To ring is an atomic operation while the bell still rings, and else a system call
// that never waits. It is a futex (futex(2)): with a channel or a timer of Go the
// sleep would end when Go's scheduler gets to it, on some other thread of the
// process, which has no real-time class.
type bell struct {
	rings atomic.Uint32 // a set of the bits below
	until unix.Timespec // of the sleeper alone; here, so that a sleep allocates nothing
}

const (
	ringKick uint32 = 1 << iota // a change wants a beacon
	ringStop                    // the thread has to end
)

// Operations of linux/futex.h, which x/sys does not name. A deadline is absolute
// with the bitset operation alone, on CLOCK_MONOTONIC.
const (
	futexWake       = 1 | futexPrivate
	futexWaitBitset = 9 | futexPrivate
	futexPrivate    = 128
	futexAnyBit     = 0xffffffff
)

func (b *bell) ring(bit uint32) {
	if b.rings.Or(bit)&bit != 0 {
		return // it rings already
	}
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&b.rings)), futexWake, 1, 0, 0, 0)
	if errno != 0 {
		panic(fmt.Sprintf("link: waking the beacon thread: %v", errno))
	}
}

// hush takes a bit back and says whether it was set.
func (b *bell) hush(bit uint32) bool { return b.rings.And(^bit)&bit != 0 }

// sleep returns at the time, or when the bits differ from those that the caller has
// seen; now and then for no reason. A time before the boot is past like any other,
// though the kernel refuses negative ones.
func (b *bell) sleep(seen uint32, until time.Duration) {
	b.until = unix.NsecToTimespec(max(0, int64(until)))
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&b.rings)), futexWaitBitset,
		uintptr(seen), uintptr(unsafe.Pointer(&b.until)), 0, futexAnyBit)
	switch errno {
	case 0, unix.EAGAIN, unix.EINTR, unix.ETIMEDOUT:
	default:
		panic(fmt.Sprintf("link: the beacon thread cannot sleep: %v", errno))
	}
}

// monotonic reads the clock that sleep goes by.
func (b *bell) monotonic() time.Duration {
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &b.until); err != nil {
		panic(fmt.Sprintf("link: reading CLOCK_MONOTONIC: %v", err))
	}
	return time.Duration(b.until.Nano())
}
