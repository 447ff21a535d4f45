package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/health"
	"github.com/peervip/peervip/node/link"
)

// Options is what a process gives to Run besides the configuration.
type Options struct {
	Version string
	// Leave asks the agent, when closed, to hand everything over and end.
	Leave <-chan struct{}
	// Restart is the same for a start soon after: the address stays up, and what is
	// connected to this node with it.
	Restart <-chan struct{}
	// Ready is called once the agent answers at its control socket.
	Ready func()
	// Untuned is why the process may not be on time, see Tune.
	Untuned error
	Log     *slog.Logger
}

// Run is the agent: it joins the cluster, serves its share, and returns when it
// has left (nil), when the context ends (nil; the buckets are dropped, not
// handed over), or when it cannot go on. The host is left as it was found; but when
// the flows are kept for the next start, with all that they need.
func Run(ctx context.Context, cfg Config, opts Options) (err error) {
	cleanup := &undo{}
	defer func() {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // it was what we were told
		}
		err = errors.Join(err, cleanup.run())
	}()

	mac, err := link.ParseClusterMAC(cfg.Spec.MAC, cfg.Spec.VIPs)
	if err != nil {
		return err
	}
	wire, err := link.Open(link.Config{
		Interface: cfg.Interface, Address: cfg.Address, VIPs: cfg.Spec.VIPs, MAC: mac, Log: opts.Log,
		Changes: loadChanges(cfg.StateDir, opts.Log), Remember: func(c link.Changes) error { return saveChanges(cfg.StateDir, c) },
	})
	if err != nil {
		return err
	}
	cfg.Address = wire.Address()
	if err := nft.Probe(); err != nil {
		return err
	}
	monitors, err := newMonitors(cfg.Spec.Services, opts.Log)
	if err != nil {
		return err
	}
	remembered, err := loadMemory(cfg.StateDir)
	if err != nil {
		return err
	}
	socket, err := listen(cfg.Socket)
	if err != nil {
		return err
	}
	// The last to go: while it is there, the agent is.
	control := newControl(socket)
	cleanup.add(control.Close)
	probed := false
	// Flows of an earlier life do not wait for the better part of a second: their
	// address is up, and it is asked for before this node serves again.
	if !wire.LeftUp() {
		err := wire.Probe(ctx)
		if errors.As(err, new(*link.ConflictError)) || ctx.Err() != nil {
			return err
		}
		if probed = err == nil; !probed {
			// Perhaps the machine has only just started. The address does not come up
			// before it is known to be free.
			opts.Log.Warn("it is not known yet whether another host has the address", "error", err)
		}
	}
	layout, err := hashring.NewLayout(cfg.Cluster, cfg.Spec.Seed, cfg.Spec.Buckets)
	if err != nil {
		return err
	}
	spec := filterSpec(cfg, layout, mac.HardwareAddr())
	filter, err := install(spec)
	if err != nil {
		return err
	}
	var line *link.Beacons
	keepFlows := false        // for the next life
	starting := wire.LeftUp() // and a start that fails leaves what it has found, for the next one
	cleanup.add(func() error {
		// First of all nothing is accepted any more: a VIP removed under accepting
		// rules would be forwarded back to the wire.
		errs := []error{filter.Withdraw()}
		takeDown, closeFilter := wire.Down, filter.Close
		if keepFlows || starting && ctx.Err() == nil {
			opts.Log.Info("the address stays up here for the connections that are open: start this node again soon")
			takeDown, closeFilter = wire.Abandon, filter.Abandon
		}
		errs = append(errs, takeDown())
		if line != nil { // a node that has the VIP without a socket answers the others' beacons with errors
			errs = append(errs, line.Close())
		}
		return errors.Join(append(errs, closeFilter())...)
	})

	l := newLoop(cfg, opts.Log, remembered)
	l.kernel = newKernel(filter, opts.Log, l)
	if l.beacons, err = newBeacons(cfg, l, l.kernel); err != nil {
		return err
	}
	if err := link.TuneProcess(); err != nil {
		opts.Log.Warn("on a busy machine this agent may be late", "error", err)
	}
	if line, err = wire.OpenBeacons(l.beacons.beaconConfig()); err != nil {
		return err
	}
	l.beacons.line = line
	if err := wire.Discard(); err != nil {
		return err
	}
	if wire.LeftUp() {
		// Its flows need the group at once, not only when this node serves.
		if err := wire.Up(); err != nil {
			return err
		}
	}

	cluster, err := gossip.New(gossip.Config{
		Name: cfg.Name, Cluster: cfg.Cluster, Bind: netip.AddrPortFrom(cfg.Address, cfg.Port),
		Keys: cfg.Keys, Insecure: cfg.Insecure, Seeds: cfg.Join, KnownPeers: remembered.Peers,
		Detection: gossipDetection(cfg.Spec.Detect), Meta: cfg.meta(l.nonce).encode(), Log: opts.Log,
	}, l)
	if err != nil {
		return err
	}
	cleanup.add(cluster.Close)
	l.send, l.known, l.rejoin = cluster.Send, cluster.Known, cluster.Rejoin
	a := &agent{
		cfg: cfg, opts: opts, loop: l, wire: wire, cluster: cluster, monitors: monitors, control: control,
		attach: attaching(wire, probed), mac: mac, layout: layout, live: nft.NewWatch(spec).Live, look: lookPeriod, started: time.Now(),
	}
	l.kernel.cut = cutFlows(cfg, layout)
	a.pick = func(protocols []uint8, slots hashring.Set, most int) (map[int][]nft.Flow, int, error) {
		return nft.ListFlows(spec, protocols, slots, most)
	}
	a.flows = func() iter.Seq2[nft.Flow, error] { return nft.Flows(cfg.Spec.VIPs) }
	starting = false
	err = a.run(ctx)
	keepFlows = err == nil && l.keepFlows && (wire.LeftUp() || l.beacons.attached)
	return err
}

// gossipDetection is how fast gossip finds deaths. Beacons do, and gossip only
// confirms them: at 2 s it probes somebody each second, which costs next to nothing.
func gossipDetection(d Detect) time.Duration {
	return min(max(d.Time(), 2*time.Second), 30*time.Second)
}

// attaching returns what brings the VIPs up, once nobody else has them.
func attaching(wire interface {
	Probe(context.Context) error
	Up() error
}, probed bool) func(context.Context) error {
	return func(ctx context.Context) error {
		if !probed {
			if err := wire.Probe(ctx); err != nil {
				return err
			}
			probed = true
		}
		return wire.Up()
	}
}

var lingers = map[Linger]nft.Linger{LingerTCP: nft.LingerTCP, LingerAll: nft.LingerAll, LingerNone: nft.LingerNone}

// filterSpec is what the packet filter is made from.
func filterSpec(cfg Config, layout hashring.Layout, mac net.HardwareAddr) nft.Spec {
	detect := cfg.Spec.Detect.timing()
	spec := nft.Spec{
		Interface: cfg.Interface, ClusterMAC: mac, VIPs: cfg.Spec.VIPs, Layout: layout, GossipPort: cfg.Port,
		BeaconPort: cfg.BeaconPort, Lease: detect.L, ArmFor: detect.ArmFor(), LeaseMark: leaseMark,
	}
	for _, s := range cfg.Spec.Services {
		spec.Services = append(spec.Services, nft.Service{Name: s.Name, Linger: lingers[s.Linger]})
	}
	return spec
}

// install puts the packet filter into the kernel, with no bucket accepted yet.
func install(spec nft.Spec) (*nft.Filter, error) {
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

func newLoop(cfg Config, log *slog.Logger, remembered memory) *loop {
	var nonce [8]byte
	rand.Read(nonce[:])
	core := node.Config{
		// Never 0, which is no incarnation.
		Incarnation: node.Incarnation{Name: cfg.Name, Nonce: binary.BigEndian.Uint64(nonce[:]) | 1},
		Weight:      cfg.Weight, Buckets: cfg.Spec.Buckets,
		DropUnhealthy: cfg.Spec.WhenNoneHealthy == DropAll,
		SpecRevision:  cfg.Spec.Revision, SpecDigest: cfg.Spec.digest(),
		DrainTimeout: cfg.Spec.DrainTimeout,
		Timing:       node.DefaultTiming(cfg.Spec.Detect.Time()),
		Silence:      cfg.Spec.Detect.Time(),
	}
	for _, s := range cfg.Spec.Services {
		core.Services = append(core.Services, node.Service{
			Name: s.Name, Checked: len(s.Health) > 0, Linger: s.Linger != LingerNone, LingerAll: s.Linger == LingerAll,
			Single: s.Mode == ModeSingle, Preempt: s.Preempt,
		})
	}
	return &loop{
		cfg: cfg, log: log, core: node.New(core), nonce: core.Nonce, origin: time.Now(),
		queue: newQueue(), saver: newSaver(cfg.StateDir, log), memory: remembered,
		answers: map[uint64]chan<- answer{}, outbox: map[string][][]byte{}, news: newNews(log), strays: newStrays(), ways: newWays(cfg.Spec.Detect), ended: make(chan struct{}),
	}
}

// newMonitors makes the health monitors, by service; nil where nothing is checked.
func newMonitors(services []Service, log *slog.Logger) ([]*health.Monitor, error) {
	monitors := make([]*health.Monitor, len(services))
	for i, s := range services {
		if len(s.Health) == 0 {
			continue
		}
		m, err := health.New(s.Health, log.With("service", s.Name))
		if err != nil {
			return nil, err
		}
		monitors[i] = m
	}
	return monitors, nil
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
