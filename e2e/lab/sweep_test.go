package lab

import (
	"os"
	"os/exec"
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

// A lab is the first on its machine to name a namespace, and `ip netns` comes while it
// is up: it must not lay the folder of names anew over the lab's.
func TestNamesSurviveTheFirstIPNetns(t *testing.T) {
	if !isUnshared(t) {
		return
	}
	must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	ns, err := NewNamespace(UniquePrefix() + "n")
	must(t, err)
	for _, args := range [][]string{{"add", "other"}, {"exec", ns.Name, "true"}, {"delete", "other"}} {
		out, err := exec.Command("ip", append([]string{"netns"}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("ip netns %v: %v: %s", args, err, out)
		}
	}
	must(t, ns.Close())
}

// isUnshared says whether the test runs in mounts of its own. If not, it has run the
// test so, in a process of its own.
func isUnshared(t *testing.T) bool {
	t.Helper()
	const mark = "PEERVIP_UNSHARED"
	if os.Getenv(mark) == t.Name() {
		return true
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return false
}
