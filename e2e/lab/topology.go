package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The lab's network, the same in every lab: each has namespaces of its own.
var (
	// VIP is the address that the nodes share.
	VIP = netip.MustParseAddr("10.77.0.100")
	// firstNode and firstSource are followed by the others, in a /24.
	firstNode   = netip.MustParseAddr("10.77.0.11")
	firstSource = netip.MustParseAddr("10.77.0.101")
)

const (
	prefixLen = 24
	// MaxNodes and MaxSources keep the addresses apart and the kernel's
	// neighbour table, which all namespaces of a machine share, below the size
	// at which it refuses entries (net.ipv4.neigh.default.gc_thresh3, 1024).
	MaxNodes   = 12
	MaxSources = 64
	// GossipPort is the agents' default port of gossip.
	GossipPort = 7946
	// BeaconPort is where they send beacons by default.
	BeaconPort = 7947

	// Bridge is the switch's link in its namespace.
	Bridge     = "br0"
	clientPort = "client"
	nodeLink   = "eth0"
	nodePrefix = "node-"
)

// Config says what to build. The zero value is three nodes without an agent.
type Config struct {
	// Binary is the peervip program that the nodes run; without it the lab has
	// no agents, only the network and the services.
	Binary string
	// Nodes is how many there are; 0 means 3.
	Nodes int
	// Sources is how many addresses the client host has; 0 means MaxSources.
	Sources int
	// Bare makes no nodes at all: others plug machines of their own into the switch,
	// whose services answer by the names of NodeName.
	Bare bool
	// Agent changes a node's configuration before it is first written.
	Agent func(index int, c *AgentConfig)
}

// Lab is a switch, nodes with their services, and a client host. Whoever makes
// one closes it; a lab that could not be made whole has been closed.
type Lab struct {
	// Prefix starts the names of the lab's namespaces.
	Prefix string
	// Dir holds configurations, state directories, sockets and logs.
	Dir     string
	Nodes   []*Node
	Client  *Namespace
	Sources []netip.Addr

	base   time.Time // what Now counts from
	sw     *Namespace
	faults faults
	late   lateness

	mu     sync.Mutex
	stops  []func() // of everything that measures, for Close
	closed bool
}

// New builds the network and starts the nodes' services, but no agent. It needs
// root. An error names the part that could not be made.
func New(ctx context.Context, cfg Config) (*Lab, error) {
	if cfg.Nodes == 0 && !cfg.Bare {
		cfg.Nodes = 3
	}
	if cfg.Sources == 0 {
		cfg.Sources = MaxSources
	}
	if cfg.Bare != (cfg.Nodes == 0) || cfg.Nodes < 0 || cfg.Nodes > MaxNodes {
		return nil, fmt.Errorf("a lab of %d nodes: choose 1 to %d", cfg.Nodes, MaxNodes)
	}
	if cfg.Sources < 1 || cfg.Sources > MaxSources {
		return nil, fmt.Errorf("a lab with %d client addresses: choose 1 to %d", cfg.Sources, MaxSources)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a lab needs root, to make network namespaces: run it with sudo")
	}
	if err := Sweep(); err != nil {
		return nil, err
	}
	tameRuntime()
	l := &Lab{Prefix: UniquePrefix(), base: time.Now()}
	whole := false
	defer func() { // also when something below panics
		if !whole {
			l.Close()
		}
	}()
	if err := l.build(ctx, cfg); err != nil {
		return nil, err
	}
	whole = true
	return l, nil
}

func (l *Lab) build(ctx context.Context, cfg Config) error {
	dir, err := os.MkdirTemp("", l.Prefix+"-")
	if err != nil {
		return fmt.Errorf("making the lab's directory: %w", err)
	}
	l.Dir = dir
	if err := l.buildSwitch(); err != nil {
		return err
	}
	l.faults.sw = l.sw
	if err := l.buildClient(cfg.Sources); err != nil {
		return err
	}
	keyFile := filepath.Join(l.Dir, "key")
	if cfg.Binary != "" {
		if err := WriteKey(ctx, cfg.Binary, keyFile); err != nil {
			return err
		}
	}
	for i := range cfg.Nodes {
		n := newNode(l, i, cfg.Binary)
		n.Config = l.agentConfig(n, cfg.Nodes, keyFile)
		if cfg.Agent != nil {
			cfg.Agent(i, &n.Config)
		}
		l.Nodes = append(l.Nodes, n)
		if err := n.PowerOn(); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) buildSwitch() error {
	sw, err := NewNamespace(l.Prefix + "-sw")
	if err != nil {
		return err
	}
	l.sw = sw
	return sw.Do(func() error {
		off := false
		br := &netlink.Bridge{
			LinkAttrs: netlink.LinkAttrs{Name: Bridge},
			// With snooping and a querier a Linux bridge sends what goes to the
			// cluster MAC to router ports only: it looks at the IP destination.
			MulticastSnooping: &off,
		}
		if err := netlink.LinkAdd(br); err != nil {
			return fmt.Errorf("making a bridge as the switch (the kernel needs CONFIG_BRIDGE): %w", err)
		}
		if err := netlink.LinkSetUp(br); err != nil {
			return fmt.Errorf("bringing up the switch: %w", err)
		}
		return bridgeOnly()
	})
}

// bridgeOnly keeps the machine's own IP filter out of what the switch forwards. With
// the module br_netfilter it would see, and route, every packet.
func bridgeOnly() error {
	err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0o644)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keeping the IP filter out of the switch: %w", err)
	}
	return nil
}

func (l *Lab) buildClient(sources int) error {
	client, err := NewNamespace(l.Prefix + "-client")
	if err != nil {
		return err
	}
	l.Client = client
	for i := range sources {
		l.Sources = append(l.Sources, addrPlus(firstSource, i))
	}
	return l.plug(client, clientPort, 0xfe, l.Sources)
}

// plug gives the namespace an eth0 with the addresses, on a port of the switch.
// The MAC ends in id.
func (l *Lab) plug(ns *Namespace, port string, id byte, addrs []netip.Addr) error {
	err := l.sw.Do(func() error {
		br, err := netlink.LinkByName(Bridge)
		if err != nil {
			return err
		}
		veth := &netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: port, MasterIndex: br.Attrs().Index},
			PeerName:         nodeLink,
			PeerNamespace:    netlink.NsFd(ns.Handle()),
			PeerHardwareAddr: portMAC(id),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("(the kernel needs CONFIG_VETH) %w", err)
		}
		return netlink.LinkSetUp(veth)
	})
	if err != nil {
		return fmt.Errorf("making the switch port of %s: %w", port, err)
	}
	err = ns.Do(func() error {
		eth, err := netlink.LinkByName(nodeLink)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if err := netlink.AddrAdd(eth, ifaddr(a)); err != nil {
				return fmt.Errorf("adding %s: %w", a, err)
			}
		}
		if err := netlink.LinkSetUp(eth); err != nil {
			return err
		}
		return waitUp(nodeLink)
	})
	if err != nil {
		return fmt.Errorf("setting up %s of %s: %w", nodeLink, ns.Name, err)
	}
	return l.onPort(port, func(netlink.Link) error { return waitUp(port) })
}

func portMAC(id byte) net.HardwareAddr { return net.HardwareAddr{0x02, 0x77, 0, 0, 0, id} }

// waitUp waits, inside a namespace, until the link works. The kernel reports a
// carrier up to a second late (net/core/link_watch.c), and only then does a
// bridge forward on the port.
func waitUp(name string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not come up: it is %s", name, link.Attrs().OperState)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// setPort brings a port of the switch up or down. Nothing passes a port that is
// down, in either direction.
func (l *Lab) setPort(port string, up bool) error {
	return l.onPort(port, func(link netlink.Link) error {
		if up {
			return netlink.LinkSetUp(link)
		}
		return netlink.LinkSetDown(link)
	})
}

func (l *Lab) onPort(port string, do func(netlink.Link) error) error {
	err := l.sw.Do(func() error {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return do(link)
	})
	if err != nil {
		return fmt.Errorf("switch port of %s: %w", port, err)
	}
	return nil
}

// Now is the lab's clock: the time since it was made.
func (l *Lab) Now() time.Duration { return time.Since(l.base) }

// onClose has stop called when the lab closes, newest first.
func (l *Lab) onClose(stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stops = append(l.stops, stop)
}

// Close ends everything that the lab started and removes everything that it
// made: measurements, agents, services, namespaces and the directory. It may be
// called again, and of a lab that is only half made.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	stops := l.stops
	l.mu.Unlock()

	for i := len(stops) - 1; i >= 0; i-- {
		stops[i]()
	}
	var errs []error
	for _, n := range l.Nodes {
		errs = append(errs, n.close())
	}
	for _, ns := range []*Namespace{l.Client, l.sw} {
		if ns != nil {
			errs = append(errs, ns.Close())
		}
	}
	if l.Dir != "" {
		errs = append(errs, os.RemoveAll(l.Dir))
	}
	return errors.Join(errs...)
}

// ifaddr is the address as an interface has it.
func ifaddr(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(prefixLen, 32)}}
}

func addrPlus(a netip.Addr, n int) netip.Addr {
	for range n {
		a = a.Next()
	}
	return a
}

// sockaddr is the kernel's form of an IPv4 address and port.
func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// rawSockaddr is the same as it lies in memory; the port is in network order.
func rawSockaddr(a netip.AddrPort) unix.RawSockaddrInet4 {
	raw := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:], a.Port())
	return raw
}

// NodeName and NodeAddress are what the nodes of a lab are called and where they are,
// from index 0 on.
func NodeName(index int) string { return nodePrefix + strconv.Itoa(index+1) }

// NodeAddress is the node's own address.
func NodeAddress(index int) netip.Addr { return addrPlus(firstNode, index) }

// Switch is the namespace of the switch, with Bridge in it.
func (l *Lab) Switch() *Namespace { return l.sw }
