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
	"runtime"

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

// UniquePrefix returns a short name prefix that no other lab on this machine
// uses, fit for the names of namespaces.
func UniquePrefix() string {
	var b [3]byte
	rand.Read(b[:])
	return "pv" + hex.EncodeToString(b[:])
}

// NewNamespace makes the namespace and brings its loopback up. Close removes it.
func NewNamespace(name string) (*Namespace, error) {
	var handle netns.NsHandle
	err := onThread(func() error {
		var err error
		handle, err = netns.NewNamed(name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making network namespace %s: %w", name, err)
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
// and its rules when the last process and socket in it are gone.
func (ns *Namespace) Close() error {
	path := filepath.Join("/run/netns", ns.Name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil {
		err = fmt.Errorf("unmounting %s: %w", path, err)
	}
	return errors.Join(ns.handle.Close(), err, os.Remove(path))
}

// onThread runs f on a thread of its own that ends with it, so that a changed
// namespace can never leak into another goroutine.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}
