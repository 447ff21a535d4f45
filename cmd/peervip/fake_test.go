package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/peervip/peervip/agent"
)

// fakeAgent answers at a real control socket with what a test has laid down.
type fakeAgent struct {
	socket string

	mu       sync.Mutex
	replies  map[string]fakeReply // by method and path
	statuses []agent.Status       // one after the other, the last one again and again
	asked    []string             // method, path and body
}

type fakeReply struct {
	status int
	body   any
}

func newFakeAgent(t *testing.T) *fakeAgent {
	t.Helper()
	f := &fakeAgent{socket: filepath.Join(t.TempDir(), "s"), replies: map[string]fakeReply{}}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: f}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return f
}

func (f *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := r.Method + " " + r.URL.RequestURI()
	var body json.RawMessage
	if json.NewDecoder(r.Body).Decode(&body) == nil {
		f.asked = append(f.asked, key+" "+string(body))
	} else {
		f.asked = append(f.asked, key)
	}
	reply, ok := f.replies[r.Method+" "+r.URL.Path]
	if r.URL.Path == "/v1/status" && len(f.statuses) > 0 {
		reply, ok = fakeReply{http.StatusOK, f.statuses[0]}, true
		if len(f.statuses) > 1 {
			f.statuses = f.statuses[1:]
		}
	}
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.WriteHeader(reply.status)
	json.NewEncoder(w).Encode(reply.body)
}

func (f *fakeAgent) on(request string, status int, body any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replies[request] = fakeReply{status, body}
}

// requests are what was asked since the last call.
func (f *fakeAgent) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	return asked
}

// run runs a command against the agent.
func (f *fakeAgent) run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return runCommand(t, newRootCommand(), append(args, "--socket", f.socket)...)
}

// script is an agent as some commands see it: a sequence of answers.
type script struct {
	mu    sync.Mutex
	steps []step
	left  *agent.LeaveRequest // nil: it was not asked to leave
}

type step struct {
	status agent.Status
	err    error
}

// Status returns the next step, the last one again and again.
func (s *script) Status(ctx context.Context) (agent.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.steps[0]
	if len(s.steps) > 1 {
		s.steps = s.steps[1:]
	}
	if ctx.Err() != nil {
		return agent.Status{}, ctx.Err()
	}
	return next.status, next.err
}

func (s *script) Leave(_ context.Context, q agent.LeaveRequest) (agent.Reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = &q
	return agent.Reply{Node: "web-1"}, nil
}

const quick = time.Millisecond
