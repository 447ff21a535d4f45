package health

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	maxOutput = 4 << 10 // bytes kept of what a program prints
	maxLine   = 200     // bytes of it that go into a reason

	// outputGrace is how long the output of a program that has ended is waited
	// for, when a process that left its group still holds the pipe open.
	outputGrace = 100 * time.Millisecond
)

// probeExec runs the program in a session of its own (which the kernel may weigh by
// itself, see sched(7) on autogroups), at an ordinary nice value whatever that of this
// process is, killed when memory runs out no later than others, and wants exit code 0.
// At the end of ctx, and also when the program is done, every process of the
// group is killed, so that neither a hanging check nor what it started in the
// background is left behind (only a process that makes itself a group or session
// of its own escapes). The first line printed, on either output, is the reason.
func probeExec(ctx context.Context, command []string, timeout time.Duration) error {
	var output head
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &output, &output // the same writer: one pipe, one goroutine
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = outputGrace
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("not started: %w", startError(err))
	}

	// The group is killed while its leader is not yet reaped: until then nobody
	// else can have got its number.
	pid := cmd.Process.Pid
	beOrdinary(pid)
	ended := make(chan struct{})
	go func() {
		waitEnded(pid)
		close(ended)
	}()
	late := false
	select {
	case <-ended:
	case <-ctx.Done():
		late = true
		killGroup(pid)
		<-ended
	}
	killGroup(pid)
	// The exit code decides, not Wait's error: that may also be about an output
	// held open by somebody who left the group.
	err := cmd.Wait()

	switch state := cmd.ProcessState; {
	case state == nil:
		return fmt.Errorf("waiting for process %d: %w", pid, err)
	case late:
		return withOutput(fmt.Sprintf("killed after %v", timeout), &output)
	case state.Success():
		return nil
	case state.Exited():
		return withOutput(fmt.Sprintf("exit code %d", state.ExitCode()), &output)
	default:
		return withOutput(state.String(), &output) // signal: ...
	}
}

// beOrdinary takes from a program and what it has started by now the better nice value
// that it has inherited, and from the program that it is killed late when memory runs
// out. Nobody is refused that; who has ended does not need it.
func beOrdinary(group int) {
	if own, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && 20-own < 0 { // as the system call counts
		_ = unix.Setpriority(unix.PRIO_PGRP, group, 0)
	}
	if own, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil && own[0] == '-' {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", group), []byte("0"), 0)
	}
}

// waitEnded returns when the child has ended, and leaves it to be reaped. An
// error can only mean that there is no child: then there is nothing to wait for,
// and cmd.Wait says so.
func waitEnded(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// killGroup kills whoever is left of the group. It can fail only for want of
// somebody to kill, or of the right to: a program that changed its user, run by
// an agent that is not root, is waited for instead.
func killGroup(leader int) { _ = unix.Kill(-leader, unix.SIGKILL) }

// startError drops the program's name from the error: the check's name has it.
func startError(err error) error {
	if e, ok := errors.AsType[*exec.Error](err); ok {
		return e.Err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

func withOutput(reason string, output *head) error {
	if line := firstLine(string(output.kept)); line != "" {
		return errors.New(reason + ": " + line)
	}
	return errors.New(reason)
}

// head keeps the beginning of what is written to it and swallows the rest, so
// that a talkative program neither blocks nor fills the memory.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), maxOutput-len(h.kept))]...)
	return len(p), nil
}

// firstLine returns the first line that says something, bounded, as printable
// text: it goes into logs and status tables.
func firstLine(text string) string {
	text = strings.TrimLeftFunc(text, unicode.IsSpace)
	text, _, _ = strings.Cut(text, "\n")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = strings.TrimSpace(text)
	if len(text) <= maxLine {
		return text
	}
	end := maxLine
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
