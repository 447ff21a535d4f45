package nft

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// transact builds a transaction and commits it, again and again while only a
// passing obstacle is in the way.
func (f *Filter) transact(build func() error) error {
	return f.transactAt(patience, func() (uint32, error) { return 0, build() })
}

// transactAt is transact for a transaction that the kernel is to take only while
// its ruleset is of the generation that build returns; 0: of any. ErrBusy says that the
// obstacle has not passed in that time.
func (f *Filter) transactAt(patience time.Duration, build func() (generation uint32, err error)) error {
	deadline := time.Now().Add(patience)
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		generation, err := build()
		passing := errors.As(err, new(errOwned))
		// Flush also forgets what was queued, and sends nothing after a builder's error.
		if flushErr := f.conn.FlushWithGenID(generation); err == nil {
			// EPERM and EEXIST: tables that appeared after they were listed. ERESTART:
			// the generation has passed.
			err = explain(flushErr)
			passing = errors.Is(err, unix.ENFILE) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ERESTART)
		}
		switch {
		case err == nil || !passing:
			return err
		case time.Now().After(deadline):
			return fmt.Errorf("%w: %w", ErrBusy, err)
		}
		time.Sleep(wait)
	}
}

// explain tells the kernel's refusal of a transaction, which changes nothing,
// from an answer that was lost on the way.
func explain(err error) error {
	var op *netlink.OpError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOTSOCK):
		return fmt.Errorf("%w: the netlink connection that owns them is dead: %w", ErrGone, err)
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("the kernel has not yet freed the elements deleted before: %w", err)
	case errors.As(err, &op) && op.Op == "receive" && op.Sequence == 0:
		return fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return err
}
