// Package link is this node on the wire: the virtual addresses (VIPs) on lo, the
// cluster MAC and its group, the ARP answers, and a watch over the interface. It
// must not know who owns which bucket, nor what the packet filter does.
//
// The kernel must never speak of a VIP with the MAC of a NIC, or clients would
// send to one node alone. So the VIP is on lo with scope host, which is never
// chosen as a source address; rules of the packet filter, and arp_ignore=1 on the VIPs'
// segment, keep the kernel from answering for it, arp_announce=2 from naming it as the
// sender of a request, on every interface of the host. The agent answers instead, from user space: the cluster MAC in the
// ARP payload, the node's own MAC as Ethernet source, so that no switch learns the
// cluster MAC on one port.
package link

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Config says where the node is on the wire.
type Config struct {
	// Interface is the name of the Ethernet interface on the VIPs' segment.
	Interface string
	// Address is the node's own; it may be on another interface of the host (gossip
	// may run over another network). Zero: the first global address of Interface, and
	// another one of it when that is gone (see Settle).
	Address netip.Addr
	// VIPs are the addresses that all nodes share; at least one, IPv4.
	VIPs []netip.Addr
	// MAC is the cluster MAC, from ParseClusterMAC.
	MAC ClusterMAC
	// Beacon is how many bytes the longest beacon has that this node may have to send: the
	// interface must be able to carry it. 0: not known.
	Beacon int
	// ARPFiltered: while the VIPs are up, rules keep the kernel from answering ARP for
	// them on any interface. Then the sysctl that does that, and the same to all other
	// addresses, is set on the VIPs' own segment only.
	ARPFiltered bool
	// Changes are what an earlier life of this node has changed and not put back, as
	// it was last given to Remember.
	Changes Changes
	// Remember keeps what is changed for a later life; it is called before it is
	// done, and waited for. nil: nothing is kept.
	Remember func(Changes) error
	// Log gets repairs and conflicts; nil for none. What Status says is not logged.
	Log *slog.Logger
}

// Link is the node's place on the wire, made by Open. Its methods may be called
// from any goroutine. All that open sockets or change the host (Up, Down, Probe,
// Run) do so on the calling goroutine's thread, hence in that thread's network
// namespace.
type Link struct {
	config Config
	log    *slog.Logger

	leftUp bool // see LeftUp
	chosen bool // Config.Address was not given

	announceEvery time.Duration // gratuitous ARP; tests shorten it
	lookEvery     time.Duration // between two looks at the kernel without an event

	// mu guards what the host is made to have. It is held for as long as the kernel takes.
	mu        sync.Mutex
	held      bool // Hold succeeded, and no Down since
	up        bool // the same of Up
	holds     []hold
	stale     []*sysctl // changed by an earlier life, and of no use to this one
	kept      Changes   // as they are remembered
	forgetful error     // why they are not; nil: they are

	seen    atomic.Pointer[sight]        // the last look, by Open and then by Run
	speaker atomic.Pointer[speaker]      // nil while the link is not up
	asking  atomic.Pointer[[]netip.Addr] // nil until Ask
	heard   atomic.Bool
	claimed atomic.Pointer[claim] // the last of a VIP by another host
	faults  atomic.Pointer[[]string]
	fresh   atomic.Bool   // Up was called: gratuitous ARP is due
	deleted atomic.Bool   // the interface was away since the last look
	kick    chan struct{} // asks Run for a look now

	challenged chan struct{} // another host has claimed a VIP
}

const (
	// announceEvery is short against the minutes for which clients and switches
	// remember a MAC, and costs a frame per node and VIP.
	announceEvery = 30 * time.Second
	// lookEvery bounds how long a change goes unseen whose event was lost, or that
	// has none, such as a sysctl.
	lookEvery = time.Second
)

// AbsentError says that the interface or the node's address is not there: it may
// come, and Settle says when.
type AbsentError struct {
	What string // is not there, in a sentence
	Has  string // what the host has in its place, to go on with the sentence; may be empty
}

func (e *AbsentError) Error() string { return e.What + e.Has }

// Open checks that the configuration can work on this host and changes nothing.
// Its errors name the key, and what would cure them. That the interface or the node's
// address is not there is none: it is waited for with Settle.
func Open(config Config) (*Link, error) {
	if err := checkCapabilities(); err != nil {
		return nil, err
	}
	config.Address = config.Address.Unmap()
	config.VIPs = slices.Clone(config.VIPs)
	for i, vip := range config.VIPs {
		config.VIPs[i] = vip.Unmap()
	}
	if err := checkVIPs(config.VIPs); err != nil {
		return nil, err
	}
	if config.MAC == (ClusterMAC{}) {
		return nil, errors.New("spec.mac: no cluster MAC is set: write multicast, unicast or a MAC address")
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}

	device, err := readDevice(config.Interface)
	if err != nil {
		return nil, err
	}
	addresses, err := readAddresses()
	if err != nil {
		return nil, err
	}
	l := &Link{
		config: config, log: config.Log, chosen: !config.Address.IsValid(),
		announceEvery: announceEvery, lookEvery: lookEvery,
		kick: make(chan struct{}, 1), challenged: make(chan struct{}, 1),
	}
	if err := l.settle(device, addresses); err != nil && !errors.As(err, new(*AbsentError)) {
		return nil, err
	}
	l.holds = newHolds(config, l.noted)
	l.recall(device)
	for _, a := range addresses {
		switch {
		case !slices.Contains(config.VIPs, a.addr): // Discard removes it, if it is ours
		case a.isOurs():
			l.leftUp = true
			l.log.Info("a VIP is on lo from an earlier run; it is taken over", "vip", a.addr)
		case a.isHeld(a.addr):
			l.log.Info("a VIP is on lo already, and not from an earlier run; it will stay there", "vip", a.addr)
		}
	}
	return l, nil
}

// Settle chooses the node's own address, which Address returns from then on. An error
// is an *AbsentError, or one of those of Open. It is for before Run, and for after its
// end when Status.Moved has come.
func (l *Link) Settle() error {
	device, err := readDevice(l.config.Interface)
	if err != nil {
		return err
	}
	addresses, err := readAddresses()
	if err != nil {
		return err
	}
	return l.settle(device, addresses)
}

func (l *Link) settle(device device, addresses []hostAddress) error {
	err := checkNotOwn(l.config.VIPs, addresses)
	if err == nil {
		err = checkInterface(l.config, device)
	}
	if err == nil {
		config := l.config
		if l.chosen {
			config.Address = netip.Addr{}
		}
		var own netip.Addr
		if own, err = chooseAddress(config, device, addresses); err == nil {
			l.config.Address = own
		}
	}
	now := newSight(l.config, device, addresses)
	now.carrierSince = time.Now()
	l.seen.Store(&now)
	return err
}

// Address returns the node's own address, which never is a VIP; the zero Addr before
// Settle has found one.
func (l *Link) Address() netip.Addr { return l.config.Address }

// HardwareAddr returns the interface's own MAC as Run saw it last; the slice is
// the caller's own.
func (l *Link) HardwareAddr() net.HardwareAddr { return l.seen.Load().mac.hardware() }

// CarrierFor returns for how long the interface has had its carrier as far as the
// watch knows, by the monotonic clock: 0 without a carrier, at most the time since
// Open.
func (l *Link) CarrierFor() time.Duration {
	now := l.seen.Load()
	if !now.working() {
		return 0
	}
	return time.Since(now.carrierSince)
}

func checkCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("reading the process's capabilities: %w", err)
	}
	var missing []string
	for _, capability := range []struct {
		bit  uint
		name string
	}{
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, // addresses, sysctls, groups
		{unix.CAP_NET_RAW, "CAP_NET_RAW"},     // packet sockets
	} {
		if data[0].Effective&(1<<capability.bit) == 0 {
			missing = append(missing, capability.name)
		}
	}
	if missing != nil {
		return fmt.Errorf("missing %s: run as root, or grant it to the service (AmbientCapabilities= in a systemd unit)",
			strings.Join(missing, " and "))
	}
	return nil
}

func checkVIPs(vips []netip.Addr) error {
	if len(vips) == 0 {
		return errors.New("spec.vips: no VIP is set: give at least one IPv4 address")
	}
	for i, vip := range vips {
		bad := ""
		switch {
		case !vip.IsValid():
			bad = "is no address"
		case vip.IsUnspecified():
			bad = "is the unspecified address"
		case vip.IsLoopback():
			bad = "is a loopback address, which never leaves a host"
		case vip.IsMulticast():
			bad = "is a multicast address"
		case vip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			bad = "is the broadcast address"
		case vip.Is6():
			bad = "is IPv6, which is not supported"
		case slices.Contains(vips[:i], vip):
			return fmt.Errorf("spec.vips: %s is listed twice: remove one", vip)
		}
		if bad != "" {
			return fmt.Errorf("spec.vips: %s %s: give an IPv4 unicast address", vip, bad)
		}
	}
	return nil
}

func checkInterface(config Config, device device) error {
	switch {
	case config.Interface == "":
		return errors.New("node.interface: no interface is set" + existing())
	case !device.found:
		return &AbsentError{"node.interface: there is no interface " + config.Interface, existing()}
	case device.name != config.Interface:
		return fmt.Errorf("node.interface: %s is another name of %s: write %s", config.Interface, device.name, device.name)
	case !device.ethernet:
		return fmt.Errorf("node.interface: %s is not an Ethernet interface, which a VIP needs%s", config.Interface, existing())
	case device.mac == config.MAC.addr:
		return fmt.Errorf("spec.mac: %s is the MAC of %s itself: the cluster MAC must belong to no station", config.MAC, config.Interface)
	case config.Beacon > 0 && device.mtu < config.Beacon+ipLen+udpLen:
		return fmt.Errorf("node.interface: the MTU of %s is %d, and a beacon of a cluster of 64 nodes may be an IP packet of %d bytes: `ip link set %s mtu %d`, or more",
			config.Interface, device.mtu, config.Beacon+ipLen+udpLen, config.Interface, config.Beacon+ipLen+udpLen)
	}
	return checkUnicast(config, device.kind)
}

// existing lists the host's interfaces for an error.
func existing() string {
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Sprintf(" (listing them: %v)", err)
	}
	var names []string
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	return ": this host has " + strings.Join(names, ", ")
}

// checkNotOwn refuses a VIP that the host has as an address of its own. One on lo
// as Up puts it there will do.
func checkNotOwn(vips []netip.Addr, addresses []hostAddress) error {
	for _, a := range addresses {
		if slices.Contains(vips, a.addr) && !a.isHeld(a.addr) {
			return fmt.Errorf("spec.vips: %s is already an address of this host, on %s: if it is the server's own, share another one; if not, remove it there (ip addr del %s dev %s), the agent adds it itself",
				a.addr, a.device(), netip.PrefixFrom(a.addr, a.bits), a.device())
		}
	}
	return nil
}

// chooseAddress returns the node's own address.
func chooseAddress(config Config, device device, addresses []hostAddress) (netip.Addr, error) {
	if slices.Contains(config.VIPs, config.Address) {
		return netip.Addr{}, fmt.Errorf("node.address: %s is a VIP: give an address that only this node has", config.Address)
	}
	if !config.Address.IsValid() {
		for _, a := range addresses {
			if a.index == device.index && a.global() {
				return a.addr, nil
			}
		}
		return netip.Addr{}, &AbsentError{What: fmt.Sprintf("node.interface: %s has no global IPv4 address: give it one, or set node.address", config.Interface)}
	}
	var own []string
	for _, a := range addresses {
		if a.addr == config.Address {
			return a.addr, nil
		}
		if a.global() {
			own = append(own, fmt.Sprintf("%s on %s", a.addr, a.device()))
		}
	}
	if own == nil {
		own = []string{"no global address"}
	}
	return netip.Addr{}, &AbsentError{fmt.Sprintf("node.address: %s is no address of this host", config.Address), ", which has " + strings.Join(own, ", ")}
}

// nudge asks Run for a look at the kernel soon; it never blocks.
func (l *Link) nudge() {
	select {
	case l.kick <- struct{}{}:
	default: // one is pending already
	}
}
