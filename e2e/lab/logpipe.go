package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// logPipe carries what an agent logs to its log file, as a log collector would. It
// can stall as one can: then the agent hangs at its next line.
type logPipe struct {
	from, to *os.File
	gate     sync.Mutex // held while the pipe is stalled
	stalled  bool
	holds    atomic.Bool   // carry has read what it has not written yet
	done     chan struct{} // closed when everything has been carried
}

// newLogPipe returns the pipe and the end that is the agent's; the file is the
// pipe's from then on. It ends when the agent has.
func newLogPipe(to *os.File) (*logPipe, *os.File, error) {
	from, agents, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(err, to.Close())
	}
	p := &logPipe{from: from, to: to, done: make(chan struct{})}
	go p.carry()
	return p, agents, nil
}

func (p *logPipe) carry() {
	defer close(p.done)
	defer p.to.Close()
	defer p.from.Close()
	buf := make([]byte, 4096)
	for {
		n, err := p.from.Read(buf)
		p.holds.Store(true)
		p.gate.Lock()
		p.to.Write(buf[:n])
		p.holds.Store(false)
		p.gate.Unlock()
		if err != nil {
			return // io.EOF: the agent has ended
		}
	}
}

// stall stops the carrying, and fills the pipe so that not a line more fits.
func (p *logPipe) stall() error {
	if p.stalled {
		return nil
	}
	p.gate.Lock()
	p.stalled = true
	raw, err := p.from.SyscallConn()
	if err != nil {
		return err
	}
	// An end of our own, which does not wait for room: the agent's must.
	fill := -1
	ctlErr := raw.Control(func(fd uintptr) {
		fill, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err := errors.Join(ctlErr, err); err != nil {
		return fmt.Errorf("opening a log's pipe: %w", err)
	}
	defer unix.Close(fill)
	filling := bytes.Repeat([]byte{'\n'}, 64)
	for {
		held := p.holds.Load() // before the pipe is found full: carry reads nothing more
		_, err := unix.Write(fill, filling)
		switch {
		case errors.Is(err, syscall.EAGAIN) && len(filling) > 1:
			filling = filling[:1] // into the rest of the last page, where a short line fits
		case errors.Is(err, syscall.EAGAIN) && held:
			return nil
		case errors.Is(err, syscall.EAGAIN):
			time.Sleep(time.Millisecond)
		case err != nil:
			return fmt.Errorf("filling a log's pipe: %w", err)
		}
	}
}

func (p *logPipe) resume() {
	if p.stalled {
		p.stalled = false
		p.gate.Unlock()
	}
}

// close waits until everything has been carried. It is for when the agent has
// ended.
func (p *logPipe) close() {
	if p != nil {
		p.resume()
		<-p.done
	}
}

// StallLog stops the reader of the agent's log, which LogByPipe has made a pipe,
// and fills the pipe: whatever part of the agent has something to log hangs.
func (n *Node) StallLog() error {
	if n.pipe == nil {
		return fmt.Errorf("stalling the log of %s: it is no pipe", n.Name)
	}
	return n.pipe.stall()
}

// ResumeLog lets the log be read again.
func (n *Node) ResumeLog() {
	if n.pipe != nil {
		n.pipe.resume()
	}
}
