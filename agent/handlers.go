package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/health"
)

// handler answers at the control socket.
func (a *agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", a.serveStatus)
	mux.HandleFunc("GET /v1/explain", a.serveExplain)
	mux.HandleFunc("POST /v1/wish", a.serveWish)
	mux.HandleFunc("POST /v1/join", a.serveJoin)
	mux.HandleFunc("POST /v1/leave", a.serveLeave)
	mux.HandleFunc("POST /v1/serve", a.serveServe)
	return mux
}

func (a *agent) serveStatus(w http.ResponseWriter, r *http.Request) {
	m, errCounters := a.measure(r.Context())
	var s Status
	var monitors []*health.Monitor
	err := a.loop.ask(r.Context(), func() {
		snapshot := a.loop.core.Snapshot()
		s = a.cfg.statusOf(snapshot)
		m.outlook.tell(&s, a.opts.Untuned)
		problems, alert := a.loop.problems(snapshot, m).texts()
		s.Problems, s.Alert = append(s.Problems, problems...), alert
		s.Conntrack = a.loop.news.conntrack.status()
		monitors = slices.Clone(a.checks.monitors)
	})
	if err != nil {
		unavailable(w, err)
		return
	}
	if errCounters != nil {
		s.Problems = append(s.Problems, errCounters.Error())
	}
	s.Version, s.Boot, s.MAC = a.opts.Version, fmt.Sprintf("%016x", a.loop.nonce), a.mac.String()
	s.Uptime = time.Since(a.started).Seconds()
	for i, monitor := range monitors {
		if monitor == nil {
			continue
		}
		for _, result := range monitor.Results() {
			s.Health = append(s.Health, HealthStatus{Service: a.cfg.Spec.Services[i].Name, Result: result})
		}
	}
	if m.counters == nil {
		m.counters = &nft.Counters{}
	}
	s.count(*m.counters)
	reply(w, http.StatusOK, s)
}

func (a *agent) serveExplain(w http.ResponseWriter, r *http.Request) {
	client, err := parseClient(r.FormValue("addr"))
	if err != nil {
		reply(w, http.StatusBadRequest, Reply{Error: err.Error()})
		return
	}
	// The default service is the last one; so far it is the only one.
	service := len(a.cfg.Spec.Services) - 1
	if name := r.FormValue("service"); name != "" {
		if service = a.cfg.Spec.service(name); service < 0 {
			reply(w, http.StatusBadRequest, Reply{Error: fmt.Sprintf("no service is named %q; `peervip status -o json` lists them", name)})
			return
		}
	}
	bucket := a.layout.Bucket(client)
	var e node.Explanation
	if err := a.loop.ask(r.Context(), func() { e = a.loop.core.Explain(service, bucket) }); err != nil {
		unavailable(w, err)
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
	got, err := a.loop.wish(ctx, node.Wish{Node: q.Node, Want: q.Want, Force: q.Force, Grace: q.Grace, Weight: q.Weight})
	switch {
	case errors.Is(err, errStopping):
		unavailable(w, err)
	case err != nil:
		reply(w, http.StatusGatewayTimeout, Reply{Node: q.Node, Error: err.Error()})
	case got.refused != "":
		reply(w, http.StatusConflict, Reply{Node: q.Node, Error: got.refused})
	case got.unsaved != nil:
		reply(w, http.StatusOK, Reply{Node: q.Node, Note: fmt.Sprintf("done, but a restart would forget it: %v", got.unsaved)})
	default:
		reply(w, http.StatusOK, Reply{Node: q.Node, Note: got.note, Kept: got.note != ""})
	}
}

func (a *agent) serveJoin(w http.ResponseWriter, r *http.Request) {
	var q JoinRequest
	if !readBody(w, r, &q) {
		return
	}
	if len(q.Seeds) == 0 {
		reply(w, http.StatusBadRequest, Reply{Error: "no address to join is given"})
		return
	}
	reached, err := a.cluster.Join(q.Seeds)
	switch {
	case err != nil && reached == 0:
		reply(w, http.StatusConflict, Reply{Error: err.Error()})
	case err != nil:
		reply(w, http.StatusOK, Reply{Node: a.cfg.Name, Note: fmt.Sprintf("%s; but %v", reachedNodes(reached), err)})
	default:
		reply(w, http.StatusOK, Reply{Node: a.cfg.Name, Note: reachedNodes(reached)})
	}
}

func reachedNodes(n int) string { return "reached " + node.Count(n, "nodes") }

func (a *agent) serveLeave(w http.ResponseWriter, r *http.Request) {
	var q LeaveRequest
	if r.ContentLength != 0 && !readBody(w, r, &q) {
		return
	}
	if q.KeepFlows && q.Now {
		reply(w, http.StatusBadRequest, Reply{Error: "keep_flows and now exclude each other"})
		return
	}
	leave := node.Leave{KeepFlows: q.KeepFlows, Now: q.Now}
	if a.waiting != nil {
		a.waiting.ask(leave)
	}
	a.loop.post(leave)
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

func unavailable(w http.ResponseWriter, err error) {
	reply(w, http.StatusServiceUnavailable, Reply{Error: err.Error()})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the asker may be gone; there is nobody to tell
}
