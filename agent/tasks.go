package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/health"
	"github.com/peervip/peervip/node/link"
)

const (
	// goodbyeTimeout bounds the leave of the gossip.
	goodbyeTimeout = 3 * time.Second
	// lookPeriod is how often the evidence that the wire forwards is looked at, and
	// flows are counted while somebody waits for them to end.
	lookPeriod = time.Second
	// restingLooks is how many looks pass between two counts of flows otherwise: to
	// list flows the kernel walks its whole table, 10 ms of a core for 262144 slots.
	restingLooks = 10
	// listDelay keeps the list of flows that is wanted when buckets begin to linger
	// out of the way of the handoff: while the kernel walks its table, that processor
	// takes no packets and runs nothing else, whatever its class.
	listDelay = 100 * time.Millisecond
	// lookUp bounds finding the address of one seed: longer than a dead name server takes.
	lookUp = 8 * time.Second
)

// wire is this node on the wire, as link.Link plays it.
type wire interface {
	Run(ctx context.Context, notify func(link.Status)) error
	Ask(targets []netip.Addr)
	Heard() bool
	Conflict(within time.Duration) error
	Faults() []string
}

// cluster is the membership, as gossip.Gossip plays it.
type cluster interface {
	Run(ctx context.Context) error
	Leave(ctx context.Context) error
	Join(seeds []string) (reached int, err error)
	Stats() gossip.Stats
}

// agent is what runs after everything could be started.
type agent struct {
	cfg      Config
	opts     Options
	loop     *loop
	wire     wire
	cluster  cluster
	monitors []*health.Monitor // to begin with, by service; nil where nothing is checked
	checks   checks
	misledBy func(*health.Monitor, []netip.Addr) []string // asks the kernel
	control  *control
	asker    asker
	attach   func(context.Context) error // brings the VIPs up; one call at a time
	mac      link.ClusterMAC
	flows    flowLister
	lingers  func(f nft.Flow, listed hashring.Set) (slot int, lingers bool) // see nft.Spec.Lingers
	live     func(slots, listed hashring.Set) (hashring.Set, error)         // see nft.Watch
	pick     flowPicker
	listable atomic.Pointer[[]uint8] // protocols of the flows that were counted last, UDP and others that are listed
	layout   hashring.Layout
	look     time.Duration // see lookPeriod
	// conntrack asks how full it is.
	conntrack func() (nft.Conntrack, error)
	started   time.Time
	waiting   *await // was asked to leave while this agent was made, perhaps; nil: never
}

// errEnded cancels the other tasks when the loop ends with its context.
var errEnded = errors.New("the agent was told to end")

// run runs all tasks until one of them ends it: mostly the loop.
func (a *agent) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	l := a.loop
	l.attach = func() {
		group.Go(func() error {
			l.post(node.Attached{Err: a.attach(ctx)})
			return nil // the core has the error, and tries again
		})
	}
	l.askVIP = func() {
		group.Go(func() error {
			l.post(l.beacons.outside.askVIP(ctx, a.asker))
			return nil
		})
	}
	l.find = func(e node.FindFlows) {
		group.Go(func() error {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(listDelay):
			}
			live, err := a.live(e.Slots, e.Listed)
			l.post(node.FlowsFound{Live: live, Err: err})
			return nil // the core has the error, and tries again
		})
	}
	l.list = func(e node.ListFlows) {
		group.Go(func() error {
			l.post(a.listFlows(e))
			return nil // the core has the error, and goes on without
		})
	}
	a.startChecks(ctx, group.Go)
	group.Go(func() error { return a.runLoop(ctx) })
	group.Go(func() error { return l.kernel.run(ctx) })
	l.beacons.run(ctx, group.Go)
	group.Go(func() error { return l.beacons.outside.run(ctx, a.asker) })
	group.Go(func() error { return l.saver.run(ctx) })
	group.Go(func() error { return a.cluster.Run(ctx) })
	group.Go(func() error {
		return a.wire.Run(ctx, func(s link.Status) {
			l.queue.put(func() { l.linkChanged(s) })
		})
	})
	group.Go(func() error {
		a.wire.Ask(nil) // routers: a name server that is dead is waited for
		a.wire.Ask(a.seedAddrs(ctx))
		return nil
	})
	group.Go(func() error { return a.observe(ctx) })
	group.Go(func() error { return a.report(ctx) })
	group.Go(func() error {
		leave, restart := a.opts.Leave, a.opts.Restart
		var early <-chan struct{}
		if a.waiting != nil {
			early = a.waiting.left
		}
		for {
			select {
			case <-leave:
				l.post(node.Leave{})
				leave = nil
			case <-restart:
				l.post(node.Leave{KeepFlows: true})
				restart = nil
			case <-early:
				l.post(a.waiting.asked())
				early = nil
			case <-ctx.Done():
				return nil
			}
		}
	})
	handler := a.handler()
	if a.opts.wrap != nil {
		handler = a.opts.wrap(handler)
	}
	a.control.serve(handler)
	group.Go(func() error { return a.control.watch(ctx) })
	if a.opts.Ready != nil {
		a.opts.Ready()
	}
	err := group.Wait()
	l.saver.write() // what came last, now that nothing comes any more
	if errors.Is(err, errHandedOver) || errors.Is(err, errEnded) {
		return nil
	}
	return err
}

// runLoop never returns nil, so that with the loop everything ends.
func (a *agent) runLoop(ctx context.Context) error {
	err := a.loop.run(ctx)
	if errors.Is(err, errHandedOver) {
		a.loop.beacons.retire(ctx)
		goodbye, cancel := context.WithTimeout(ctx, goodbyeTimeout)
		defer cancel()
		if errLeave := a.cluster.Leave(goodbye); errLeave != nil {
			level := slog.LevelDebug // those who go too need no goodbye
			if a.loop.leavesServing() {
				level = slog.LevelWarn
			}
			a.loop.log.Log(ctx, level, "the others may take this leave for a death", "error", errLeave)
		}
	}
	if err == nil {
		err = errEnded
	}
	return err
}

// observe counts flows and what may be a problem, and tells whether the wire forwards.
func (a *agent) observe(ctx context.Context) error {
	tick := time.NewTicker(a.look)
	defer tick.Stop()
	failing := false
	for look := 0; ; look++ {
		if look%restingLooks == 0 || a.loop.going.Load() {
			err := a.count(ctx)
			if err != nil && !failing {
				a.opts.Log.Warn("flows cannot be counted; status shows none", "error", err)
			}
			failing = err != nil
		}
		m := a.measured(ctx)
		if look%restingLooks == 0 {
			m, _ = a.measure(ctx) // who asks for the status gets the error
		}
		a.loop.queue.put(func() {
			a.loop.look(m)
		})
		heard := a.wire.Heard()
		a.loop.queue.put(func() { a.loop.forwardsChanged(heard) })
		select {
		case <-ctx.Done():
			return nil
		case <-a.loop.goes:
		case <-tick.C:
		}
	}
}

// seedAddrs are the seeds' addresses, as far as they can be had at once: any
// answer from them shows that the wire forwards.
func (a *agent) seedAddrs(ctx context.Context) []netip.Addr {
	var addrs []netip.Addr
	for _, seed := range a.cfg.Join {
		host, _, err := net.SplitHostPort(seed)
		if err != nil {
			host = seed
		}
		if addr, err := netip.ParseAddr(host); err == nil {
			addrs = append(addrs, addr)
			continue
		}
		patience, cancel := context.WithTimeout(ctx, lookUp)
		found, err := net.DefaultResolver.LookupNetIP(patience, "ip4", host)
		cancel()
		if err == nil { // gossip says why a seed's name cannot be resolved
			addrs = append(addrs, found...)
		}
	}
	return addrs
}
