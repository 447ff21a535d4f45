package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// labCommand is `peervip lab` with a directory of its own for what it makes.
func labCommand(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	binary, err := tested()
	must(t, err)
	cmd := exec.Command(binary, append([]string{"lab"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// The lab shows every step and one table, within 80 columns, and ends well.
func TestLab(t *testing.T) {
	t.Parallel()
	cmd, out := labCommand(t, "--watch", "1s", "--rest", "1s",
		"--pace", "10ms", "--open", "64", "--rate", "50", // the race detector is slow
		"--interval", "100ms", "--misses", "10") // unhurried: this one may not see a false death
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, step := range []string{"start", "steady", "power-off", "rejoin", "drain", "resume", "rest"} {
		if !strings.Contains(out.String(), "\n"+step+" ") {
			t.Errorf("no step %q", step)
		}
	}
	for line := range strings.Lines(out.String()) {
		if utf8.RuneCountInString(line) > 81 {
			t.Errorf("wider than 80 columns: %s", line)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// Ctrl-C in the middle removes everything, and is no success.
func TestLabInterrupted(t *testing.T) {
	cmd, out := labCommand(t)
	must(t, cmd.Start())
	ofThisLab := filepath.Join("/run/netns", "pv"+strconv.FormatInt(int64(cmd.Process.Pid), 36)+"-*")
	namespaces := func() int {
		found, err := filepath.Glob(ofThisLab)
		must(t, err)
		return len(found)
	}
	eventually(t, func() error {
		if n := namespaces(); n < 5 {
			return fmt.Errorf("%d namespaces", n)
		}
		return nil
	})
	time.Sleep(3 * time.Second) // into the steps
	must(t, cmd.Process.Signal(unix.SIGINT))
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("interrupted, it ended with %v:\n%s", err, out)
	}
	if n := namespaces(); n > 0 {
		t.Errorf("%d namespaces are left", n)
	}
}

// Without root there is no lab, but a clear line.
func TestLabNeedsRoot(t *testing.T) {
	cmd, out := labCommand(t)
	must(t, os.Chmod(filepath.Dir(cmd.Path), 0o755))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "needs root") || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%v: %s", err, out)
	}
}
