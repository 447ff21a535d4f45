package agent

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node/health"
	"github.com/peervip/peervip/node/link"
)

// runner is a started agent: the guard is there. It lives one life after the other in
// the cluster, each with the address that this node has then; the VIPs stay on the host
// throughout.
type runner struct {
	cfg     Config
	opts    Options
	mac     link.ClusterMAC
	layout  hashring.Layout
	wire    *link.Link
	filter  *nft.Filter
	control *control
	waiting *await
	ready   sync.Once

	memory   memory       // of the last life
	despite  []netip.Addr // the same: strangers that do not matter until the next start
	attached bool         // an earlier life, of this process or before, has flows here
	keep     bool         // at the end: they are kept for the next start

	alive     atomic.Pointer[agent] // nil between lives
	reloading sync.Mutex            // guards what a reload changes:
	services  []Service             // those of the configuration, with their checks as they are now
	logLevel  slog.Level
}

// run lives until a life ends for good.
func (r *runner) run(ctx context.Context) error {
	for {
		held := false
		err := r.waiting.wait(ctx, func() error {
			settled := r.wire.Settle()
			err := r.wire.Hold()
			if held = err == nil; held {
				_, err = r.filter.EnsureGuard()
			}
			if settled != nil {
				return settled
			}
			return err
		}, func(why string) {
			if held {
				r.tellReady()
			}
			r.opts.Log.Warn("NOT SERVING: " + why + "; it is waited for")
			r.tell("NOT SERVING: " + why)
		})
		if errors.Is(err, errLeft) {
			r.keep = r.keep && r.waiting.asked().KeepFlows
			return nil
		}
		if err != nil {
			return err
		}
		began, err := r.live(ctx)
		switch {
		case errors.Is(err, errMoved):
		case err != nil && !began && ctx.Err() == nil && errors.As(r.wire.Settle(), new(*link.AbsentError)):
			// The interface or the address has gone in the midst of the start.
		default:
			return err
		}
		r.control.serve(r.withReload(r.waiting.handler()))
	}
}

func (r *runner) tellReady() {
	r.ready.Do(func() {
		if r.opts.Ready != nil {
			r.opts.Ready()
		}
	})
}

func (r *runner) tell(line string) {
	if r.opts.Status != nil {
		r.opts.Status(line)
	}
}

// live is one life in the cluster, with the address that the node has now. It has begun
// once everything could be started.
func (r *runner) live(ctx context.Context) (began bool, err error) {
	cleanup := &undo{}
	defer func() { err = errors.Join(err, cleanup.run()) }()
	cfg, opts, wire := r.cfg, r.opts, r.wire
	cfg.Address = wire.Address()
	var starting sync.Once
	r.reloading.Lock()
	defer starting.Do(r.reloading.Unlock)
	cfg.Spec.Services = r.services
	monitors, err := newMonitors(cfg.Spec, opts.Log)
	if err != nil {
		return false, err
	}
	l := newLoop(cfg, opts.Log, r.memory)
	l.despite = r.despite
	defer func() { r.memory, r.despite = l.memory, l.despite }()
	l.kernel = newKernel(r.filter, opts.Log, l)
	detect := cfg.Spec.Detect.timing()
	l.kernel.holds = detect.L + detect.MaxLate()
	if l.beacons, err = newBeacons(cfg, l, l.kernel); err != nil {
		return false, err
	}
	if err := link.TuneProcess(); err != nil {
		opts.Log.Warn("on a busy machine this agent may be late", "error", err)
	}
	// Before the rules: they let beacons pass, and a node without a socket would answer
	// them with errors.
	line, err := wire.OpenBeacons(l.beacons.beaconConfig())
	if err != nil {
		return false, err
	}
	cleanup.add(line.Close)
	l.beacons.line = line
	spec := onHost(filterSpec(cfg, r.layout, r.mac.HardwareAddr()), wire)
	if err := install(r.filter, spec); err != nil {
		return false, err
	}
	// First of all nothing is accepted any more: a VIP removed under accepting
	// rules would be forwarded back to the wire.
	cleanup.add(r.filter.Withdraw)
	if err := wire.Discard(); err != nil {
		return false, err
	}
	cleanup.add(func() error { wire.Hush(); return nil })
	if r.attached {
		// Its flows need the address at once, not only when this node serves.
		if err := wire.Up(); err != nil {
			return false, err
		}
	}

	cluster, err := gossip.New(gossip.Config{
		Name: cfg.Name, Cluster: cfg.Cluster, Bind: netip.AddrPortFrom(cfg.Address, cfg.Port),
		Keys: cfg.Keys, Insecure: cfg.Insecure, Seeds: cfg.Join, KnownPeers: r.memory.Peers,
		Detection: gossipDetection(cfg.Spec.Detect), Meta: cfg.meta(l.nonce).encode(), Log: opts.Log,
	}, l)
	if err != nil {
		return false, err
	}
	cleanup.add(cluster.Close)
	l.send, l.known, l.rejoin = cluster.Send, cluster.Known, cluster.Rejoin
	opts.Ready, opts.wrap = r.tellReady, r.withReload
	a := &agent{
		cfg: cfg, opts: opts, loop: l, wire: wire, asker: wire, cluster: cluster, monitors: monitors, control: r.control,
		// Flows of an earlier life do not wait for the better part of a second.
		attach: attaching(wire, r.attached), mac: r.mac, layout: r.layout, live: nft.NewWatch(spec).Live, look: lookPeriod, started: r.waiting.started,
		conntrack: nft.ReadConntrack, misledBy: (*health.Monitor).Misled, waiting: r.waiting,
	}
	l.kernel.cut = cutFlows(cfg, r.layout)
	a.pick = func(protocols []uint8, slots hashring.Set, most int) (map[int][]nft.Flow, int, error) {
		return nft.ListFlows(spec, protocols, slots, most)
	}
	a.flows = func() iter.Seq2[nft.Flow, error] { return nft.LiveFlows(cfg.Spec.VIPs) }
	a.lingers = spec.Lingers
	r.keep = false
	r.alive.Store(a)
	defer r.alive.Store(nil)
	starting.Do(r.reloading.Unlock) // what is reloaded from now on, it takes
	err = a.run(ctx)
	r.attached = r.attached || l.beacons.attached
	r.keep = r.attached && (err == nil && l.keepFlows || errors.Is(err, errMoved))
	return true, err
}

// errMoved ends a life whose address is gone, for another one with the address that the
// node has now.
var errMoved = fmt.Errorf("this node's address has changed")

// moveAfter is how long an address must be gone before this node goes on with another:
// what sets addresses takes the old one away first, and may give it back.
const moveAfter = time.Second

// moved has this life end if the address is still gone then.
func (l *loop) moved() {
	time.AfterFunc(moveAfter, func() {
		l.queue.put(func() {
			if l.link.Moved && !l.core.Bulletin().Phase.Going() {
				l.log.Warn("starting over with another address: " + l.link.Reason)
				l.fatal = errMoved
			}
		})
	})
}
