package agent

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peervip/peervip/node"
)

// The service manager is told what the node does, that its core goes on, and, while it
// leaves, that it needs more time. A core that hangs is not said to be alive.
func TestServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	a, _ := waitingCluster(t, func(a *rig) {
		a.opts.Alive, a.opts.Extend = func() { a.alive.Add(1) }, func(by time.Duration) {
			if by < 2*extendEvery {
				t.Errorf("more time is asked for each %v, and only %v more", extendEvery, by)
			}
			a.extended.Add(1)
		}
		a.opts.Status = a.lines.add
	})
	a.says(t, "OK: active, 8 of 16 buckets (50.0%)")
	alive := a.alive.Load()
	eventually(t, func() error {
		if a.alive.Load() == alive {
			return fmt.Errorf("it is not said to be alive any more")
		}
		return nil
	})
	if n := a.extended.Load(); n > 0 {
		t.Errorf("more time was asked for %d times by a node that serves", n)
	}

	hang, began := make(chan struct{}), make(chan struct{})
	a.loop.queue.put(func() { close(began); <-hang })
	within(t, "the hang", began)
	time.Sleep(100 * time.Millisecond) // what was on its way
	alive = a.alive.Load()
	time.Sleep(2*reportPeriod + reportPeriod/2)
	if n := a.alive.Load(); n != alive {
		t.Errorf("while its core hangs it is said to be alive %d times", n-alive)
	}
	close(hang)

	_, err := a.client.Leave(t.Context(), LeaveRequest{})
	must(t, err)
	a.says(t, "leaving, waiting for 200 open connections, at most ")
	eventually(t, func() error {
		if a.extended.Load() == 0 {
			return fmt.Errorf("no more time is asked for")
		}
		return nil
	})
	_, err = a.client.Leave(t.Context(), LeaveRequest{Now: true})
	must(t, err)
	must(t, a.end(t))
}

// told is what a rig's service manager was told.
type told struct {
	alive, extended atomic.Int64
	lines           lineList
}

type lineList struct {
	mu   sync.Mutex
	list []string
}

func (l *lineList) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, line)
}

// says waits until the status line has had these words.
func (r *rig) says(t *testing.T, words string) {
	t.Helper()
	eventually(t, func() error {
		r.lines.mu.Lock()
		defer r.lines.mu.Unlock()
		for _, line := range r.lines.list {
			if strings.Contains(line, words) {
				return nil
			}
		}
		return fmt.Errorf("the service manager was told %q, without %q", r.lines.list, words)
	})
}

func TestStatusLine(t *testing.T) {
	base := func() Status {
		return Status{
			Node: "web-1", Phase: "active", Lease: LeaseHeld, Agreed: true,
			Services: []ServiceStatus{{Name: "other", Buckets: 1024}},
			Nodes: []NodeStatus{{Name: "web-1", Phase: "active", Alive: true, Services: map[string]NodeServiceStatus{"other": {Own: 340, Adopt: 2}}},
				{Name: "web-2", Phase: "active", Alive: true, Services: map[string]NodeServiceStatus{"other": {Own: 682}}}},
		}
	}
	for want, change := range map[string]func(*Status){
		"OK: active, 342 of 1024 buckets (33.4%)":                                    func(*Status) {},
		"2 PROBLEMS: active, 342 of 1024 buckets (33.4%)":                            func(s *Status) { s.Problems = []string{"x", "y"} },
		"NOT WELL, no beacon comes on the wire: active, 342 of 1024 buckets (33.4%)": func(s *Status) { s.Alert = "no beacon comes on the wire" },
		"NOT SERVING: joining, not serving yet: the seeds are being tried": func(s *Status) {
			s.Phase, s.Problems = node.Joining.String(), []string{"not serving yet: the seeds are being tried"}
		},
		"OK: leaving, waiting for 1 open connection, at most 30s; `peervip leave --now` ends them": func(s *Status) {
			s.Phase, s.Nodes[0].Phase, s.Nodes[0].Waiting = "leaving", "leaving", &WaitingStatus{Flows: 1, Left: 30}
		},
	} {
		s := base()
		change(&s)
		if got := s.Line(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
