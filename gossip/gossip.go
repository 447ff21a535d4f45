// Package gossip finds the other nodes of a cluster, says who joined, left or
// died, and carries opaque bytes between them. It knows hashicorp/memberlist and
// nothing of what the bytes mean or who may serve.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// MaxMeta is the most bytes of Meta that a node can announce.
	MaxMeta = memberlist.MetaMaxSize
	// KeySize is the length of a key in bytes: AES-256-GCM.
	KeySize = 32
	// MaxPayload is the most bytes that Send carries.
	MaxPayload = 3 << 20

	defaultRejoin = 15 * time.Second
)

// Config is what a node says of itself and how it finds the others.
type Config struct {
	// Name is this node's name, 1 to 255 bytes, its own in the cluster.
	Name string
	// Cluster is the cluster's name, 1 to 255 bytes. Nodes of another cluster
	// are refused, whatever their key.
	Cluster string
	// Bind is this node's address and gossip port, for TCP and UDP; the others
	// reach it there.
	Bind netip.AddrPort
	// Keys are the cluster's keys as keygen made them, KeySize random bytes each.
	// The first encrypts, all decrypt.
	Keys [][]byte
	// Insecure is to be set when there are no keys: anybody may then join.
	Insecure bool
	// Seeds are nodes to join by: an address or a DNS name, with or without a
	// port; the default is Bind's. This node's own address among them is skipped.
	Seeds []string
	// KnownPeers are members of an earlier run (Known), tried like Seeds.
	KnownPeers []Peer
	// Detection says how fast a death is noticed: between two and three times
	// Detection (timing.go has the formulas). 0 means DefaultDetection.
	// Shorter finds deaths in nodes that are only slow.
	Detection time.Duration
	// Rejoin is how often seeds and lost members that are not members now are
	// tried, since memberlist never heals a partition by itself. 0 means
	// 15 s. A node that has no member at all tries every 500 ms.
	Rejoin time.Duration
	// Meta is what the others see in Member, at most MaxMeta bytes. It needs
	// something that differs from run to run (see Alive).
	Meta []byte
	// Log is required.
	Log *slog.Logger

	dial dialFunc // for tests in network namespaces; nil dials as usual
	// lookUp is for tests too; nil asks as the host is set up.
	lookUp func(ctx context.Context, network, host string) ([]netip.Addr, error)
}

func (c Config) check() error {
	var errKeys error
	for i, key := range c.Keys {
		if len(key) != KeySize {
			errKeys = fmt.Errorf("gossip key %d has %d bytes: it must be the %d bytes that keygen made", i+1, len(key), KeySize)
			break
		}
	}
	switch {
	case c.Name == "" || len(c.Name) > 255:
		return fmt.Errorf("node name %q has %d bytes: it must have 1 to 255", c.Name, len(c.Name))
	case c.Cluster == "" || len(c.Cluster) > memberlist.LabelMaxSize:
		return fmt.Errorf("cluster name %q has %d bytes: it must have 1 to %d", c.Cluster, len(c.Cluster), memberlist.LabelMaxSize)
	case !c.Bind.Addr().IsValid() || c.Bind.Addr().IsUnspecified() || c.Bind.Port() == 0:
		return fmt.Errorf("gossip address %s: name one address of this node and a port", c.Bind)
	case errKeys != nil:
		return errKeys
	case len(c.Keys) == 0 && !c.Insecure:
		return errors.New("no gossip key: make one with keygen and give it to all nodes, or say insecure")
	case len(c.Keys) > 0 && c.Insecure:
		return errors.New("both a gossip key and insecure are given: remove one")
	case len(c.Meta) > MaxMeta:
		return metaError(c.Meta)
	case c.Detection < minDetection || c.Detection > maxDetection:
		return fmt.Errorf("detection %s: it must be %s to %s", c.Detection, minDetection, maxDetection)
	case c.Rejoin < 0:
		return fmt.Errorf("rejoin period %s: it must be more than 0", c.Rejoin)
	case c.Log == nil:
		return errors.New("gossip needs a logger")
	}
	return nil
}

func metaError(meta []byte) error {
	return fmt.Errorf("node metadata has %d bytes: at most %d fit", len(meta), MaxMeta)
}

// Gossip is this node's part in the cluster's gossip. Its methods may be called
// by many goroutines, but not from a Handler.
type Gossip struct {
	cfg       Config
	handler   Handler
	transport *transport
	list      *memberlist.Memberlist
	log       *limitedLog
	counts    counts

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	meta       atomic.Pointer[[]byte]
	metaUpdate sync.Mutex // one update at a time
	stop       sync.Once  // memberlist panics on a leave after its shutdown
	stopped    error      // of stop

	table *table
	seeds seedAddrs
	out   *senders
	again chan struct{}                // asks Run for a round now
	heard atomic.Pointer[[]netip.Addr] // who is known to speak; the next round begins with them

	// Of the goroutine that runs Run.
	refusals int    // rounds in a row in which a seed has refused this node
	refusal  string // as it was logged last
}

// New binds the sockets and takes part from then on: others may join through
// this node and events arrive before New returns. It contacts nobody until Run.
// Close or Leave must follow, which the end of Run does.
func New(cfg Config, handler Handler) (*Gossip, error) {
	if cfg.Detection == 0 {
		cfg.Detection = DefaultDetection
	}
	if cfg.Rejoin == 0 {
		cfg.Rejoin = defaultRejoin
	}
	if cfg.dial == nil {
		cfg.dial = dialDirect
	}
	if cfg.lookUp == nil {
		cfg.lookUp = net.DefaultResolver.LookupNetIP
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &Gossip{
		cfg: cfg, handler: handler, log: newLimitedLog(cfg.Log),
		ctx: ctx, cancel: cancel, again: make(chan struct{}, 1),
		table: newTable(cfg.Name, cfg.KnownPeers, handler.Event),
	}
	g.out = newSenders(g.room(), g.deliver)
	meta := slices.Clone(cfg.Meta)
	g.meta.Store(&meta)

	var err error
	if g.transport, err = listen(cfg.Bind, g.knows, cfg.dial, g.log); err != nil {
		cancel()
		return nil, err
	}
	conf, err := g.memberlistConfig()
	if err == nil {
		g.list, err = memberlist.Create(conf)
	}
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("starting gossip on %s: %w", cfg.Bind, err), g.transport.Shutdown())
	}
	return g, nil
}

func (g *Gossip) memberlistConfig() (*memberlist.Config, error) {
	callbacks := delegate{g}
	c := memberlist.DefaultLANConfig()
	c.Name = g.cfg.Name
	c.Label = g.cfg.Cluster
	c.Transport = g.transport
	c.BindPort = int(g.cfg.Bind.Port())
	c.UDPBufferSize = packetSize
	c.EnableCompression = false // messages are small
	c.Delegate = callbacks
	c.Events = callbacks
	c.Conflict = callbacks
	c.Merge = callbacks
	c.Logger = log.New(logAdapter{g}, "", 0)
	timingFor(g.cfg.Detection).apply(c)
	if len(g.cfg.Keys) > 0 {
		ring, err := memberlist.NewKeyring(g.cfg.Keys, g.cfg.Keys[0])
		if err != nil {
			return nil, err
		}
		c.Keyring = ring
		c.GossipVerifyIncoming = true
		c.GossipVerifyOutgoing = true
	}
	return c, nil
}

// Run joins the seeds and known peers and goes on to rejoin whom it has lost,
// until ctx ends, which is no error, or Leave or Close is called. It closes
// gossip, so the others notice a death unless Leave came first.
func (g *Gossip) Run(ctx context.Context) error {
	// A round of joins may take seconds; closing ends it.
	stop := context.AfterFunc(ctx, func() { g.stop.Do(g.shutdown) })
	defer stop()
	for {
		g.rejoin()
		wait := time.NewTimer(g.rejoinPeriod())
		select {
		case <-g.ctx.Done():
			wait.Stop()
			return g.Close()
		case <-g.table.lonely:
			wait.Stop()
		case <-g.again:
			wait.Stop()
		case <-wait.C:
		}
	}
}

// Rejoin has Run try the seeds and lost members again now, not only when Config.Rejoin
// is over: something says that they can be reached. Before these it tries the addresses of
// those who are heard otherwise, which need no name server. It waits for nothing.
func (g *Gossip) Rejoin(heard ...netip.Addr) {
	g.heard.Store(&heard)
	select {
	case g.again <- struct{}{}:
	default: // asked for already
	}
}

// UpdateMeta announces new Meta to all members. It does not wait for them.
func (g *Gossip) UpdateMeta(meta []byte) error {
	if len(meta) > MaxMeta {
		return metaError(meta)
	}
	meta = slices.Clone(meta)
	g.metaUpdate.Lock()
	defer g.metaUpdate.Unlock()
	g.meta.Store(&meta)
	// The only error is that the announcement has not gone out within the given
	// time; it is queued all the same.
	if err := g.list.UpdateNode(time.Nanosecond); err != nil {
		g.log.out.Debug("metadata is still being announced")
	}
	return nil
}

// Members returns the other members, in the order of their names.
func (g *Gossip) Members() []Member { return g.table.members() }

// Known returns the members and the lost members that are still tried, in the order
// of their names: what to keep for KnownPeers. Who left is not in it.
func (g *Gossip) Known() []Peer { return g.table.known() }

// Leave sends what is queued, says goodbye, so that the others see Dead with
// Left, and closes. It takes some tens of milliseconds, and never much more than 2 s or until
// ctx ends; the error says that somebody may take the leave for a death.
func (g *Gossip) Leave(ctx context.Context) error {
	err := g.goodbye(ctx)
	g.stop.Do(func() {
		if errLeave := g.list.Leave(leaveTimeout); errLeave != nil {
			err = errors.Join(err, fmt.Errorf("leaving the cluster: %w", errLeave))
		}
		g.shutdown()
	})
	return err
}

// Close stops without a goodbye. When it returns no socket is open, no event
// comes and every goroutine of this package has ended; memberlist's own last probe,
// which cannot be waited for, ends within Detection. A second call does
// nothing but wait for the first.
func (g *Gossip) Close() error {
	g.stop.Do(g.shutdown)
	return g.stopped
}

func (g *Gossip) shutdown() {
	g.cancel()
	// Closes the transport and with it all connections, so the senders end.
	if err := g.list.Shutdown(); err != nil {
		g.stopped = fmt.Errorf("stopping gossip: %w", err)
	}
	g.out.close()
	g.table.close()
}
