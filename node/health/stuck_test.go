package health

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Of linux/fs.h: FIFREEZE and FITHAW, which let writers to a file system hang where no
// signal reaches them.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// frozen mounts a file system of its own, freezes it and returns its folder. A thaw is
// part of the clean-up, and may come earlier.
func frozen(t *testing.T) (dir string, thaw func()) {
	t.Helper()
	tmp := t.TempDir()
	image := filepath.Join(tmp, "image")
	dir = filepath.Join(tmp, "frozen")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	run("mkfs.ext4", "-q", image)
	run("mount", "-o", "loop", image, dir)
	t.Cleanup(func() { // who hung there has to end first
		var err error
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if err = unix.Unmount(dir, 0); err == nil {
				return
			}
		}
		t.Errorf("unmounting %s: %v", dir, err)
	})
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(int(root.Fd()), fiFreeze, 0); err != nil {
		t.Fatal(err)
	}
	warm := true
	thaw = func() {
		if warm {
			warm = false
			if err := unix.IoctlSetInt(int(root.Fd()), fiThaw, 0); err != nil {
				t.Error(err)
			}
			root.Close()
		}
	}
	t.Cleanup(thaw)
	return dir, thaw
}

// TestProgramThatCannotBeKilled: a process in state D fails its try at the timeout, no
// second one is started beside it, and neither the next try nor the end waits for it.
func TestProgramThatCannotBeKilled(t *testing.T) {
	dir, thaw := frozen(t)
	starts := filepath.Join(t.TempDir(), "starts")
	script := fmt.Sprintf("echo x >> %s; exec touch %s/file", starts, dir)
	o := Options{Interval: new(1100 * time.Millisecond), Timeout: new(time.Second), Fall: new(3)}
	c, err := o.exec("sh", "-c", script).Parse()
	if err != nil {
		t.Fatal(err)
	}
	m, err := New([]Check{c}, discard())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan string, 100)
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx, func(fit bool, reason string) { told <- fmt.Sprint(fit, " ", reason) }) }()
	select {
	case got := <-told:
		if !strings.HasPrefix(got, "false ") || !strings.Contains(got, "killed after 1s, and does not end: process ") || !strings.HasSuffix(got, ", state D") {
			t.Errorf("reported %q", got)
		}
	case <-time.After(20 * time.Second):
		t.Error("no report while the program hangs")
	}
	for deadline := time.Now().Add(20 * time.Second); m.Results()[0].Tries < 4; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is tried no more")
		}
	}
	if got, err := os.ReadFile(starts); err != nil || string(got) != "x\n" {
		t.Errorf("started %q, %v; want once", got, err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the end waits for a program that hangs")
	}
	thaw()
}

// TestProgramThatHangsComesBack: when what it waited for is there again, it is tried anew.
func TestProgramThatHangsComesBack(t *testing.T) {
	dir, thaw := frozen(t)
	p := &program{command: []string{"touch", dir + "/file"}, timeout: time.Second}
	try := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), p.timeout)
		defer cancel()
		return p.probe(ctx)
	}
	if err := try(); err == nil || !strings.Contains(err.Error(), "does not end") {
		t.Fatalf("%v", err)
	}
	thaw()
	p.timeout = 20 * time.Second
	for deadline := time.Now().Add(20 * time.Second); try() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never passes again")
		}
	}
}

func TestLastLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		" \n\t\n":                 "",
		"one\ntwo":                "two",
		"x\n\n  DISK FULL\r\n\n ": "DISK FULL",
		"#\n# Fatal error\n":      "# Fatal error",
	} {
		if got := lastLine(in); got != want {
			t.Errorf("lastLine(%q) = %q, want %q", in, got, want)
		}
	}
	var long tail
	for range 3000 {
		fmt.Fprintln(&long, "noise")
	}
	fmt.Fprintln(&long, "the end")
	if got := lastLine(long.String()); got != "the end" || len(long.kept) > maxOutput {
		t.Errorf("%q of %d bytes", got, len(long.kept))
	}
}
