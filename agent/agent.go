package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
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
)

// Options is what a process gives to Run besides the configuration.
type Options struct {
	Version string
	// Leave asks the agent, when closed, to hand everything over and end.
	Leave <-chan struct{}
	// Ready is called once the agent answers at its control socket.
	Ready func()
	Log   *slog.Logger
}

// Run is the agent: it joins the cluster, serves its share, and returns when it
// has left (nil), when the context ends (nil; the buckets are dropped, not
// handed over), or when it cannot go on. The host is left as it was found.
func Run(ctx context.Context, cfg Config, opts Options) (err error) {
	cleanup := &undo{}
	defer func() { err = errors.Join(err, cleanup.run()) }()

	if err := nft.Probe(); err != nil {
		return err
	}
	mac, err := link.ParseClusterMAC(cfg.Spec.MAC, cfg.Spec.VIPs)
	if err != nil {
		return err
	}
	wire, err := link.Open(link.Config{
		Interface: cfg.Interface, Address: cfg.Address, VIPs: cfg.Spec.VIPs, MAC: mac, Log: opts.Log,
	})
	if err != nil {
		return err
	}
	cfg.Address = wire.Address()
	memory, err := loadMemory(cfg.StateDir)
	if err != nil {
		return err
	}
	control, err := listen(cfg.Socket)
	if err != nil {
		return err
	}
	cleanup.add(control.Close)
	if err := wire.Probe(ctx); err != nil {
		return err
	}
	filter, err := install(cfg, mac.HardwareAddr())
	if err != nil {
		return err
	}
	cleanup.add(filter.Close)
	cleanup.add(wire.Down)
	// First of all nothing is accepted any more: a VIP removed under accepting
	// rules would be forwarded back to the wire.
	cleanup.add(filter.Withdraw)

	l, err := newLoop(cfg, opts.Log, memory)
	if err != nil {
		return err
	}
	l.kernel = newKernel(filter, opts.Log, func(c node.Committed) { l.post(c) })
	members, err := gossip.New(gossip.Config{
		Name: cfg.Name, Cluster: cfg.Cluster, Bind: netip.AddrPortFrom(cfg.Address, cfg.Port),
		Keys: cfg.Keys, Insecure: cfg.Insecure, Seeds: cfg.Join, KnownPeers: memory.Peers,
		Detection: cfg.Spec.Detect.Time(), Meta: cfg.meta(l.nonce).encode(), Log: opts.Log,
	}, l)
	if err != nil {
		return err
	}
	cleanup.add(members.Close)
	l.send, l.known = members.Send, members.Known
	a := &agent{cfg: cfg, opts: opts, loop: l, wire: wire, members: members, mac: mac, started: time.Now()}
	if err := a.prepareHealth(); err != nil {
		return err
	}
	return a.run(ctx, control)
}

// install puts the packet filter into the kernel, with no bucket accepted yet.
func install(cfg Config, mac net.HardwareAddr) (*nft.Filter, error) {
	layout, err := hashring.NewLayout(cfg.Cluster, cfg.Spec.Seed, cfg.Spec.Buckets)
	if err != nil {
		return nil, err
	}
	spec := nft.Spec{
		Interface: cfg.Interface, ClusterMAC: mac, VIPs: cfg.Spec.VIPs, Layout: layout, GossipPort: cfg.Port,
	}
	for _, s := range cfg.Spec.Services {
		spec.Services = append(spec.Services, nft.Service{Name: s.Name})
	}
	rules, err := nft.Compile(spec)
	if err != nil {
		return nil, err
	}
	filter, err := nft.Open()
	if err != nil {
		return nil, err
	}
	if err := filter.Install(rules); err != nil {
		return nil, errors.Join(err, filter.Close())
	}
	return filter, nil
}

func newLoop(cfg Config, log *slog.Logger, remembered memory) (*loop, error) {
	var nonce [8]byte
	rand.Read(nonce[:])
	digest, err := parseDigest(cfg.Spec.Digest())
	if err != nil {
		return nil, err
	}
	core := node.Config{
		Incarnation: node.Incarnation{Name: cfg.Name, Nonce: binary.BigEndian.Uint64(nonce[:]) | 1},
		Weight:      cfg.Weight, Buckets: cfg.Spec.Buckets,
		DropUnhealthy: cfg.Spec.WhenNoneHealthy == DropAll,
		SpecRevision:  cfg.Spec.Revision, SpecDigest: digest,
		Timing: node.DefaultTiming(cfg.Spec.Detect.Time()),
	}
	for _, s := range cfg.Spec.Services {
		core.Services = append(core.Services, node.Service{Name: s.Name, Checked: len(s.Health) > 0})
	}
	return &loop{
		cfg: cfg, log: log, core: node.New(core), nonce: core.Nonce, origin: time.Now(),
		queue: newQueue(), saver: newSaver(cfg.StateDir, log), memory: remembered,
		answers: map[uint64]chan<- answer{}, specs: map[string]Spec{}, strange: map[string]string{},
	}, nil
}

// agent is what runs after everything could be started.
type agent struct {
	cfg     Config
	opts    Options
	loop    *loop
	wire    *link.Link
	members *gossip.Gossip
	mac     link.ClusterMAC
	health  []*health.Monitor // by service; nil where nothing is checked
	started time.Time
}

func (a *agent) prepareHealth() error {
	a.health = make([]*health.Monitor, len(a.cfg.Spec.Services))
	for i, s := range a.cfg.Spec.Services {
		if len(s.Health) == 0 {
			continue
		}
		m, err := health.New(s.Health, a.opts.Log.With("service", s.Name))
		if err != nil {
			return err
		}
		a.health[i] = m
	}
	return nil
}

// run runs all tasks until one of them ends it: mostly the loop.
func (a *agent) run(ctx context.Context, control net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	l := a.loop
	l.attach = func() {
		group.Go(func() error {
			err := a.wire.Up()
			l.post(node.Attached{Err: err})
			return nil // the core has the error, and tries again
		})
	}
	group.Go(func() error {
		err := l.run(ctx)
		if errors.Is(err, errHandedOver) {
			goodbye, cancel := context.WithTimeout(ctx, goodbyeTimeout)
			defer cancel()
			if errLeave := a.members.Leave(goodbye); errLeave != nil {
				l.log.Warn("the others may take this leave for a death", "error", errLeave)
			}
		}
		if err == nil {
			err = errEnded
		}
		return err
	})
	group.Go(func() error { return l.kernel.run(ctx) })
	group.Go(func() error { return l.saver.run(ctx) })
	group.Go(func() error { return a.members.Run(ctx) })
	group.Go(func() error {
		return a.wire.Run(ctx, func(s link.Status) {
			l.queue.put(func() { l.linkChanged(s, l.forwards) })
		})
	})
	group.Go(func() error { return a.observe(ctx) })
	group.Go(func() error { return a.serve(ctx, control) })
	for i, m := range a.health {
		if m == nil {
			continue
		}
		group.Go(func() error {
			return m.Run(ctx, func(fit bool, reason string) {
				l.post(node.HealthChanged{Service: i, Fit: fit, Reason: reason})
			})
		})
	}
	group.Go(func() error {
		select {
		case <-a.opts.Leave:
			l.post(node.Leave{})
		case <-ctx.Done():
		}
		return nil
	})
	if a.opts.Ready != nil {
		a.opts.Ready()
	}
	err := group.Wait()
	if errors.Is(err, errHandedOver) || errors.Is(err, errEnded) {
		return nil
	}
	return err
}

// errEnded cancels the other tasks when the loop ends with its context.
var errEnded = errors.New("the agent was told to end")

// observe counts flows, and looks for evidence that the wire forwards.
func (a *agent) observe(ctx context.Context) error {
	if len(a.cfg.Join) == 0 {
		a.loop.post(node.SeedsTried{})
	}
	a.wire.Ask(a.seedAddrs(ctx))
	tick := time.NewTicker(lookPeriod)
	defer tick.Stop()
	var draining atomic.Bool
	failing := false
	for look := 0; ; look++ {
		if look%restingLooks == 0 || draining.Load() {
			counts, err := a.countFlows()
			if err != nil && !failing {
				a.opts.Log.Warn("flows cannot be counted; status shows none", "error", err)
			}
			failing = err != nil
			a.loop.post(node.FlowsCounted{Counts: counts})
		}
		heard := a.wire.Heard()
		a.loop.queue.put(func() {
			a.loop.linkChanged(a.loop.link, heard)
			draining.Store(a.loop.core.Snapshot().Phase == node.Draining)
		})
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// countFlows counts the flows to the VIPs that this node's kernel tracks: for
// TCP, those that are open. All traffic belongs to the one service there is.
func (a *agent) countFlows() ([]int, error) {
	counts := make([]int, len(a.cfg.Spec.Services))
	for f, err := range nft.Flows(a.cfg.Spec.VIPs) {
		if err != nil {
			return counts, err
		}
		if f.Protocol != protocolTCP || f.Established {
			counts[len(counts)-1]++
		}
	}
	return counts, nil
}

const protocolTCP = 6

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
		lookup, cancel := context.WithTimeout(ctx, 2*time.Second)
		found, err := net.DefaultResolver.LookupNetIP(lookup, "ip4", host)
		cancel()
		if err == nil { // gossip says why a seed's name cannot be resolved
			addrs = append(addrs, found...)
		}
	}
	return addrs
}

// undo is the stack of what must be taken back.
type undo struct{ steps []func() error }

func (u *undo) add(step func() error) { u.steps = append(u.steps, step) }

// run takes everything back, the newest first, whatever fails.
func (u *undo) run() error {
	var errs []error
	for i := len(u.steps) - 1; i >= 0; i-- {
		errs = append(errs, u.steps[i]())
	}
	return errors.Join(errs...)
}
