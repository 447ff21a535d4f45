package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// process is a running command inside a namespace. It dies with the lab's own
// process, however that ends.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and err is set
	err  error
}

// startProcess starts the command inside the namespace. It has a session of its
// own, as a service has: the terminal's Ctrl-C is for the lab, which ends its agents
// in order, and where the kernel shares processors among sessions it has its share.
func startProcess(ns *Namespace, cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	// The kernel sends the death signal when the thread that forked ends, so that
	// thread is kept until the child is gone (prctl(2), PR_SET_PDEATHSIG).
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := netns.Set(ns.handle)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("sending %v to process %d: %w", s, p.pid(), err)
	}
	return nil
}

// Usage is what a process has used.
type Usage struct {
	// RSS is the resident memory in bytes, now.
	RSS int64
	// CPU is the processor time since the start, of all threads, user and system.
	CPU time.Duration
}

// Usage returns what the node's agent has used so far.
func (n *Node) Usage() (Usage, error) {
	pid := n.PID()
	if pid == 0 {
		return Usage{}, fmt.Errorf("usage of the agent of %s: it is not running", n.Name)
	}
	u, err := usage(pid)
	if err != nil {
		return Usage{}, fmt.Errorf("usage of the agent of %s: %w", n.Name, err)
	}
	return u, nil
}

func usage(pid int) (Usage, error) {
	// The clock of another process's CPU time, in nanoseconds where /proc/PID/stat
	// has only ticks: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel's
	// include/linux/posix-timers_types.h.
	const cpuclockSched = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuclockSched), &ts); err != nil {
		return Usage{}, fmt.Errorf("reading its CPU clock: %w", err)
	}
	// The second field of statm is the resident set in pages, proc_pid_statm(5).
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return Usage{}, err
	}
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return Usage{}, fmt.Errorf("/proc/%d/statm: %q", pid, statm)
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return Usage{}, fmt.Errorf("/proc/%d/statm: %w", pid, err)
	}
	return Usage{RSS: pages * int64(os.Getpagesize()), CPU: time.Duration(ts.Nano())}, nil
}
