package lab

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// noProcess is above all numbers that Linux gives to processes.
const noProcess = 1<<22 + 1

// A dead lab's namespace was named, then `ip netns` mounted the folder of names over
// itself: the name cannot be removed any more, and keeps nobody from a new lab.
func TestSweepPassesOverAHiddenName(t *testing.T) {
	ns, err := NewNamespace(UniquePrefix() + "n")
	must(t, err)
	defer ns.Close()
	must(t, onThread(func() error {
		// In mounts of its own, which end with this thread.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", namedDir, "tmpfs", 0, ""); err != nil {
			return err
		}
		name := filepath.Join(namedDir, prefixOf(noProcess))
		if err := os.WriteFile(name, nil, 0); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", name, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := unix.Mount(namedDir, namedDir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return Sweep()
	}))
}
