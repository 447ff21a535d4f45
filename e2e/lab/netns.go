// Package lab builds small networks on one machine from network namespaces:
// a switch, nodes, clients, and the faults that befall them. It knows the
// kernel's networking and how to start a peervip agent as a process; it knows
// nothing of how the agent works inside.
package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a named network namespace of its own, with lo up. `ip netns`
// shows it under Name.
type Namespace struct {
	Name   string
	handle netns.NsHandle
}

// namedDir is where the kernel's namespaces get names, by iproute2's custom.
const namedDir = "/run/netns"

// prefixPattern matches what UniquePrefix returns; the group is the process.
var prefixPattern = regexp.MustCompile(`^pv([0-9a-z]+)-[0-9a-f]{4}`)

// UniquePrefix returns a short name prefix that no other lab on this machine
// uses, fit for the names of namespaces. It holds the id of this process, so
// that Sweep can tell what a killed process has left behind.
func UniquePrefix() string { return prefixOf(os.Getpid()) }

func prefixOf(pid int) string {
	var b [2]byte
	rand.Read(b[:])
	return "pv" + strconv.FormatInt(int64(pid), 36) + "-" + hex.EncodeToString(b[:])
}

// Sweep removes the names of namespaces that belong to labs whose process is
// gone: a process that was killed outright could not do so itself.
func Sweep() error {
	entries, err := os.ReadDir(namedDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("looking for namespaces left behind: %w", err)
	}
	var errs []error
	for _, e := range entries {
		m := prefixPattern.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		pid, err := strconv.ParseInt(m[1], 36, 32)
		if err != nil {
			continue // not one of ours after all
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, os.ErrNotExist) {
			// EBUSY: `ip netns` has mounted its folder anew over it, which hides the
			// mount and keeps the name.
			if err := removeName(e.Name()); !errors.Is(err, unix.EBUSY) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// NewNamespace makes the namespace and brings its loopback up. Close removes it.
func NewNamespace(name string) (*Namespace, error) {
	if err := shareNamedDir(); err != nil {
		return nil, err
	}
	var handle netns.NsHandle
	err := onThread(func() error {
		var err error
		handle, err = netns.NewNamed(name)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making network namespace %s: %w", name, err), removeName(name))
	}
	ns := &Namespace{Name: name, handle: handle}
	err = ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bringing up lo in %s: %w", name, err), ns.Close())
	}
	return ns, nil
}

// shareNamedDir makes the folder of names what the first `ip netns` on a machine makes
// of it: a mount of its own. Done later, by `ip netns` while a lab is up, it would lay
// the folder over the lab's names, which nobody could then remove. The lock is the one
// that `ip netns` takes.
func shareNamedDir() error {
	err := os.MkdirAll(namedDir, 0o755)
	if err != nil {
		return fmt.Errorf("making the folder of namespaces: %w", err)
	}
	dir, err := os.Open(namedDir)
	if err != nil {
		return fmt.Errorf("opening the folder of namespaces: %w", err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking %s: %w", namedDir, err)
	}
	share := func() error { return unix.Mount("", namedDir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	if err = share(); err == unix.EINVAL { // not a mount yet
		if err = unix.Mount(namedDir, namedDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = share()
		}
	}
	if err != nil {
		return fmt.Errorf("mounting %s: %w", namedDir, err)
	}
	return nil
}

// Do runs f on a thread that is inside the namespace. Sockets that f opens stay
// in the namespace; goroutines that f starts do not run in it.
func (ns *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns.handle); err != nil {
			return fmt.Errorf("entering network namespace %s: %w", ns.Name, err)
		}
		return f()
	})
}

// Start starts the command inside the namespace.
func (ns *Namespace) Start(cmd *exec.Cmd) error { return ns.Do(cmd.Start) }

// Run runs a command inside the namespace and returns what it printed on both
// outputs; the error of a failed command holds that text too.
func (ns *Namespace) Run(name string, args ...string) (string, error) {
	var out []byte
	err := ns.Do(func() error {
		var err error
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	if err != nil {
		return string(out), fmt.Errorf("in %s: %s %v: %w: %s", ns.Name, name, args, err, out)
	}
	return string(out), nil
}

// Handle returns the namespace's file descriptor, for moving links into it.
func (ns *Namespace) Handle() int { return int(ns.handle) }

// Close removes the namespace's name. The kernel frees the namespace, its links
// and its rules when the last process and socket in it are gone. Closing a
// closed namespace does nothing.
func (ns *Namespace) Close() error {
	if !ns.handle.IsOpen() {
		return nil
	}
	return errors.Join(ns.handle.Close(), removeName(ns.Name))
}

// removeName takes a namespace's name away. A name that another process is
// taking away at the same time is no error.
func removeName(name string) error {
	path := filepath.Join(namedDir, name)
	// EINVAL: a plain file, left by a namespace that was only half made.
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmounting %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing a namespace's name: %w", err)
	}
	return nil
}

// onThread runs f on a thread of its own that ends with it, so that a changed
// namespace can never leak into another goroutine. A panic of f becomes the
// caller's, and so does runtime.Goexit, by which a test's FailNow ends.
func onThread(f func() error) error {
	var (
		err      error
		returned bool
		panicked any
		stack    []byte
		done     = make(chan struct{})
	)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		defer close(done)
		defer func() {
			if !returned {
				panicked, stack = recover(), debug.Stack()
			}
		}()
		err = f()
		returned = true
	}()
	<-done
	if panicked != nil {
		panic(fmt.Sprintf("%v\n\nin a network namespace:\n%s", panicked, stack))
	}
	if !returned {
		runtime.Goexit()
	}
	return err
}
