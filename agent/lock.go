package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stateLock is the file in state_dir that the agent that uses the directory locks;
	// its content is that agent's process.
	stateLock = "lock"
	// lockPatience is how long an agent that ends may keep the lock.
	lockPatience = 3 * time.Second
)

// lockState keeps a second agent from the directory, which would overwrite what the
// first remembers. Where no file can be made nothing can be overwritten either. That it is
// in use is no *EditError: the end of the other agent cures it.
func lockState(ctx context.Context, dir string) (unlock func() error, err error) {
	path := filepath.Join(dir, stateLock)
	f, err := openLock(dir, path)
	if err != nil {
		return func() error { return nil }, nil
	}
	for end := time.Now().Add(lockPatience); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			_ = f.Truncate(0) // the lock counts, whatever is in the file
			_, _ = fmt.Fprintln(f, os.Getpid())
			return f.Close, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(fmt.Errorf("node.state_dir: locking %s: %w", path, err), f.Close())
		case time.Now().After(end):
			pid, _ := io.ReadAll(io.LimitReader(f, 20))
			return nil, errors.Join(fmt.Errorf("node.state_dir: %s is in use by another agent (process %s): stop that one first, or give each agent a directory of its own",
				dir, strings.TrimSpace(string(pid))), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// openLock opens the file, which root alone may open: whoever can could lock it.
func openLock(dir, path string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
}
