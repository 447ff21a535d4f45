package health

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestExec(t *testing.T) {
	for _, test := range []struct {
		name    string
		options Options
		want    string
	}{
		{"exit code 0", patient.exec("true"), ""},
		{"exit code 1", patient.exec("false"), "exit code 1"},
		{"the output is the reason", patient.exec("sh", "-c", "echo DISK FULL; echo more; exit 2"), "exit code 2: more"},
		{"the error output too", patient.exec("sh", "-c", "echo no route >&2; exit 3"), "exit code 3: no route"},
		{"output of a success is nothing", patient.exec("sh", "-c", "echo fine"), ""},
		{"a long line is cut", patient.exec("sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; exit 1"), "exit code 1: " + strings.Repeat("x", 200) + "…"},
		{"a talkative program is not blocked", patient.exec("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' '\\n'"), ""},
		{"no such program", patient.exec("/no/such/program"), "not started: no such file or directory"},
		{"no such program in PATH", patient.exec("no-such-program"), "not started: executable file not found in $PATH"},
		{"not a program", patient.exec("/etc/passwd"), "not started: permission denied"},
		{"killed by somebody", patient.exec("sh", "-c", "kill -TERM $$"), "signal: terminated"},
		{"its input is empty", patient.exec("sh", "-c", "read x && exit 9; exit 0"), ""},
		{"a hang", hasty.exec("sleep", "3600"), "killed after 200ms"},
		{"a hang that ignores signals", hasty.exec("sh", "-c", "trap '' TERM INT HUP; echo stuck; while :; do sleep 1; done"), "killed after 200ms: stuck"},
		{"arguments are passed as they are", patient.exec("test", "a  b", "=", "a  b"), ""},
	} {
		t.Run(test.name, func(t *testing.T) { expect(t, test.options, test.want) })
	}
}

// gone waits until the process has ended (a zombie that waits for its new parent
// has ended).
func gone(t *testing.T, pid string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if os.IsNotExist(err) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s is still there: %s", pid, stat)
		}
	}
}

func readPID(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(content))
	if pid == "" {
		t.Fatalf("%s is empty", file)
	}
	return pid
}

func TestExecLeavesNobodyBehind(t *testing.T) {
	for _, test := range []struct {
		name, script string
		options      Options
		want         string
	}{
		{"forks a child and hangs", "sleep 3600 & echo $! > %s; wait", hasty, "killed after 200ms"},
		{"forks a child and hangs, both deaf to signals", "trap '' TERM INT HUP; sleep 3600 & echo $! > %s; wait", hasty, "killed after 200ms"},
		{"forks a child and passes", "sleep 3600 & echo $! > %s; exit 0", patient, ""},
		{"forks a child and fails", "sleep 3600 & echo $! > %s; echo bad; exit 1", patient, "exit code 1: bad"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pid")
			started := time.Now()
			expect(t, test.options.exec("sh", "-c", fmt.Sprintf(test.script, file)), test.want)
			if took := time.Since(started); took > 30*time.Second {
				t.Errorf("took %v: the child's hold on the output was waited for", took)
			}
			gone(t, readPID(t, file))
		})
	}
}

// A process that made itself a session of its own survives, but nobody waits for
// the output that it holds.
func TestExecDoesNotWaitForARunawaysOutput(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	// The shell waits for the file, so that it is not killed as part of the
	// group before setsid has done its work.
	script := fmt.Sprintf(`setsid sh -c 'echo $$ > %[1]s.new; mv %[1]s.new %[1]s; exec sleep 3600' & while [ ! -e %[1]s ]; do sleep 0.01; done`, file)
	started := time.Now()
	expect(t, patient.exec("sh", "-c", script), "")
	if took := time.Since(started); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	var pid int
	if _, err := fmt.Sscan(readPID(t, file), &pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("the runaway: %v", err)
	}
}

// The agent goes before other programs; what it starts does not.
func TestExecIsOrdinary(t *testing.T) {
	runtime.LockOSThread() // and it ends with the test
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -5); err != nil {
		t.Fatal(err)
	}
	r := &run{ended: make(chan struct{})}
	if r.do([]string{"sh", "-c", "sleep 0.3; nice; sh -c 'exit $(nice)'"}, time.Minute); r.err != nil {
		t.Errorf("at nice value %v", r.err)
	}
}

// The agent is the last that is killed when memory runs out; what it starts is not.
func TestExecIsKilledAsOthersAreWhenMemoryRunsOut(t *testing.T) {
	const file = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("-5"), 0); err != nil {
		t.Logf("this machine's root may not go before others, and has nothing to hand down: %v", err)
	}
	defer os.WriteFile(file, before, 0)
	r := &run{ended: make(chan struct{})}
	if r.do([]string{"sh", "-c", "sleep 0.3; exit $(cat /proc/self/oom_score_adj)"}, time.Minute); r.err != nil {
		t.Errorf("at oom_score_adj %v", r.err)
	}
}

// The number of a process that has been waited for may be another's: nobody is killed by it.
func TestExecKillsNobodyElse(t *testing.T) {
	other := exec.Command("sleep", "60")
	other.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- other.Wait() }()
	r := &run{ended: make(chan struct{})}
	r.do([]string{"true"}, time.Second)
	if r.err != nil || !r.reaped {
		t.Fatalf("%v, reaped %t", r.err, r.reaped)
	}
	r.pid = other.Process.Pid // the number has been given anew
	r.kill()
	select {
	case err := <-ended:
		t.Errorf("another process has ended: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	// One that is started only after its time is over ends all the same.
	late := &run{ended: make(chan struct{})}
	late.kill()
	late.do([]string{"sleep", "60"}, time.Second)
	if late.err == nil || late.err.Error() != "killed after 1s" {
		t.Errorf("%v", late.err)
	}
	killGroup(other.Process.Pid)
	if err := <-ended; err == nil {
		t.Error("the other process has ended by itself")
	}
}
