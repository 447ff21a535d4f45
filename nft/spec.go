package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// Spec is what the rules are made from.
type Spec struct {
	// Interface is the name of the interface that the VIPs live on.
	Interface string
	// ClusterMAC is the MAC address that frames for the VIPs come to.
	ClusterMAC net.HardwareAddr
	// VIPs are the shared addresses: at least one, IPv4.
	VIPs []netip.Addr
	// Layout maps clients to buckets; its seed is not 0.
	Layout hashring.Layout
	// Services are the classes of the VIPs' traffic. The last is the default: it
	// gets what no other names.
	Services []Service
	// GossipPort is the port on which the agents talk; UDP from it to it is not
	// tracked, so that a full conntrack table does not part the cluster.
	GossipPort uint16
	// BeaconPort is the UDP port of the first VIP that beacons come to; 0: there
	// are none. They must not be fragmented.
	BeaconPort uint16
	// Lease is how long this node may serve after a beacon with the mark LeaseMark
	// has left it; 0: for ever. The kernel counts in ticks of its own, of 1 to 10
	// ms, and rounds down: a lease is up to two ticks shorter than this, and never
	// longer.
	Lease time.Duration
	// ArmFor is how long a lease lasts that was armed, if no beacon prolongs it: at most
	// Lease; 0: Lease.
	ArmFor time.Duration
	// ARP: the kernel is to be kept from answering ARP for the VIPs, on whatever
	// interface (see GuardsARP). Other addresses are not touched.
	ARP bool
	// Bridge: the interface is a bridge.
	Bridge bool
	// Reassembles: the kernel reassembles without conntrack (see Reassembles), which is
	// left alone then if no flows linger.
	Reassembles bool
	// NoRoutes: the kernel's rules cannot ask which addresses are this host's (see
	// SeesRoutes). What the host only forwards to the agent's ports is then rationed too.
	NoRoutes bool
	// LeaseMark is the mark (SO_MARK) of a beacon that prolongs the lease.
	LeaseMark uint32
}

// Service is a class of the VIPs' traffic with buckets of its own.
type Service struct {
	// Name: lower-case letters, digits and hyphens, a letter first.
	Name string
	// Linger is which flows stay on their old node when their bucket moves.
	Linger Linger
}

// states are those in which a bucket of the service has an element in the maps,
// and a chain and a counter of its own. Where nothing lingers, that state takes
// nothing.
func (s Service) states() []node.State {
	switch s.Linger {
	case LingerNone:
		return []node.State{node.Own, node.Adopt}
	case LingerTCP:
		return []node.State{node.Own, node.Adopt, node.Linger}
	}
	return []node.State{node.Own, node.Adopt, node.Linger, node.Yield, node.Wary}
}

func (s Service) identifier() string { return strings.ReplaceAll(s.Name, "-", "_") }

// Linger is which flows stay on their old node when their bucket moves.
type Linger uint8

const (
	// LingerNone: none. Adopt is then as Own, and Linger as None. The zero value.
	LingerNone Linger = iota
	// LingerTCP: open TCP connections and SCTP associations.
	LingerTCP
	// LingerAll: those, and flows of all other protocols but ICMP, which has
	// nothing to lose, as far as both owners list them (Transaction.List).
	LingerAll
)

var lingerNames = [...]string{LingerNone: "none", LingerTCP: "tcp", LingerAll: "all"}

func (l Linger) String() string {
	if int(l) < len(lingerNames) {
		return lingerNames[l]
	}
	return fmt.Sprintf("Linger(%d)", uint8(l))
}

// linger says whether flows of any service linger.
func (s Spec) linger() bool {
	return slices.ContainsFunc(s.Services, func(service Service) bool { return service.Linger != LingerNone })
}

// lists says whether flows are listed, which the buckets' states alone do not decide.
func (s Spec) lists() bool {
	return slices.ContainsFunc(s.Services, func(service Service) bool { return service.Linger == LingerAll })
}

var serviceName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

func (s Spec) check() error {
	if s.Interface == "" || len(s.Interface) > 15 || strings.ContainsAny(s.Interface, "\"*/ \t\n") {
		return fmt.Errorf("interface: %q is no interface name", s.Interface)
	}
	if len(s.ClusterMAC) != 6 {
		return fmt.Errorf("cluster MAC: %q is not 6 bytes long", s.ClusterMAC)
	}
	if len(s.VIPs) == 0 {
		return errors.New("VIPs: there is none: name at least one address")
	}
	for i, vip := range s.VIPs {
		if !vip.Is4() {
			return fmt.Errorf("VIPs: %s is not an IPv4 address", vip)
		}
		if slices.Contains(s.VIPs[:i], vip) {
			return fmt.Errorf("VIPs: %s is there twice", vip)
		}
	}
	if b := s.Layout.Buckets; b < hashring.MinBuckets || b > hashring.MaxBuckets {
		return fmt.Errorf("buckets: %d is out of range: choose a number from %d to %d", b, hashring.MinBuckets, hashring.MaxBuckets)
	}
	if s.Layout.Seed == 0 {
		return errors.New("seed: 0 would have each kernel choose its own: take another")
	}
	if len(s.Services) != 1 {
		return fmt.Errorf("services: there are %d: exactly one can be served", len(s.Services))
	}
	for _, service := range s.Services {
		if !serviceName.MatchString(service.Name) {
			return fmt.Errorf("services: the name %q: use lower-case letters, digits and hyphens, a letter first", service.Name)
		}
		if int(service.Linger) >= len(lingerNames) {
			return fmt.Errorf("services: %s: there is no %s", service.Name, service.Linger)
		}
	}
	if s.GossipPort == 0 {
		return errors.New("gossip port: it is not set")
	}
	if s.BeaconPort == s.GossipPort {
		return fmt.Errorf("beacon port: %d is the gossip port too: choose another", s.BeaconPort)
	}
	return s.checkLease()
}

func (s Spec) checkLease() error {
	switch {
	case s.Lease == 0:
		return nil
	case s.Lease < time.Millisecond || s.Lease%time.Millisecond != 0:
		return fmt.Errorf("lease: %s: the kernel takes whole milliseconds, at least 1", s.Lease)
	case s.ArmFor < 0 || s.ArmFor > s.Lease || s.ArmFor%time.Millisecond != 0:
		return fmt.Errorf("arm for: %s: want whole milliseconds, at most the lease of %s", s.ArmFor, s.Lease)
	case s.BeaconPort == 0:
		return errors.New("beacon port: it is not set, and beacons prolong the lease")
	case s.LeaseMark == 0:
		return errors.New("lease mark: 0 is the mark of all packets: choose another")
	}
	return nil
}
