package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/peervip/peervip/node"
)

// The control socket speaks HTTP with JSON bodies:
//
//	GET  /v1/status                  Status
//	GET  /v1/explain?addr=&service=  Explanation
//	POST /v1/wish    WishRequest     Reply
//	POST /v1/join    JoinRequest     Reply
//	POST /v1/leave   LeaveRequest    Reply
//	POST /v1/serve   ServeRequest    Reply
//	POST /v1/reload                  Reloaded
//
// A refusal has status 409, a malformed request 400, an agent that is ending 503, a
// configuration that cannot be used 422,
// all with a Reply whose Error is a line for the operator.

// WishRequest is what an operator wants of a node.
type WishRequest struct {
	Node  string        `json:"node"` // empty: the node that is asked
	Want  node.WishKind `json:"want"`
	Force bool          `json:"force,omitempty"`
	// Grace, with node.WantDrain, replaces spec.drain_timeout for this drain.
	Grace  *time.Duration `json:"grace_ns,omitempty"`
	Weight int            `json:"weight,omitempty"`
}

// JoinRequest names more seeds.
type JoinRequest struct {
	Seeds []string `json:"seeds"`
}

// LeaveRequest asks the agent to end; it may be left out.
type LeaveRequest struct {
	// KeepFlows leaves the address up, and the open connections with it, for an agent
	// that is started soon after.
	KeepFlows bool `json:"keep_flows,omitempty"`
	// Now ends the open connections once everything is handed over. It may be said
	// while a leave is under way.
	Now bool `json:"now,omitempty"`
}

// ServeRequest has a node serve though strangers of these addresses are on its wire,
// until its next start.
type ServeRequest struct {
	Despite []string `json:"despite"`
}

// Reply is the answer to a command.
type Reply struct {
	Error string `json:"error,omitempty"`
	// Note says what is special about a success.
	Note string `json:"note,omitempty"`
	// Node is who was asked, by name.
	Node string `json:"node,omitempty"`
	// Kept: the node is down. It is told when it comes back.
	Kept bool `json:"kept,omitempty"`
}

const (
	// answerTimeout bounds the wait for another node's word.
	answerTimeout = 10 * time.Second
	// lastAnswers bounds the wait for answers that are being written at the end.
	lastAnswers = time.Second
)

// control is the control socket and the server behind it. It outlives the loop:
// until everything is taken back it says that the agent is stopping.
type control struct {
	socket  *socket
	server  *http.Server
	handler atomic.Pointer[http.Handler] // who answers now
	done    chan struct{}                // closed when the server has ended, with err; nil: it was not started
	err     error
}

func newControl(s *socket) *control {
	return &control{socket: s, server: &http.Server{ReadHeaderTimeout: 5 * time.Second}}
}

// serve answers from now on by h, until Close.
func (c *control) serve(h http.Handler) {
	if c.handler.Swap(&h) != nil {
		return // it is on the way already
	}
	c.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*c.handler.Load()).ServeHTTP(w, r) })
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		c.err = c.server.Serve(c.socket)
	}()
}

// watch returns why the server has ended by itself, or nil with the context.
func (c *control) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.done:
		return fmt.Errorf("serving the control socket: %w", c.err)
	}
}

// Close lets out the answers that are being written, and removes the socket.
func (c *control) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), lastAnswers)
	defer cancel()
	err := c.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = c.server.Close()
	}
	err = errors.Join(err, c.socket.Close())
	if c.done != nil {
		<-c.done
	}
	return err
}
