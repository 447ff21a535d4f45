package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Whoever may read a directory can lock it; that keeps no agent from starting or ending.
func TestSocketIsNotHeldUpByALockOfItsDirectory(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	must(t, unix.Flock(int(d.Fd()), unix.LOCK_EX))
	done := make(chan error, 1)
	go func() {
		s, err := listen(filepath.Join(dir, "s"))
		if err == nil {
			err = s.Close()
		}
		done <- err
	}()
	must(t, within(t, "the end", done))
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Who holds the socket's own lock is named, and the end never waits for it.
func TestSocketsOwnLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s, err := listen(path)
	must(t, err)
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	defer lock.Close()
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	_, err = listen(path)
	if want := fmt.Sprintf("control.socket: %s.lock is locked by process %d (", path, os.Getpid()); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s...", err, want)
	}
	began := time.Now()
	must(t, s.Close())
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("closing waited for %v", took)
	}
}

func TestSocketsLockIsNobodyElses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	must(t, os.Symlink(filepath.Join(dir, "key"), path+".lock"))
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), "opening its lock: ") {
		t.Errorf("a link is followed: %v", err)
	}
	missing(t, filepath.Join(dir, "key"))
	must(t, os.Remove(path+".lock"))
	must(t, os.WriteFile(path+".lock", nil, 0o600))
	must(t, os.Chown(path+".lock", 65534, 65534))
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), "it belongs to user 65534: remove it") {
		t.Errorf("another user's lock: %v", err)
	}
}
