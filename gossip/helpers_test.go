package gossip

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds every wait: a loaded machine is slow, not wrong.
const patience = 20 * time.Second

const testPort = 7946

// recorder is a Handler that remembers.
type recorder struct {
	mu     sync.Mutex
	events []Event
	state  []byte
}

func (r *recorder) Event(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) LocalState(bool) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

func (r *recorder) all() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// has says whether an event of type T that is as wanted has come.
func has[T Event](r *recorder, want func(T) bool) func() bool {
	return func() bool {
		return slices.ContainsFunc(r.all(), func(e Event) bool {
			typed, ok := e.(T)
			return ok && want(typed)
		})
	}
}

func aliveNamed(name string) func(Alive) bool { return func(a Alive) bool { return a.Name == name } }
func deadNamed(name string) func(Dead) bool   { return func(d Dead) bool { return d.Name == name } }

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// loopback returns addresses in a /24 of 127/8 that no other test uses.
func loopback() func(i int) netip.AddrPort {
	var b [2]byte
	rand.Read(b[:])
	return func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1 + b[0]%250, b[1], byte(i)}), testPort)
	}
}

func newKey() []byte {
	key := make([]byte, KeySize)
	rand.Read(key)
	return key
}

// logBuffer is where a test node logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines returns the logged lines that hold the text.
func (l *logBuffer) lines(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(strings.Split(l.b.String(), "\n"), func(s string) bool { return !strings.Contains(s, text) })
}

// testNode is a running node of a test.
type testNode struct {
	*Gossip
	*recorder
	log *logBuffer
	end func() // stops without a goodbye and waits for Run
}

// cluster makes nodes with one key.
type cluster struct {
	t   testing.TB
	at  func(i int) netip.AddrPort
	key []byte
}

func newCluster(t testing.TB) *cluster {
	checkLeaks(t)
	return &cluster{t: t, at: loopback(), key: newKey()}
}

// config is node i's: named n<i>, seeded by node 1. Its slow detection keeps a
// starved test machine from making deaths; tests of deaths call quick.
func (c *cluster) config(i int) Config {
	return Config{
		Name:    fmt.Sprintf("n%d", i),
		Cluster: "test",
		Bind:    c.at(i),
		Keys:    [][]byte{c.key},
		Seeds:   []string{c.at(1).Addr().String()},
		Meta:    fmt.Appendf(nil, "meta of n%d", i),
		Rejoin:  300 * time.Millisecond,

		Detection: 2 * time.Second,
	}
}

// quick makes a node notice deaths as fast as it does by default.
func quick(c *Config) { c.Detection = DefaultDetection }

// start makes and runs a node; the test's end stops it.
func (c *cluster) start(cfg Config) *testNode { return c.startWith(cfg, New) }

func (c *cluster) startWith(cfg Config, create func(Config, Handler) (*Gossip, error)) *testNode {
	c.t.Helper()
	n := &testNode{recorder: &recorder{state: []byte("state of " + cfg.Name)}, log: &logBuffer{}}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(n.log, nil))
	}
	g, err := create(cfg, n.recorder)
	if err != nil {
		c.t.Fatalf("starting %s: %v", cfg.Name, err)
	}
	n.Gossip = g
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	n.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("Run of %s returned %v", cfg.Name, err)
		}
	})
	c.t.Cleanup(n.end)
	return n
}

// startAll runs nodes 1 to n and waits until each knows all others.
func (c *cluster) startAll(n int, edits ...func(*Config)) []*testNode {
	c.t.Helper()
	nodes := make([]*testNode, n)
	for i := range nodes {
		cfg := c.config(i + 1)
		for _, edit := range edits {
			edit(&cfg)
		}
		nodes[i] = c.start(cfg)
	}
	meshed(c.t, nodes...)
	return nodes
}

// meshed waits until each of the nodes knows all others.
func meshed(t testing.TB, nodes ...*testNode) {
	t.Helper()
	for _, n := range nodes {
		eventually(t, fmt.Sprintf("%s knows %d others", n.cfg.Name, len(nodes)-1), func() bool {
			return len(n.Members()) == len(nodes)-1
		})
	}
}

// checkLeaks fails the test if goroutines are left when all its nodes have ended.
// memberlist's own last probe is given time to end.
func checkLeaks(t testing.TB) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		var err error
		for end := time.Now().Add(patience); time.Now().Before(end); {
			if err = goleak.Find(ignore); err == nil {
				return
			}
		}
		t.Error(err)
	})
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
