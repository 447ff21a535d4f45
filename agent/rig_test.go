package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/health"
	"github.com/peervip/peervip/node/link"
)

const buckets = 16

// patience is how long anything may take on a loaded machine.
const patience = 20 * time.Second

// testDetect takes no starved test for a dead node.
var testDetect = Detect{Interval: 50 * time.Millisecond, Misses: 10}

// eventually waits until check says nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within fails the test if f takes too long.
func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not happen", what)
		panic("unreachable")
	}
}

// logText is a log that a test can read.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logText) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// rig is an agent on fakes, with a real control socket and state directory.
type rig struct {
	*agent
	filter  *fakeFilter
	link    *fakeWire
	line    *fakeLine
	members *fakeCluster
	client  *Client
	log     *logText
	rejoins atomic.Int64 // how often gossip was asked to try again
	leave   chan struct{}
	restart chan struct{}
	cancel  context.CancelFunc
	told                  // to its service manager
	ended   chan struct{} // run has returned err
	err     error
}

func testConfig(t *testing.T, name string) Config {
	dir := t.TempDir()
	spec := exampleSpec()
	spec.Buckets, spec.Detect = buckets, testDetect
	spec.Services[0].Health = nil
	return Config{
		Name: name, Interface: "eth0", Address: netip.MustParseAddr("192.0.2.11"), Weight: DefaultWeight,
		StateDir: filepath.Join(dir, "state"), Cluster: "web", Insecure: true, Port: DefaultPort, BeaconPort: DefaultBeaconPort,
		Spec: spec, Socket: filepath.Join(dir, "control.sock"),
	}
}

// newRig makes an agent that does not run yet.
func newRig(t *testing.T, name string, change ...func(*Config)) *rig {
	t.Helper()
	cfg := testConfig(t, name)
	for _, f := range change {
		f(&cfg)
	}
	remembered, err := loadMemory(cfg.StateDir)
	must(t, err)
	socket, err := listen(cfg.Socket)
	must(t, err)
	layout, err := hashring.NewLayout(cfg.Cluster, cfg.Spec.Seed, cfg.Spec.Buckets)
	must(t, err)
	mac, err := link.ParseClusterMAC(cfg.Spec.MAC, cfg.Spec.VIPs)
	must(t, err)
	r := &rig{
		filter: newFakeFilter(), link: newFakeWire(), members: &fakeCluster{}, client: NewClient(cfg.Socket),
		log: &logText{}, leave: make(chan struct{}), restart: make(chan struct{}), ended: make(chan struct{}),
	}
	l := newLoop(cfg, r.log.logger(), remembered)
	l.kernel = newKernel(r.filter, l.log, l)
	l.kernel.look = 10 * time.Millisecond
	r.line = newFakeLine(r.filter)
	r.line.now = l.now
	l.beacons, err = newBeacons(cfg, l, l.kernel)
	must(t, err)
	l.beacons.line = r.line
	l.saver.again = 20 * time.Millisecond
	l.send = func(string, ...[]byte) {}
	l.known = func() []gossip.Peer { return nil }
	l.rejoin = func(...netip.Addr) { r.rejoins.Add(1) }
	l.find = func(node.FindFlows) {}
	noFlows := func(slots, _ hashring.Set) (hashring.Set, error) { return hashring.NewSet(slots.Cap()), nil }
	r.agent = &agent{
		cfg: cfg, opts: Options{Version: "test", Leave: r.leave, Restart: r.restart, Log: l.log}, loop: l, wire: r.link, asker: fakeAsker{}, cluster: r.members,
		control: newControl(socket), attach: func(context.Context) error { return nil }, mac: mac, flows: sevenFlows, live: noFlows, misledBy: (*health.Monitor).Misled, layout: layout, look: 20 * time.Millisecond, started: time.Now(),
		conntrack: func() (nft.Conntrack, error) { return nft.Conntrack{Count: 7, Max: 262144}, nil },
	}
	r.agent.lingers = connectionsLinger(layout)
	t.Cleanup(func() {
		if r.cancel != nil {
			r.cancel()
			<-r.ended
		}
		if err := r.control.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, r.log)
		}
	})
	return r
}

// start runs the agent until the test ends.
func (r *rig) start() *rig {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.ended)
		r.err = r.run(ctx)
	}()
	return r
}

// end waits until the agent has ended by itself, and returns how.
func (r *rig) end(t *testing.T) error {
	t.Helper()
	within(t, r.cfg.Name+"'s end", r.ended)
	return r.err
}

// ask reads the loop's state.
func (r *rig) ask(t *testing.T, f func(l *loop)) {
	t.Helper()
	must(t, r.loop.ask(t.Context(), func() { f(r.loop) }))
}

func (r *rig) status(t *testing.T) Status {
	t.Helper()
	s, err := r.client.Status(t.Context())
	must(t, err)
	return s
}

// problem waits until status shows a problem with these words, or with not, none.
func (r *rig) problem(t *testing.T, want bool, words string) {
	t.Helper()
	eventually(t, func() error {
		problems := r.status(t).Problems
		if slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, words) }) != want {
			return fmt.Errorf("problems %q: %q among them is not %t", problems, words, want)
		}
		return nil
	})
}

// phase waits until the node says of itself that it is in the phase.
func (r *rig) phase(t *testing.T, want node.Phase) {
	t.Helper()
	eventually(t, func() error {
		if got := r.status(t).Phase; got != want.String() {
			return fmt.Errorf("%s is %s, want %s", r.cfg.Name, got, want)
		}
		return nil
	})
}

// member is how the others see the agent in gossip.
func (r *rig) member() gossip.Member {
	return gossip.Member{
		Name: r.cfg.Name, Addr: netip.AddrPortFrom(r.cfg.Address, r.cfg.Port), Meta: r.cfg.meta(r.loop.nonce).encode(),
	}
}

// segment joins rigs as gossip would.
type segment struct {
	mu   sync.Mutex
	rigs map[string]*rig
	lose func(from string, m *node.Message) bool // not nil: which messages are lost

	together int // the most messages that were sent to one member at once
}

// cluster makes running agents that are members of one cluster and serve.
func newCluster(t *testing.T, names ...string) (*segment, []*rig) {
	t.Helper()
	s := &segment{rigs: map[string]*rig{}}
	var all []*rig
	for _, name := range names {
		r := newRig(t, name)
		s.add(r)
		all = append(all, r.start())
	}
	for _, r := range all {
		r.loop.Event(gossip.Attempt{Reached: len(all) - 1})
	}
	s.settled(t, all...)
	return s, all
}

// add makes the rig a member; it need not run yet.
func (s *segment) add(r *rig) {
	r.loop.send = func(to string, payloads ...[]byte) {
		s.mu.Lock()
		s.together = max(s.together, len(payloads))
		s.mu.Unlock()
		for _, p := range payloads {
			s.send(r.cfg.Name, to, p)
		}
	}
	r.line.set(func(l *fakeLine) {
		l.carry = func(payload []byte, medium link.Medium) { s.beacon(r, payload, medium) }
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.rigs)) {
		other := s.rigs[name]
		other.loop.Event(gossip.Alive{Member: r.member()})
		r.loop.Event(gossip.Alive{Member: other.member()})
		if x := other.loop.LocalState(true); x != nil {
			r.loop.Event(gossip.State{Payload: x, Join: true})
		}
	}
	s.rigs[r.cfg.Name] = r
}

// die takes a member away without a word, and waits until the others hold it dead.
func (s *segment) die(t *testing.T, name string) {
	t.Helper()
	s.mu.Lock()
	delete(s.rigs, name)
	others := maps.Clone(s.rigs)
	s.mu.Unlock()
	for _, other := range others {
		other.loop.Event(gossip.Dead{Name: name})
	}
	for _, other := range others {
		eventually(t, func() error {
			var err error
			ended := other.loop.ask(t.Context(), func() {
				for _, n := range other.loop.core.Snapshot().Nodes {
					if n.Name == name && n.Alive {
						err = fmt.Errorf("%s holds %s alive", other.cfg.Name, name)
					}
				}
			})
			if ended != nil {
				return nil
			}
			return err
		})
	}
}

func (s *segment) send(from, to string, payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := node.Decode(payload)
	if err != nil {
		panic(err)
	}
	if s.rigs[from] == nil || s.rigs[to] == nil || s.lose != nil && s.lose(from, m) {
		return
	}
	s.rigs[to].loop.Event(gossip.Message{Payload: payload})
}

// beacon carries a beacon to everybody else.
func (s *segment) beacon(from *rig, payload []byte, medium link.Medium) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rigs[from.cfg.Name] != from { // dead, or replaced
		return
	}
	for _, r := range s.rigs {
		if r != from {
			r.line.hear(payload, medium)
		}
	}
}

// mute loses all beacons of a member from now on.
func (s *segment) mute(r *rig) {
	r.line.set(func(l *fakeLine) { l.carry = func([]byte, link.Medium) {} })
}

func (s *segment) losing(lose func(from string, m *node.Message) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = lose
}

// settled waits until these serve everything, each its share, by their own kernels.
func (s *segment) settled(t *testing.T, serving ...*rig) {
	t.Helper()
	eventually(t, func() error {
		sum := 0
		for _, r := range serving {
			n := r.filter.owned()
			if n < buckets/len(serving) {
				return fmt.Errorf("%s has %d of %d buckets", r.cfg.Name, n, buckets)
			}
			sum += n
		}
		if sum != buckets {
			return fmt.Errorf("%d of %d buckets are served", sum, buckets)
		}
		return nil
	})
}
