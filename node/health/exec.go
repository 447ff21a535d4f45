package health

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
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

	// killGrace is how long a process that was killed is waited for: far longer than it
	// takes, but for one that hangs in the kernel.
	killGrace = 500 * time.Millisecond
)

// program is an exec check: one process at a time. It runs in a session of its own (which
// the kernel may weigh by itself, see sched(7) on autogroups), at an ordinary nice value
// whatever that of this process is, killed when memory runs out no later than others, and
// exit code 0 is wanted. At the end of a try, and also when the program is done, every
// process of the group is killed, so that neither a hanging check nor what it started in
// the background is left behind (only a process that makes itself a group or session of
// its own escapes). The last line printed, on either output, is the reason.
type program struct {
	command []string
	timeout time.Duration
	alive   *run // was killed, and has not ended
}

// run is one process of it.
type run struct {
	ended  chan struct{}
	output tail
	err    error // once it has ended

	mu     sync.Mutex
	pid    int  // 0: it has not been started yet
	reaped bool // or is about to be: the number may be another process's
	late   bool // it is killed, or will be when it is started
}

// probe is one try. It never waits for a process that cannot be killed, as one that hangs
// in the kernel; while there is one, no other is started.
func (p *program) probe(ctx context.Context) error {
	if p.alive != nil {
		select {
		case <-p.alive.ended:
			p.alive = nil
		default:
			return p.alive.stuck(p.timeout)
		}
	}
	r := &run{ended: make(chan struct{})}
	// The start may hang too, where the program's file is on a file system that does.
	go r.do(p.command, p.timeout)
	select {
	case <-r.ended:
		return r.err
	case <-ctx.Done():
	}
	r.kill()
	grace := time.NewTimer(killGrace)
	defer grace.Stop()
	select {
	case <-r.ended:
		return r.err
	case <-grace.C:
		p.alive = r
		return r.stuck(p.timeout)
	}
}

// do is the whole life of the process.
func (r *run) do(command []string, timeout time.Duration) {
	defer close(r.ended)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &r.output, &r.output // the same writer: one pipe, one goroutine
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = outputGrace
	if err := cmd.Start(); err != nil {
		r.err = fmt.Errorf("not started: %w", startError(err))
		return
	}
	// The group is killed only while its leader is not yet reaped: until then nobody
	// else can have got its number.
	pid := cmd.Process.Pid
	r.started(pid)
	beOrdinary(pid)
	waitEnded(pid)
	late := r.reap()
	// The exit code decides, not Wait's error: that may also be about an output
	// held open by somebody who left the group.
	err := cmd.Wait()
	switch state := cmd.ProcessState; {
	case state == nil:
		r.err = fmt.Errorf("waiting for process %d: %w", pid, err)
	case late:
		r.err = withOutput(fmt.Sprintf("killed after %v", timeout), &r.output)
	case state.Success():
	case state.Exited():
		r.err = withOutput(fmt.Sprintf("exit code %d", state.ExitCode()), &r.output)
	default:
		r.err = withOutput(state.String(), &r.output) // signal: ...
	}
}

// started takes the number of the process, and kills it if that was asked for before.
func (r *run) started(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pid = pid
	if r.late {
		killGroup(pid)
	}
}

// kill ends the process and what it has started, as soon as it is there.
func (r *run) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.late = true
	if r.pid > 0 && !r.reaped {
		killGroup(r.pid)
	}
}

// reap ends what the process, which has ended, has left behind. From then on its number
// is not used any more, and it may be waited for. It reports whether it was killed.
func (r *run) reap() (late bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	killGroup(r.pid)
	r.reaped = true
	return r.late
}

// stuck says what is known of a process that was killed and does not end.
func (r *run) stuck(timeout time.Duration) error {
	r.mu.Lock()
	pid := r.pid
	r.mu.Unlock()
	if pid == 0 {
		return fmt.Errorf("not started within %v: reading the program hangs", timeout)
	}
	state := "unknown"
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		if i := strings.LastIndex(string(stat), ") "); i >= 0 {
			state, _, _ = strings.Cut(string(stat)[i+2:], " ") // proc(5): after the name in brackets
		}
	}
	return fmt.Errorf("killed after %v, and does not end: process %d, state %s", timeout, pid, state)
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

func withOutput(reason string, output *tail) error {
	if line := lastLine(output.String()); line != "" {
		return errors.New(reason + ": " + line)
	}
	return errors.New(reason)
}

// tail keeps the end of what is written to it, so that a talkative program neither blocks
// nor fills the memory.
type tail struct {
	mu   sync.Mutex // a process that left the group may still write
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p[max(0, len(p)-maxOutput):]...)
	if over := len(t.kept) - maxOutput; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}

// lastLine returns the last line that says something: what a program prints before it
// fails is mostly worth less than what it prints last.
func lastLine(text string) string {
	text = strings.TrimRightFunc(text, unicode.IsSpace)
	return printable(text[strings.LastIndexByte(text, '\n')+1:])
}

// firstLine returns the first line that says something.
func firstLine(text string) string {
	text = strings.TrimLeftFunc(text, unicode.IsSpace)
	text, _, _ = strings.Cut(text, "\n")
	return printable(text)
}

// printable returns the line, bounded, as printable text: it goes into logs and status
// tables.
func printable(text string) string {
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
