package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// stale makes a socket that nobody listens at, as a killed agent leaves it.
func stale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
}

func missing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want it gone", path, err)
	}
}

func TestSocketForOwnerAndGroup(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	path := filepath.Join(t.TempDir(), "run", "peervip", "s")
	s, err := listen(path)
	must(t, err)
	info, err := os.Lstat(path)
	must(t, err)
	if info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("mode %v", info.Mode())
	}
	if now := unix.Umask(0); now != 0 {
		t.Errorf("the process's mask was left at %o", now)
	}
	dir, err := os.Stat(filepath.Dir(path))
	must(t, err)
	if dir.Mode().Perm() != 0o755 {
		t.Errorf("directory's mode %v", dir.Mode())
	}
	must(t, s.Close())
	missing(t, path)
	must(t, s.Close())
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale(t, path)
	s, err := listen(path)
	must(t, err)
	c, err := net.Dial("unix", path)
	must(t, err)
	must(t, c.Close())
	must(t, s.Close())
	missing(t, path)
}

// A path as long as a unix address can be: config lets it pass.
func TestLongSocketPath(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "pv")
	must(t, err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, strings.Repeat("s", 107-len(dir)-1))
	stale(t, path)
	s, err := listen(path)
	must(t, err)
	must(t, s.Close())
}

func TestSocketThatIsNotToBeHad(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	other, err := listen(taken)
	must(t, err)
	defer other.Close()
	file := filepath.Join(dir, "key")
	must(t, os.WriteFile(file, []byte("a secret"), 0o600))
	for path, want := range map[string]string{
		taken:                       "control.socket: another agent listens at " + taken + ": stop it, or choose another path",
		file:                        "control.socket: " + file + " is there already and no socket: remove it, or choose another path",
		dir:                         "control.socket: " + dir + " is there already and no socket: remove it, or choose another path",
		filepath.Join(file, "s"):    "control.socket: making its directory: mkdir " + file + ": not a directory",
		filepath.Join(dir, "a", ""): "",
	} {
		s, err := listen(path)
		if err == nil {
			must(t, s.Close())
		}
		if fmt.Sprint(err) != want && (err != nil || want != "") {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "a secret" {
		t.Errorf("the file is now %q, %v", b, err)
	}
	if c, err := net.Dial("unix", taken); err != nil {
		t.Errorf("the other agent's socket: %v", err)
	} else {
		c.Close()
	}
}

// Two agents that start at once over a stale socket: one gets it, the other says
// so, and nobody's socket is removed.
func TestAgentsRaceForASocket(t *testing.T) {
	dir := t.TempDir()
	for round := range 30 {
		path := filepath.Join(dir, fmt.Sprint(round))
		stale(t, path)
		var agents sync.WaitGroup
		var mu sync.Mutex
		var won []*socket
		for range 8 {
			agents.Go(func() {
				s, err := listen(path)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, s)
				} else if !strings.Contains(err.Error(), "another agent listens at") {
					t.Error(err)
				}
			})
		}
		agents.Wait()
		if len(won) != 1 {
			t.Fatalf("%d agents have the socket", len(won))
		}
		c, err := net.Dial("unix", path)
		must(t, err)
		must(t, c.Close())
		must(t, won[0].Close())
		missing(t, path)
	}
}

// An agent whose socket was taken away by hand does not remove its successor's.
func TestSuccessorsSocketStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := listen(path)
	must(t, err)
	must(t, os.Remove(path))
	second, err := listen(path)
	must(t, err)
	must(t, first.Close())
	c, err := net.Dial("unix", path)
	must(t, err)
	must(t, c.Close())
	must(t, second.Close())
	missing(t, path)
}
