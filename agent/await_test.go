package agent

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// awaiting runs an agent on a host where something is not there yet, until the test has
// seen what it wants, and tells it to leave.
func awaiting(t *testing.T, change func(cfg *Config, ns *lab.Namespace), meanwhile func(cfg Config, ns *lab.Namespace, log *logText)) {
	t.Helper()
	ns, _ := host(t)
	cfg := testConfig(t, "a")
	cfg.Address = netip.Addr{}
	cfg.Spec.VIPs = []netip.Addr{netip.MustParseAddr("10.77.0.100")}
	change(&cfg, ns)
	log := &logText{}
	before := traces(t, ns)
	leave, ready, ended := make(chan struct{}), make(chan string, 10), make(chan error, 1)
	var status []string
	go func() {
		ended <- ns.Do(func() error {
			return Run(t.Context(), cfg, Options{
				Log: log.logger(), Leave: leave,
				// What READY promises is so when it is said.
				Ready:  func() { ready <- traces(t, ns) },
				Status: func(line string) { status = append(status, line) },
			})
		})
	}()
	then := within(t, "READY", ready)
	for _, want := range []string{"inet peervip_guard", "10.77.0.100/32 scope host lo:peervip", "arp peervip_guard", "net.ipv4.conf.all.arp_announce = 2"} {
		if !strings.Contains(then, want) {
			t.Errorf("READY was said without %q:\n%s", want, then)
		}
	}
	meanwhile(cfg, ns, log)
	close(leave)
	if err := within(t, "the end", ended); err != nil {
		t.Errorf("it left with %v", err)
	}
	if after := traces(t, ns); after != before {
		t.Errorf("left behind:\n%s\nbefore it was:\n%s", after, before)
	}
	if len(ready) > 0 {
		t.Error("READY was said twice")
	}
	if len(status) != 1 || !strings.HasPrefix(status[0], "NOT SERVING: ") {
		t.Errorf("systemd was told %q", status)
	}
	missing(t, cfg.Socket)
}

// An interface that is not there is waited for, with the VIP on lo, and everybody is
// told, the log once.
func TestAwaitsItsInterface(t *testing.T) {
	const why = "node.interface: there is no interface eth7: this host has lo, eth0"
	awaiting(t, func(cfg *Config, _ *lab.Namespace) { cfg.Interface = "eth7" }, func(cfg Config, ns *lab.Namespace, log *logText) {
		client := NewClient(cfg.Socket)
		s, err := client.Status(t.Context())
		must(t, err)
		if s.Phase != "joining" || len(s.Problems) != 1 || s.Problems[0] != "not serving yet: "+why || s.Lease != LeaseNone || len(s.Nodes) != 1 || !s.Nodes[0].Unknown || s.Boot == "" {
			t.Errorf("status %+v", s)
		}
		if _, err := client.Wish(t.Context(), WishRequest{Want: "drain"}); err == nil || err.Error() != "not serving yet: "+why {
			t.Errorf("a drain meanwhile: %v", err)
		}
		// What boots gets its interfaces one after the other; that is no news.
		ip(t, ns, "link add eth5 type veth peer name eth6")
		eventually(t, func() error {
			s, err := client.Status(t.Context())
			must(t, err)
			if !strings.Contains(s.Problems[0], "eth5") {
				return fmt.Errorf("problems %q", s.Problems)
			}
			return nil
		})
		if n := strings.Count(log.String(), "NOT SERVING"); n != 1 || !strings.Contains(log.String(), why) {
			t.Errorf("%d lines of log:\n%s", n, log)
		}
		ip(t, ns, "link del eth5")
	})
}

func TestAwaitsItsAddress(t *testing.T) {
	awaiting(t, func(cfg *Config, ns *lab.Namespace) { ip(t, ns, "addr flush dev eth0") }, func(cfg Config, ns *lab.Namespace, log *logText) {
		s, err := NewClient(cfg.Socket).Status(t.Context())
		must(t, err)
		if want := "not serving yet: node.interface: eth0 has no global IPv4 address: give it one, or set node.address"; s.Problems[0] != want {
			t.Errorf("%q, want %q", s.Problems[0], want)
		}
	})
}

// What somebody takes away meanwhile comes back.
func TestAwaitingKeepsGuardAndAddress(t *testing.T) {
	awaiting(t, func(cfg *Config, _ *lab.Namespace) { cfg.Interface = "eth7" }, func(cfg Config, ns *lab.Namespace, _ *logText) {
		ip(t, ns, "addr del 10.77.0.100/32 dev lo")
		_, err := ns.Run("nft", "flush", "ruleset")
		must(t, err)
		eventually(t, func() error {
			if now := traces(t, ns); !strings.Contains(now, "inet peervip_guard") || !strings.Contains(now, "10.77.0.100/32") {
				return fmt.Errorf("not back:\n%s", now)
			}
			return nil
		})
	})
}

// `peervip leave` ends an agent that waits.
func TestLeavesWhileItWaits(t *testing.T) {
	ns, _ := host(t)
	cfg := testConfig(t, "a")
	cfg.Interface, cfg.Address = "eth7", netip.Addr{}
	cfg.Spec.VIPs = []netip.Addr{netip.MustParseAddr("10.77.0.100")}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- ns.Do(func() error {
			return Run(t.Context(), cfg, Options{Log: (&logText{}).logger(), Ready: func() { close(ready) }})
		})
	}()
	within(t, "READY", ready)
	_, err := NewClient(cfg.Socket).Leave(t.Context(), LeaveRequest{})
	must(t, err)
	must(t, within(t, "the end", ended))
	missing(t, cfg.Socket)
}

// `peervip leave` may come when the agent waits no more, and is about to take part.
func TestLeaveInTheMidstOfTheStart(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		r := newRig(t, "a")
		r.agent.waiting = newAwait(r.cfg, r.opts, r.mac)
		r.control.serve(r.agent.waiting.handler())
		_, err := r.client.Leave(t.Context(), LeaveRequest{KeepFlows: keep})
		must(t, err)
		r.start()
		if err := r.end(t); err != nil || !r.members.left || r.loop.keepFlows != keep {
			t.Errorf("ended with %v, goodbye %t, flows kept %t", err, r.members.left, r.loop.keepFlows)
		}
	}
}

// `peervip leave` may come just as a life in the cluster ends because the node's address
// has changed: the next life has it.
func TestLeaveAsALifeEnds(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		r := newRig(t, "a")
		waiting := newAwait(r.cfg, r.opts, r.mac)
		r.agent.waiting = waiting
		r.start()
		r.loop.queue.put(func() { r.loop.fatal = errMoved })
		if err := r.end(t); !errors.Is(err, errMoved) {
			t.Fatalf("ended with %v", err)
		}
		// The control socket is still that of the life that has ended.
		response := httptest.NewRecorder()
		r.handler().ServeHTTP(response, httptest.NewRequest(http.MethodPost, "/v1/leave", strings.NewReader(fmt.Sprintf(`{"keep_flows":%t}`, keep))))
		if response.Code != http.StatusOK {
			t.Fatalf("%d: %s", response.Code, response.Body)
		}
		err := waiting.wait(t.Context(), func() error { return errFake }, func(string) {})
		if !errors.Is(err, errLeft) || waiting.asked().KeepFlows != keep {
			t.Errorf("an agent without an address: %v, %+v", err, waiting.asked())
		}
		next := newRig(t, "a")
		next.agent.waiting = waiting
		next.start()
		if err := next.end(t); err != nil || !next.members.left || next.loop.keepFlows != keep {
			t.Errorf("ended with %v, goodbye %t, flows kept %t", err, next.members.left, next.loop.keepFlows)
		}
	}
}
