package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/health"
)

func TestStatusOfAWellCluster(t *testing.T) {
	t.Parallel()
	_, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	a.filter.set(func(f *fakeFilter) {
		f.counters = nft.Counters{Services: []nft.ServiceCounters{{
			Accepted: map[node.State]nft.Counter{node.Own: {Packets: 5}}, Dropped: nft.Counter{Packets: 6}}}}
	})
	var s Status
	eventually(t, func() error {
		s = a.status(t)
		if len(s.Nodes) != 2 || !s.Agreed || s.Nodes[0].Services["other"].Flows != 7 || s.Nodes[1].Services["other"].Flows != 7 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if len(s.Problems) != 0 {
		t.Errorf("problems %q", s.Problems)
	}
	for _, check := range []struct {
		what      string
		got, want any
	}{
		{"cluster", s.Cluster, "web"}, {"node", s.Node, "a"}, {"version", s.Version, "test"}, {"phase", s.Phase, "active"},
		{"boot", len(s.Boot), 16}, {"lease", s.Lease, LeaseHeld}, {"MAC", s.MAC, "01:00:5e:7f:02:64"},
		{"VIPs", strings.Join(s.VIPs, " "), "192.0.2.100 192.0.2.101"},
		{"accepted", s.Counters["accepted_packets"], uint64(5)}, {"dropped", s.Counters["dropped_packets"], uint64(6)},
		{"service", s.Services[0], ServiceStatus{Name: "other", Buckets: buckets}},
		{"own address", s.Nodes[0].Address, "192.0.2.11"}, {"weight", s.Nodes[0].Weight, 100}, {"alive", s.Nodes[1].Alive, true},
		{"share", s.Nodes[0].Services["other"].Own, buckets / 2}, {"healthy", s.Nodes[0].Services["other"].Healthy, true},
	} {
		if check.got != check.want {
			t.Errorf("%s: %v, want %v", check.what, check.got, check.want)
		}
	}
	if s.Boot == rigs[1].status(t).Boot {
		t.Error("two agents of one boot")
	}
	// Lists and maps are never null: scripts go through them.
	response := httptest.NewRecorder()
	a.handler().ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/v1/status", nil))
	if text := response.Body.String(); strings.Contains(text, "null") || !json.Valid([]byte(text)) {
		t.Errorf("%s", text)
	}
}

func TestStatusShowsHealthChecks(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a", func(c *Config) {
		c.Spec.Services[0].Health = []health.Check{{
			Type: health.Exec, Command: []string{"/bin/false"}, Interval: 20 * time.Millisecond, Timeout: 20 * time.Millisecond, Rise: 1, Fall: 1}}
	})
	var err error
	r.monitors, err = newMonitors(r.cfg.Spec, r.loop.log)
	must(t, err)
	r.start()
	r.problem(t, true, "service other: this node is unfit: ")
	var s Status
	eventually(t, func() error {
		s = r.status(t)
		if len(s.Health) != 1 || s.Health[0].Service != "other" || s.Health[0].OK || s.Health[0].Reason == "" {
			return fmt.Errorf("health %+v", s.Health)
		}
		return nil
	})
	if s.Nodes[0].Services["other"].Healthy {
		t.Error("the node is healthy")
	}
}

// Strangers and stale neighbour entries are counted, and are problems while they
// go on.
func TestStatusCountsStrangers(t *testing.T) {
	t.Parallel()
	_, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	a.members.set(func(c *fakeCluster) { c.stats.OtherKey = 3 })
	a.filter.set(func(f *fakeFilter) { f.counters.ForeignMAC.Packets = 4 })
	a.problem(t, true, "3 times since the start somebody without this cluster's key knocked at port 7946")
	a.problem(t, true, "4 packets for the VIP came to this node's own MAC")
	a.ask(t, func(l *loop) { l.news.knocks.at, l.news.foreignMAC.at = l.now()-2*lately, l.now()-2*lately })
	a.problem(t, false, "knocked")
	a.problem(t, false, "own MAC")
}

func TestExplain(t *testing.T) {
	t.Parallel()
	_, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	for _, test := range []struct {
		client, service string
		want            string // the client as it is understood, or the error
	}{
		{"192.0.2.7", "", "192.0.2.7"},
		{"192.0.2.7", "other", "192.0.2.7"},
		{"192.0.2.7:40000", "", "192.0.2.7"},
		{"::ffff:192.0.2.7", "", "192.0.2.7"},
		{"[::ffff:192.0.2.7]:1", "", "192.0.2.7"},
		{"2001:db8::7", "", "2001:db8::7: IPv6 is not supported yet"},
		{"[2001:db8::7]:80", "", "2001:db8::7: IPv6 is not supported yet"},
		{"fe80::1%eth0", "", "fe80::1%eth0: IPv6 is not supported yet"},
		{"", "", `"" is no address: give one like 192.0.2.7 or 192.0.2.7:40000`},
		{"web-1", "", `"web-1" is no address: give one like 192.0.2.7 or 192.0.2.7:40000`},
		{"192.0.2.7:", "", `"192.0.2.7:" is no address: give one like 192.0.2.7 or 192.0.2.7:40000`},
		{"192.0.2.7:70000", "", `"192.0.2.7:70000" is no address: give one like 192.0.2.7 or 192.0.2.7:40000`},
		{"192.0.2.300", "", `"192.0.2.300" is no address: give one like 192.0.2.7 or 192.0.2.7:40000`},
		{"192.0.2.7&service=x", "", `"192.0.2.7&service=x" is no address: give one like 192.0.2.7 or 192.0.2.7:40000`},
		{"192.0.2.7", "web", "no service is named \"web\"; `peervip status -o json` lists them"},
	} {
		e, err := a.client.Explain(t.Context(), test.client, test.service)
		got := e.Client
		if err != nil {
			got = err.Error()
		} else if e.Service != "other" || e.Buckets != buckets || e.Bucket < 0 || e.Bucket >= buckets ||
			!slices.Equal(e.Holders, []string{e.Owner}) || e.Node != "a" || e.Why == "" {
			t.Errorf("%s: %+v", test.client, e)
		} else if (e.State == "own") != (e.Owner == "a") {
			t.Errorf("%s: owner %s, state here %s", test.client, e.Owner, e.State)
		}
		if got != test.want {
			t.Errorf("%q %q: %s, want %s", test.client, test.service, got, test.want)
		}
	}
	if e, err := rigs[1].client.Explain(t.Context(), "192.0.2.7", ""); err != nil {
		t.Error(err)
	} else if f, _ := a.client.Explain(t.Context(), "192.0.2.7", ""); e.Owner != f.Owner || e.Bucket != f.Bucket {
		t.Errorf("two nodes, two words: %+v, %+v", e, f)
	}
}

func TestWishes(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	a, b := rigs[0], rigs[1]
	for _, test := range []struct {
		name string
		wish WishRequest
		want string // the refusal; "": done
	}{
		{"a weight, here", WishRequest{Want: node.WantWeight, Weight: 300}, ""},
		{"a weight, there", WishRequest{Node: "b", Want: node.WantWeight, Weight: 300}, ""},
		{"no weight", WishRequest{Want: node.WantWeight}, "weight 0: must be 1 to 1000"},
		{"too much weight, there", WishRequest{Node: "b", Want: node.WantWeight, Weight: 2000}, "weight 2000: must be 1 to 1000"},
		{"an unknown node", WishRequest{Node: "c", Want: node.WantDrain}, "no node is named \"c\"; `peervip status` lists them"},
		{"nothing that is known", WishRequest{Want: "dance"}, `a does not know how to "dance"; is it an older version?`},
		{"drain, there", WishRequest{Node: "b", Want: node.WantDrain}, ""},
		{"drain of the last", WishRequest{Want: node.WantDrain}, "a is the last fit node: nobody would answer; drain it all the same with --force"},
		{"resume, there", WishRequest{Node: "b", Want: node.WantResume}, ""},
	} {
		r, err := a.client.Wish(t.Context(), test.wish)
		if test.want != "" {
			if err == nil || err.Error() != test.want {
				t.Errorf("%s: %v, want %s", test.name, err, test.want)
			}
			continue
		}
		want := Reply{Node: "a"}
		if test.wish.Node != "" {
			want.Node = test.wish.Node
		}
		if err != nil || r != want {
			t.Errorf("%s: %+v, %v", test.name, r, err)
		}
		if test.name == "drain, there" {
			b.phase(t, node.Drained)
			s.settled(t, a)
		}
	}
	s.settled(t, a, b)

	s.die(t, "b")
	r, err := a.client.Wish(t.Context(), WishRequest{Node: "b", Want: node.WantDrain})
	if err != nil || !r.Kept || r.Note != "b is down; it will be told when it comes back" {
		t.Errorf("drain of a node that is down: %+v, %v", r, err)
	}
	if _, err := a.client.Wish(t.Context(), WishRequest{Want: node.WantDrain, Force: true}); err != nil {
		t.Errorf("drain --force of the last: %v", err)
	}
	a.phase(t, node.Drained)
	if n := a.filter.owned(); n != 0 {
		t.Errorf("it still has %d buckets", n)
	}
	if m, err := loadMemory(a.cfg.StateDir); err != nil || !m.Drained || !m.Forced {
		t.Errorf("remembered: %+v, %v", m, err)
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	for _, test := range []struct {
		seeds   []string
		reached int
		err     error
		want    string // the note, or the error
	}{
		{nil, 0, nil, "no address to join is given"},
		{[]string{"b"}, 1, nil, "reached 1 node"},
		{[]string{"b", "c"}, 2, nil, "reached 2 nodes"},
		{[]string{"b", "c"}, 1, gossip.SeedErrors{{Seed: "c", Err: errFake}}, "reached 1 node; but c: " + errFake.Error()},
		{[]string{"c"}, 0, gossip.SeedErrors{{Seed: "c", Err: errFake}}, "c: " + errFake.Error()},
	} {
		r.members.join = func(seeds []string) (int, error) {
			if !slices.Equal(seeds, test.seeds) {
				t.Errorf("joins %q, want %q", seeds, test.seeds)
			}
			return test.reached, test.err
		}
		got, err := r.client.Join(t.Context(), test.seeds)
		if text := got.Note; text != test.want && (err == nil || err.Error() != test.want) {
			t.Errorf("%v: %+v, %v", test.seeds, got, err)
		}
		if (err == nil) != (test.reached > 0) {
			t.Errorf("%v: error %v", test.seeds, err)
		}
	}
}

func TestLeaveByCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	if reply, err := r.client.Leave(t.Context(), LeaveRequest{}); err != nil || reply.Node != "a" {
		t.Errorf("%+v, %v", reply, err)
	}
	if err := r.end(t); err != nil || !r.members.left {
		t.Errorf("ended with %v, goodbye %t", err, r.members.left)
	}
	if r.loop.keepFlows {
		t.Error("the flows are kept")
	}
	must(t, r.control.Close())
	if _, err := r.client.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("status after the end: %v", err)
	}
}

// For a restart the flows are left to the next life, for which the others wait.
func TestLeaveForARestart(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(r *rig) error{
		"by command": func(r *rig) error {
			_, err := r.client.Leave(t.Context(), LeaveRequest{KeepFlows: true})
			return err
		},
		"by signal": func(r *rig) error { close(r.restart); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			_, rigs := newCluster(t, "a", "b")
			a, b := rigs[0], rigs[1]
			must(t, leave(a))
			if err := a.end(t); err != nil || !a.members.left || !a.loop.keepFlows {
				t.Errorf("ended with %v, goodbye %t, flows kept %t", err, a.members.left, a.loop.keepFlows)
			}
			if a.filter.owned() != 0 || b.filter.owned() != buckets {
				t.Errorf("a has %d buckets, b %d of %d", a.filter.owned(), b.filter.owned(), buckets)
			}
			b.loop.Event(gossip.Dead{Name: "a", Left: true})
			eventually(t, func() error {
				s := b.status(t)
				if n := s.Nodes[0]; len(s.Nodes) != 2 || n.Name != "a" || n.Alive || n.Phase != "restarting" || len(n.Services) != 1 {
					return fmt.Errorf("b sees %+v", s.Nodes)
				}
				return nil
			})
		})
	}
}

// What does not belong here is refused in one line that says what.
func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	for _, test := range []struct {
		method, path, body string
		status             int
		words              string
	}{
		{"POST", "/v1/wish", "", 400, "reading the request: EOF"},
		{"POST", "/v1/wish", "{", 400, "reading the request: unexpected EOF"},
		{"POST", "/v1/wish", `{"want":"drain","knode":"b"}`, 400, `unknown field "knode"`},
		{"POST", "/v1/wish", `{"want":3}`, 400, "cannot unmarshal"},
		{"POST", "/v1/wish", `{"node":"` + strings.Repeat("x", 2<<20) + `"}`, 400, "too large"},
		{"POST", "/v1/join", `[]`, 400, "cannot unmarshal"},
		{"POST", "/v1/leave", `{"keep":true}`, 400, `unknown field "keep"`},
		{"GET", "/v1/leave", "", 405, ""},
		{"DELETE", "/v1/status", "", 405, ""},
		{"GET", "/", "", 404, ""},
	} {
		response := httptest.NewRecorder()
		r.handler().ServeHTTP(response, httptest.NewRequest(test.method, test.path, bytes.NewBufferString(test.body)))
		var refusal Reply
		_ = json.Unmarshal(response.Body.Bytes(), &refusal)
		if response.Code != test.status || !strings.Contains(refusal.Error, test.words) {
			t.Errorf("%s %s %.40s: %d %q, want %d %q", test.method, test.path, test.body, response.Code, refusal.Error, test.status, test.words)
		}
	}
	r.ask(t, func(*loop) {}) // and goes on
}

// A socket that fails under the server ends the agent: nobody could stop it any
// more but by a signal.
func TestSocketFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	r.ask(t, func(*loop) {})
	must(t, r.control.socket.Close())
	if err := r.end(t); err == nil || !strings.HasPrefix(err.Error(), "serving the control socket: ") {
		t.Errorf("ended with %v", err)
	}
}

// fakeAgent listens at a socket and does with each connection what it is told.
func fakeAgent(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return path
}

func TestClientSaysWhatToDo(t *testing.T) {
	answering := func(text string) string {
		return fakeAgent(t, func(c net.Conn) {
			buffer := make([]byte, 1<<16)
			if _, err := c.Read(buffer); err == nil {
				io.WriteString(c, text)
			}
		})
	}
	dir := t.TempDir()
	left := filepath.Join(dir, "left")
	stale(t, left)
	hung := make(chan struct{})
	defer close(hung)
	for _, test := range []struct {
		name, socket string
		is           error
		want         string // with SOCKET for its path
	}{
		{"no socket", filepath.Join(dir, "none"), ErrNotRunning,
			"no agent runs at SOCKET: start it with `systemctl start peervip` or `peervip agent`, or name its socket with --socket"},
		{"a stale socket", left, ErrNotRunning,
			"no agent runs at SOCKET: start it with `systemctl start peervip` or `peervip agent`, or name its socket with --socket"},
		{"dies at once", fakeAgent(t, func(net.Conn) {}), ErrUnavailable, "the agent at SOCKET ended before it answered: see its log"},
		{"dies after the question", answering(""), ErrUnavailable, "the agent at SOCKET ended before it answered: see its log"},
		{"dies in its answer", answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), ErrUnavailable,
			"the agent at SOCKET ended before it answered: see its log"},
		{"stopping", answering("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 15\r\n\r\n{\"error\":\"why\"}"), ErrUnavailable, "why"},
		{"hangs", fakeAgent(t, func(c net.Conn) { <-hung }), context.DeadlineExceeded,
			"the agent at SOCKET does not answer (context deadline exceeded): is its process stopped, or the machine overloaded?"},
		{"garbage", answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nwhy"), nil,
			"the answer of the agent at SOCKET cannot be read (invalid character 'w' looking for beginning of value): is it of another version?"},
		{"another version", answering("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), nil,
			"the agent at SOCKET answered 404 Not Found: is it of another version?"},
		{"another program", answering("220 mail.example ESMTP\r\n"), nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := NewClient(test.socket)
			if test.name == "hangs" {
				c.timeout = 50 * time.Millisecond
			}
			_, err := c.Status(t.Context())
			if err == nil || test.is != nil && !errors.Is(err, test.is) {
				t.Fatalf("%v, want a kind of %v", err, test.is)
			}
			if want := strings.ReplaceAll(test.want, "SOCKET", test.socket); want != "" && err.Error() != want {
				t.Errorf("%v\nwant %s", err, want)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "http://") {
				t.Errorf("not one line for an operator: %q", err)
			}
		})
	}
	t.Run("not permitted", func(t *testing.T) {
		err := NewClient("/run/s").explain(&net.OpError{Op: "dial", Net: "unix", Err: fs.ErrPermission})
		if want := "the agent's socket /run/s is not open to you: use sudo, or join its group"; err.Error() != want {
			t.Errorf("%v", err)
		}
	})
}
