package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
	hold     chan struct{} // not nil: a commit waits until it is closed
	listed   []nft.Flow    // by all transactions
	counters nft.Counters
	lease    time.Time // until when it is held
	lost     int       // answers to commits that are lost yet
	busy     int       // commits that the kernel puts off yet
	peers    []netip.Addr
	done     []string // what was done, but for looks
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

func (f *fakeFilter) Apply(t nft.Transaction) (armed bool, err error) {
	name := "Commit"
	if !t.ArmBy.IsZero() {
		name = "Arm"
	}
	f.mu.Lock()
	f.calls[name]++
	hold, err := f.hold, f.fail[name]
	f.mu.Unlock()
	if hold != nil && name == "Commit" {
		<-hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && name == "Commit" && f.busy > 0 {
		f.busy--
		f.done = append(f.done, "busy")
		err = nft.ErrBusy
	}
	if err == nil && name == "Commit" && f.lost > 0 {
		f.lost--
		err = nft.ErrUncertain
	}
	if err != nil {
		return false, err
	}
	f.done = append(f.done, name)
	for _, c := range t.Changes {
		f.states[c.Bucket] = c.State
	}
	f.listed = append(f.listed, t.List...)
	if armed = time.Now().Before(t.ArmBy); armed {
		f.lease = time.Now().Add(testDetect.timing().ArmFor())
	}
	return armed, nil
}

func (f *fakeFilter) DropLease() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls["DropLease"]++
	f.done = append(f.done, "DropLease")
	f.lease = time.Time{}
	return f.fail["DropLease"]
}

func (f *fakeFilter) LeaseLeft() (time.Duration, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	left := time.Until(f.lease)
	return left, left > 0, f.fail["LeaseLeft"]
}

func (f *fakeFilter) KeepWays(bool) error { return nil }

// prolong is what a marked beacon does.
func (f *fakeFilter) prolong() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Now().Before(f.lease) {
		f.lease = time.Now().Add(testDetect.timing().L)
	}
}

func (f *fakeFilter) leased() bool {
	_, held, _ := f.LeaseLeft()
	return held
}

func (f *fakeFilter) SetPeers(addrs []netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peers = addrs
	return f.fail["SetPeers"]
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

// fakeLine sends beacons to whom a test says, and receives what it is given.
type fakeLine struct {
	interval time.Duration
	now      func() node.Time
	filter   *fakeFilter
	kicks    chan struct{}
	incoming chan link.Received

	mu      sync.Mutex
	sent    uint64
	deaf    bool // a firewall lets nothing in
	unwired bool // it lets nothing in of what comes on the wire
	carry   func(payload []byte, medium link.Medium)
	status  link.BeaconStatus
}

func newFakeLine(filter *fakeFilter) *fakeLine {
	return &fakeLine{
		interval: testDetect.Interval, filter: filter, kicks: make(chan struct{}, 1),
		incoming: make(chan link.Received, 1024), carry: func([]byte, link.Medium) {},
	}
}

func (l *fakeLine) set(change func(*fakeLine)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

func (l *fakeLine) Send(ctx context.Context, build link.Build) error {
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	buf := make([]byte, 0, link.MaxBeacon)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-l.kicks:
		}
		payload, marked, unicast, ok := build(l.now(), buf)
		l.mu.Lock()
		carry := l.carry
		if ok {
			l.sent++
		}
		l.mu.Unlock()
		if !ok {
			continue
		}
		if marked {
			l.filter.prolong()
		}
		carry(payload, link.MediumWire)
		if len(unicast) > 0 {
			carry(payload, link.MediumUnicast)
		}
	}
}

// hear gives it a datagram, which its kernel counts first.
func (l *fakeLine) hear(payload []byte, medium link.Medium) {
	if medium == link.MediumWire {
		l.filter.set(func(f *fakeFilter) {
			f.counters.Beacons.Unknown.Packets++
			f.counters.Beacons.UnknownOnWire.Packets++
		})
	}
	l.mu.Lock()
	deaf := l.deaf || l.unwired && medium == link.MediumWire
	l.mu.Unlock()
	if deaf {
		return
	}
	select {
	case l.incoming <- link.Received{Payload: slices.Clone(payload), Medium: medium}:
	default: // as a full socket
	}
}

func (l *fakeLine) Receive(ctx context.Context, deliver func(link.Received)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-l.incoming:
			deliver(r)
		}
	}
}

func (l *fakeLine) Unread() bool { return len(l.incoming) > 0 }

func (l *fakeLine) HeardUntil(now time.Duration) time.Duration {
	if l.Unread() {
		return 0
	}
	return now
}

// Tell carries a letter on the unicast medium.
func (l *fakeLine) Tell(_ netip.AddrPort, payload []byte) error {
	l.mu.Lock()
	carry := l.carry
	l.mu.Unlock()
	carry(payload, link.MediumUnicast)
	return nil
}

func (l *fakeLine) Kick() {
	select {
	case l.kicks <- struct{}{}:
	default:
	}
}

func (l *fakeLine) Status() link.BeaconStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

func (l *fakeLine) beacons() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// fakeWire is an interface that a test can unplug.
type fakeWire struct {
	claimed  atomic.Pointer[error]
	statuses chan link.Status
}

func newFakeWire() *fakeWire {
	w := &fakeWire{statuses: make(chan link.Status, 16)}
	w.statuses <- link.Status{OK: true}
	return w
}

func (w *fakeWire) Ask([]netip.Addr) {}
func (w *fakeWire) Heard() bool      { return true }
func (w *fakeWire) Faults() []string { return nil }
func (w *fakeWire) Conflict(time.Duration) error {
	if claimed := w.claimed.Load(); claimed != nil {
		return *claimed
	}
	return nil
}
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
	mu     sync.Mutex
	left   bool
	leaves error // what becomes of the goodbye
	stats  gossip.Stats
	join   func(seeds []string) (int, error)
}

func (c *fakeCluster) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (c *fakeCluster) Leave(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = true
	return c.leaves
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
