package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// socketMode is for the owner and the group only: whoever can write to the
// socket can stop the node.
const socketMode = 0o660

// socket is a unix listener that removes its path when it is closed.
type socket struct {
	net.Listener
	path string
	file fs.FileInfo // of the path, as long as it is ours
}

// listen opens the control socket. One that an agent left behind when it was
// killed is replaced; one that somebody listens at is not, nor is any other file.
func listen(path string) (*socket, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("control.socket: making its directory: %w", err)
	}
	unlock, err := lockSocket(path, lockTries)
	if err != nil {
		return nil, fmt.Errorf("control.socket: %w", err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("control.socket: %w", err)
	}
	// Set by the mask and not afterwards: nobody may connect in between.
	mask := unix.Umask(0o777 &^ socketMode)
	l, err := net.Listen("unix", path)
	unix.Umask(mask)
	if err != nil {
		return nil, fmt.Errorf("control.socket: listening at %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	file, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("control.socket: looking at what was just made: %w", err), l.Close())
	}
	return &socket{Listener: l, path: path, file: file}, nil
}

// removeStale removes a socket that nobody listens at.
func removeStale(path string) error {
	file, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at what is there: %w", err)
	}
	if file.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there already and no socket: remove it, or choose another path", path)
	}
	c, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("another agent listens at %s: stop it, or choose another path", path), c.Close())
	case errors.Is(err, unix.ECONNREFUSED): // nobody listens
	default:
		return fmt.Errorf("asking who listens at %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing the socket of an earlier agent: %w", err)
	}
	return nil
}

// Close removes the path, unless another agent has it by now. It may be called
// again.
func (s *socket) Close() error {
	err := s.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	if err != nil {
		err = fmt.Errorf("closing the control socket: %w", err)
	}
	unlock, errLock := lockSocket(s.path, 1)
	if errLock != nil {
		return err // whoever holds it replaces a socket that nobody listens at
	}
	defer unlock()
	file, errLook := os.Lstat(s.path)
	if errLook == nil && os.SameFile(file, s.file) {
		errLook = os.Remove(s.path)
	}
	if errLook != nil && !errors.Is(errLook, fs.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("removing the control socket: %w", errLook))
	}
	return err
}

const (
	// lockTries and lockEvery bound the wait for another agent that is just starting or
	// ending at the same socket, which takes it milliseconds.
	lockTries = 40
	lockEvery = 25 * time.Millisecond
)

// lockSocket keeps two agents from replacing each other's sockets: between finding one
// stale and removing it, a new one may come. It locks a file of its own that nobody else
// can open: a directory can be locked by whoever may read it. The file goes with the lock.
func lockSocket(socket string, tries int) (unlock func(), err error) {
	path := socket + ".lock"
	for try := 1; ; try++ {
		unlock, err = tryLock(path)
		if !errors.Is(err, unix.EWOULDBLOCK) || try >= tries {
			break
		}
		time.Sleep(lockEvery)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s is locked by %s: end that first", path, lockHolder(path))
	}
	return unlock, err
}

// tryLock locks the file, which it makes; EWOULDBLOCK: somebody else has.
func tryLock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening its lock: %w", err)
	}
	var opened unix.Stat_t
	err = unix.Fstat(int(file.Fd()), &opened)
	if err == nil && opened.Uid != uint32(os.Geteuid()) {
		err = fmt.Errorf("it belongs to user %d: remove it, or choose another path", opened.Uid)
	}
	if err == nil {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		// It may have been removed by who had the lock before.
		var there unix.Stat_t
		if errThere := unix.Lstat(path, &there); errThere != nil || there.Ino != opened.Ino || there.Dev != opened.Dev {
			err = unix.EWOULDBLOCK
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), file.Close())
	}
	return func() {
		_ = os.Remove(path) // one that stays does no harm
		file.Close()        // unlocks
	}, nil
}

// lockHolder names the process that holds a lock of the file, for an error.
func lockHolder(path string) string {
	var file unix.Stat_t
	locks, err := os.ReadFile("/proc/locks")
	if err == nil {
		err = unix.Stat(path, &file)
	}
	if err != nil {
		return "another process"
	}
	// "1: FLOCK  ADVISORY  WRITE 4711 08:01:123456 0 EOF"
	id := fmt.Sprintf("%02x:%02x:%d", unix.Major(file.Dev), unix.Minor(file.Dev), file.Ino)
	for line := range strings.Lines(string(locks)) {
		if f := strings.Fields(line); len(f) > 5 && f[1] == "FLOCK" && f[5] == id {
			command, _ := os.ReadFile("/proc/" + f[4] + "/comm")
			return fmt.Sprintf("process %s (%s)", f[4], strings.TrimSpace(string(command)))
		}
	}
	return "another process"
}
