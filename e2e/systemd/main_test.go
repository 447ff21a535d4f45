package systemd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// programs is where the program that the tests install is built.
var programs string

// TestMain runs nothing on a machine that cannot boot others, and says so. Where
// the tests are the proof that counts, with CI=true, that is a failure.
func TestMain(m *testing.M) {
	if err := missing(); err != nil {
		fmt.Printf("NOT CHECKED: peervip under a real systemd: %v\n", err)
		if os.Getenv("CI") == "true" {
			os.Exit(1)
		}
		os.Exit(0)
	}
	var err error
	if programs, err = os.MkdirTemp("", "peervip-systemd-"); err == nil {
		err = sweep()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	group, err := cgroups()
	if err = errors.Join(err, removeGroup(group), os.RemoveAll(programs)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// missing says why this machine cannot boot others; nil: it can.
func missing() error {
	if os.Geteuid() != 0 {
		return errors.New("it needs root")
	}
	for _, tool := range []struct{ name, debian string }{
		{"systemd-nspawn", "systemd-container"}, {"debootstrap", "debootstrap"}, {"unshare", "util-linux"}, {"nsenter", "util-linux"},
	} {
		if _, err := exec.LookPath(tool.name); err != nil {
			return fmt.Errorf("there is no %s here: install the package %s", tool.name, tool.debian)
		}
	}
	if _, err := cgroups(); err != nil {
		return err
	}
	if out, err := exec.Command("unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt").CombinedOutput(); err != nil {
		return fmt.Errorf("nothing may be mounted here: %s", bytes.TrimSpace(out))
	}
	if _, err := base(); err != nil {
		return err
	}
	return nil
}

// cgroups is the folder of control groups version 2 in which the machines get
// theirs.
var cgroups = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		mount, kind, _ := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		if !strings.HasPrefix(kind, "cgroup2 ") || len(fields) < 5 {
			continue
		}
		probe := filepath.Join(fields[4], groupName())
		if err := os.Mkdir(probe, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("no control group can be made: %w", err)
		}
		return probe, nil
	}
	return "", errors.New("control groups version 2 are not mounted")
})

// groupName names the control group of this process's machines; the group in the
// pattern is the process.
func groupName() string { return "peervip-systemd-" + strconv.Itoa(os.Getpid()) }

var groupPattern = regexp.MustCompile(`^peervip-systemd-([0-9]+)$`)

// sweep ends what a test that was killed has left behind: machines die with it, but
// their control groups do not.
func sweep() error {
	group, err := cgroups()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Dir(group))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		m := groupPattern.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		if _, err := os.Stat("/proc/" + m[1]); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, removeGroup(filepath.Join(filepath.Dir(group), e.Name())))
		}
	}
	return errors.Join(errs...)
}

// removeGroup kills what is in a control group and below it, and removes them.
func removeGroup(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	remove := func() (err error) {
		var below []string
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, walkErr error) error {
			if walkErr == nil && d.IsDir() {
				below = append(below, path)
			}
			return nil
		})
		for i := len(below) - 1; i >= 0; i-- {
			if e := unix.Rmdir(below[i]); e != nil && e != unix.ENOENT {
				err = fmt.Errorf("removing the control group %s: %w", below[i], e)
			}
		}
		return err
	}
	return pollFor(patience, remove)
}

// program is peervip as it is delivered, without a library of this machine's.
var program = sync.OnceValues(func() (string, error) {
	file := filepath.Join(programs, "peervip")
	cmd := exec.Command("go", "build", "-o", file, "../../cmd/peervip")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building peervip: %w\n%s", err, out)
	}
	return file, nil
})
