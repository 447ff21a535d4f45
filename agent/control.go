package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// The control socket speaks HTTP with JSON bodies:
//
//	GET  /v1/status             Status
//	GET  /v1/explain?addr=&service=  Explanation
//	POST /v1/wish    WishRequest     Reply
//	POST /v1/join    JoinRequest     Reply
//	POST /v1/leave                   Reply
//
// A refusal has status 409, a malformed request 400, both with a Reply whose
// Error is a line for the operator.

// WishRequest is what an operator wants of a node.
type WishRequest struct {
	Node   string        `json:"node"` // empty: the node that is asked
	Want   node.WishKind `json:"want"`
	Force  bool          `json:"force,omitempty"`
	Weight int           `json:"weight,omitempty"`
}

// JoinRequest names more seeds.
type JoinRequest struct {
	Seeds []string `json:"seeds"`
}

// Reply is the answer to a command.
type Reply struct {
	Error string `json:"error,omitempty"`
	// Note says what is special about a success.
	Note string `json:"note,omitempty"`
	// Node is who was asked, by name.
	Node string `json:"node,omitempty"`
}

// answerTimeout bounds the wait for another node's word.
const answerTimeout = 10 * time.Second

// listen opens the control socket, for its owner and group only. A socket that
// nobody listens at is replaced.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the control socket's directory: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(
			fmt.Errorf("control.socket: another agent listens at %s: stop it, or choose another path", path), c.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing the control socket of an earlier agent: %w", err)
	}
	// Made under a private name first: nobody may connect before the mode is set.
	private := path + ".new"
	if err := os.Remove(private); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing the control socket of an earlier agent: %w", err)
	}
	l, err := net.Listen("unix", private)
	if err != nil {
		return nil, fmt.Errorf("control.socket: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	s := &socket{Listener: l, path: path}
	if err := errors.Join(os.Chmod(private, 0o660), os.Rename(private, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("control.socket: %w", err), s.Close())
	}
	return s, nil
}

// socket is a listener that removes its path when it is closed.
type socket struct {
	net.Listener
	path string
}

// Close may be called again.
func (s *socket) Close() error {
	err := s.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	if errRemove := os.Remove(s.path); !errors.Is(errRemove, fs.ErrNotExist) {
		err = errors.Join(err, errRemove)
	}
	return err
}

// serve answers at the control socket until the context ends.
func (a *agent) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", a.serveStatus)
	mux.HandleFunc("GET /v1/explain", a.serveExplain)
	mux.HandleFunc("POST /v1/wish", a.serveWish)
	mux.HandleFunc("POST /v1/join", a.serveJoin)
	mux.HandleFunc("POST /v1/leave", a.serveLeave)
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving the control socket: %w", err)
	case <-ctx.Done():
	}
	// Answers that are being written are let out; none waits for anything any more.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := server.Shutdown(last)
	<-served
	if errors.Is(err, context.DeadlineExceeded) {
		return server.Close()
	}
	return err
}

// ask runs f in the loop and waits for it.
func (l *loop) ask(ctx context.Context, f func()) error {
	done := make(chan struct{})
	l.queue.put(func() { f(); close(done) })
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the agent: %w", ctx.Err())
	}
}

func (a *agent) serveStatus(w http.ResponseWriter, r *http.Request) {
	var s Status
	err := a.loop.ask(r.Context(), func() {
		s = a.cfg.statusOf(a.loop.core.Snapshot())
		s.Problems = a.loop.problems(s.Problems)
	})
	if err != nil {
		reply(w, http.StatusServiceUnavailable, Reply{Error: err.Error()})
		return
	}
	for i, n := range s.Nodes {
		if n.Name == a.cfg.Name {
			s.Nodes[i].Address = a.cfg.Address.String()
		}
	}
	s.Version, s.MAC, s.Uptime = a.opts.Version, a.mac.String(), time.Since(a.started).Seconds()
	for i, m := range a.health {
		if m == nil {
			continue
		}
		for _, result := range m.Results() {
			s.Health = append(s.Health, HealthStatus{Service: a.cfg.Spec.Services[i].Name, Result: result})
		}
	}
	counters, err := a.loop.kernel.counters(r.Context())
	if err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	s.count(counters)
	if n := counters.ForeignMAC.Packets; n > 0 {
		s.Problems = append(s.Problems, fmt.Sprintf(
			"%d packets for the VIP came to this node's own MAC and past the buckets: a client or router holds a stale neighbour entry for it; clear it there", n))
	}
	if n := a.members.Stats().OtherKey; n > 0 {
		s.Problems = append(s.Problems, fmt.Sprintf(
			"%d times since the start somebody without this cluster's key knocked at port %d: give it the right key file, or keep it out", n, a.cfg.Port))
	}
	reply(w, http.StatusOK, s)
}

func (a *agent) serveExplain(w http.ResponseWriter, r *http.Request) {
	client, err := parseClient(r.FormValue("addr"))
	if err != nil {
		reply(w, http.StatusBadRequest, Reply{Error: err.Error()})
		return
	}
	service := 0
	if name := r.FormValue("service"); name != "" {
		if service = a.cfg.Spec.service(name); service < 0 {
			reply(w, http.StatusBadRequest, Reply{Error: fmt.Sprintf("no service is named %q; `peervip status` lists them", name)})
			return
		}
	}
	layout, err := hashring.NewLayout(a.cfg.Cluster, a.cfg.Spec.Seed, a.cfg.Spec.Buckets)
	if err != nil {
		reply(w, http.StatusInternalServerError, Reply{Error: err.Error()})
		return
	}
	bucket := layout.Bucket(client)
	var e node.Explanation
	if err := a.loop.ask(r.Context(), func() { e = a.loop.core.Explain(service, bucket) }); err != nil {
		reply(w, http.StatusServiceUnavailable, Reply{Error: err.Error()})
		return
	}
	reply(w, http.StatusOK, Explanation{
		Client: client.String(), Service: a.cfg.Spec.Services[service].Name, Bucket: bucket, Buckets: a.cfg.Spec.Buckets,
		Owner: e.Owner, Holders: append([]string{}, e.Holders...), State: e.State.String(), Node: a.cfg.Name, Why: e.Why,
	})
}

// parseClient reads ADDR or ADDR:PORT. The port does not matter to a service
// whose affinity is the client's address.
func parseClient(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		port, errPort := netip.ParseAddrPort(text)
		if errPort != nil {
			return addr, fmt.Errorf("%q is no address: give one like 192.0.2.7 or 192.0.2.7:40000", text)
		}
		addr = port.Addr()
	}
	if addr = addr.Unmap(); !addr.Is4() {
		return addr, fmt.Errorf("%s: IPv6 is not supported yet", addr)
	}
	return addr, nil
}

// service is the number of the service of that name, or -1.
func (s Spec) service(name string) int {
	for i, service := range s.Services {
		if service.Name == name {
			return i
		}
	}
	return -1
}

func (a *agent) serveWish(w http.ResponseWriter, r *http.Request) {
	var q WishRequest
	if !readBody(w, r, &q) {
		return
	}
	if q.Node == "" {
		q.Node = a.cfg.Name
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	got := make(chan answer, 1)
	var token uint64
	err := a.loop.ask(ctx, func() {
		a.loop.tokens++
		token = a.loop.tokens
		a.loop.answers[token] = got
		a.loop.step(node.Wished{Token: token, Wish: node.Wish{
			Node: q.Node, Want: q.Want, Force: q.Force, Weight: q.Weight,
		}})
	})
	if err != nil {
		reply(w, http.StatusServiceUnavailable, Reply{Error: err.Error()})
		return
	}
	select {
	case answer := <-got:
		if answer.refused != "" {
			reply(w, http.StatusConflict, Reply{Error: answer.refused, Node: q.Node})
			return
		}
		reply(w, http.StatusOK, Reply{Note: answer.note, Node: q.Node})
	case <-ctx.Done():
		a.loop.queue.put(func() { delete(a.loop.answers, token) })
		reply(w, http.StatusGatewayTimeout, Reply{Node: q.Node, Error: fmt.Sprintf(
			"%s has not answered within %v; the command is kept and told again until it does, see `peervip status`", q.Node, answerTimeout)})
	}
}

func (a *agent) serveJoin(w http.ResponseWriter, r *http.Request) {
	var q JoinRequest
	if !readBody(w, r, &q) {
		return
	}
	reached, err := a.members.Join(q.Seeds)
	switch {
	case err != nil && reached == 0:
		reply(w, http.StatusConflict, Reply{Error: err.Error()})
	case err != nil:
		reply(w, http.StatusOK, Reply{Note: fmt.Sprintf("%d reached; but %v", reached, err)})
	default:
		reply(w, http.StatusOK, Reply{Note: fmt.Sprintf("%d reached", reached)})
	}
}

func (a *agent) serveLeave(w http.ResponseWriter, _ *http.Request) {
	a.loop.post(node.Leave{})
	reply(w, http.StatusOK, Reply{Node: a.cfg.Name})
}

func readBody(w http.ResponseWriter, r *http.Request, into any) bool {
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	body.DisallowUnknownFields()
	if err := body.Decode(into); err != nil {
		reply(w, http.StatusBadRequest, Reply{Error: fmt.Sprintf("reading the request: %v", err)})
		return false
	}
	return true
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the asker may be gone; there is nobody to tell
}
