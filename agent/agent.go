package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

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
	// Ready is called once: the agent answers at its control socket, the VIPs are on lo
	// and the rules that keep them silent in place. It does not serve yet.
	Ready func()
	// Status is told, in a line for who looks at the service, what the node does.
	Status func(line string)
	// Reload asks for what `peervip reload` does. Load reads the configuration again,
	// SetLogLevel changes the log's level, and Reloading is called as a reload begins; it
	// returns what is called when it is over. nil: none of it.
	Reload      <-chan struct{}
	Load        func() (Loaded, error)
	SetLogLevel func(slog.Level)
	Reloading   func() (over func())
	// LogErr is why the log is lost; nil: it is written.
	LogErr func() error
	// Alive is told again and again while the agent makes progress.
	Alive func()
	// Extend asks for so much more time, again and again while the agent leaves.
	Extend func(time.Duration)
	// Untuned is why the process may not be on time, see Tune.
	Untuned error
	Log     *slog.Logger

	wrap func(http.Handler) http.Handler // adds to what is answered at the control socket
}

// Run is the agent: it puts the VIPs on this host, waits for its interface, joins the
// cluster, serves its share, and returns when it has left (nil), when the context ends
// (nil; the buckets are dropped, not handed over), or when it cannot go on: with an
// *EditError where to start again would end the same way. The host is left as it was
// found; but when the flows are kept for the next start, with all that they need.
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
		return editable(err)
	}
	unlock, err := lockState(ctx, cfg.StateDir)
	if err != nil {
		return err
	}
	cleanup.add(unlock)
	wire, err := link.Open(link.Config{
		Interface: cfg.Interface, Address: cfg.Address, VIPs: cfg.Spec.VIPs, MAC: mac, Beacon: node.LongestBeacon(cfg.Name), Log: opts.Log, ARPFiltered: nft.GuardsARP(),
		Changes: loadChanges(cfg.StateDir, opts.Log), Remember: func(c link.Changes) error { return saveChanges(cfg.StateDir, c) },
	})
	if err != nil {
		return editable(err)
	}
	if err := nft.Probe(); err != nil {
		return editable(err)
	}
	if !nft.SeesRoutes() {
		opts.Log.Info(noRoutes)
	}
	layout, err := cfg.layout()
	if err != nil {
		return editable(err)
	}
	if _, err := newMonitors(cfg.Spec, opts.Log); err != nil {
		return editable(err)
	}
	remembered, err := recallMemory(cfg, opts.Log)
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
	waiting := newAwait(cfg, opts, mac)
	r := &runner{
		cfg: cfg, opts: opts, mac: mac, layout: layout, wire: wire, control: control, waiting: waiting,
		keep: wire.LeftUp(), attached: wire.LeftUp(), services: cfg.Spec.Services, logLevel: cfg.LogLevel,
		memory: remembered,
	}
	control.serve(r.withReload(waiting.handler()))
	cleanup.add(r.listenForReloads(ctx))
	filter, err := guarded(onHost(filterSpec(cfg, layout, mac.HardwareAddr()), wire))
	if err != nil {
		return err
	}
	r.filter = filter
	cleanup.add(func() error {
		takeDown, closeFilter := wire.Down, filter.Close
		if r.keep && ctx.Err() == nil {
			opts.Log.Info("the address stays up here for the connections that are open: start this node again soon")
			takeDown, closeFilter = wire.Abandon, filter.Abandon
		}
		return errors.Join(takeDown(), closeFilter())
	})
	return r.run(ctx)
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

// guarded opens the packet filter and puts the guard into the kernel: whatever comes to
// the VIPs is dropped.
func guarded(spec nft.Spec) (*nft.Filter, error) {
	rules, err := nft.Compile(spec)
	if err != nil {
		return nil, editable(err)
	}
	filter, err := nft.Open()
	if err != nil {
		return nil, err
	}
	if err := filter.InstallGuard(rules); err != nil {
		if errors.As(err, new(*nft.RoomError)) {
			err = editable(err)
		}
		return nil, errors.Join(err, filter.Close())
	}
	return filter, nil
}

// install puts the whole packet filter into the kernel, with no bucket accepted yet.
func install(filter *nft.Filter, spec nft.Spec) error {
	rules, err := nft.Compile(spec)
	if err != nil {
		return err
	}
	return filter.Install(rules)
}

// newNonce tells one start of an agent from all others. It is never 0, which is no
// incarnation.
func newNonce() uint64 {
	var nonce [8]byte
	rand.Read(nonce[:])
	return binary.BigEndian.Uint64(nonce[:]) | 1
}

func newLoop(cfg Config, log *slog.Logger, remembered memory) *loop {
	timing := node.DefaultTiming(cfg.Spec.Detect.Time())
	timing.Gather = cfg.Spec.Detect.Interval
	core := node.Config{
		Incarnation: node.Incarnation{Name: cfg.Name, Nonce: newNonce()},
		Address:     cfg.Address,
		Weight:      cfg.Weight, Buckets: cfg.Spec.Buckets,
		DropUnhealthy: cfg.Spec.WhenNoneHealthy == DropAll,
		SpecRevision:  cfg.Spec.Revision, SpecDigest: cfg.Spec.digest(),
		DrainTimeout: cfg.Spec.DrainTimeout,
		Timing:       timing,
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
		answers: map[uint64]chan<- answer{}, outbox: map[string][][]byte{}, goes: make(chan struct{}, 1), news: newNews(log), strays: newStrays(), ways: newWays(cfg.Spec.Detect), ended: make(chan struct{}),
	}
}

// newMonitors makes the health monitors, by service; nil where nothing is checked.
func newMonitors(spec Spec, log *slog.Logger) ([]*health.Monitor, error) {
	monitors := make([]*health.Monitor, len(spec.Services))
	for i, s := range spec.Services {
		if len(s.Health) == 0 {
			continue
		}
		m, err := health.New(s.Health, log.With("service", s.Name), spec.VIPs...)
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
