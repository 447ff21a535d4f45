package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

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
	unlock, err := lockDirectory(dir)
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
	unlock, errLock := lockDirectory(filepath.Dir(s.path))
	if errLock != nil {
		return errors.Join(err, fmt.Errorf("removing the control socket: %w", errLock))
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

// lockDirectory keeps two agents from replacing each other's sockets in one
// directory: between finding a socket stale and removing it, a new one may come.
func lockDirectory(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening its directory: %w", err)
	}
	for {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("locking the directory %s: %w", dir, err), d.Close())
		}
		return func() { d.Close() }, nil // closing unlocks
	}
}
