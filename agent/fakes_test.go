package agent

import (
	"context"
	"errors"
	"net/netip"
	"sync"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

var errFake = errors.New("made up for a test")

// fakeFilter is a packet filter without a kernel. It holds states as nft.Filter
// does; what is set in fail is what the call of that name returns.
type fakeFilter struct {
	mu       sync.Mutex
	states   map[int]node.State
	calls    map[string]int
	fail     map[string]error
	restores bool          // the next EnsureGuard finds no guard
	hold     chan struct{} // not nil: Commit waits until it is closed
	counters nft.Counters
}

func newFakeFilter() *fakeFilter {
	return &fakeFilter{states: map[int]node.State{}, calls: map[string]int{}, fail: map[string]error{}}
}

func (f *fakeFilter) set(change func(*fakeFilter)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeFilter) called(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[name]
}

func (f *fakeFilter) Commit(changes []nft.Change) error {
	f.mu.Lock()
	f.calls["Commit"]++
	hold, err := f.hold, f.fail["Commit"]
	f.mu.Unlock()
	if hold != nil {
		<-hold
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		f.states[c.Bucket] = c.State
	}
	return nil
}

func (f *fakeFilter) Counters() (nft.Counters, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls["Counters"]++
	return f.counters, f.fail["Counters"]
}

func (f *fakeFilter) EnsureGuard() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls["EnsureGuard"]++
	restores := f.restores
	f.restores = false
	return restores, f.fail["EnsureGuard"]
}

func (f *fakeFilter) Reinstall() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls["Reinstall"]++
	return f.fail["Reinstall"]
}

// owned counts the buckets that it accepts.
func (f *fakeFilter) owned() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.states {
		if s.AcceptsNew() {
			n++
		}
	}
	return n
}

// fakeWire is an interface that a test can unplug.
type fakeWire struct {
	statuses chan link.Status
}

func newFakeWire() *fakeWire {
	w := &fakeWire{statuses: make(chan link.Status, 16)}
	w.statuses <- link.Status{OK: true}
	return w
}

func (w *fakeWire) Ask([]netip.Addr)  {}
func (w *fakeWire) Heard() bool       { return true }
func (w *fakeWire) unplug(why string) { w.statuses <- link.Status{Reason: why} }
func (w *fakeWire) plug()             { w.statuses <- link.Status{OK: true} }

func (w *fakeWire) Run(ctx context.Context, notify func(link.Status)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-w.statuses:
			notify(s)
		}
	}
}

// fakeCluster is a membership that knows what a test tells the loop.
type fakeCluster struct {
	mu    sync.Mutex
	left  bool
	stats gossip.Stats
	join  func(seeds []string) (int, error)
}

func (c *fakeCluster) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (c *fakeCluster) Leave(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = true
	return nil
}

func (c *fakeCluster) Join(seeds []string) (int, error) { return c.join(seeds) }

func (c *fakeCluster) Stats() gossip.Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

func (c *fakeCluster) set(change func(*fakeCluster)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}
