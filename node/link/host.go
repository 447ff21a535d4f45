package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// device is what the kernel says of the interface at one moment.
type device struct {
	found    bool // false: there is no interface of the name, and the rest is zero
	index    int
	name     string // its own, if it was asked for by an alternative name (ip-link(8), altname)
	mac      hwAddr
	ethernet bool
	kind     kind
	up       bool // set up by the operator: IFF_UP
	carrier  bool // IFF_LOWER_UP
	mtu      int
	running  bool   // operational, RFC 2863: IFF_RUNNING; not while 802.1X is unfinished
	losses   uint32 // how often the carrier was lost since the interface was made
}

// hostAddress is one IPv4 address of the host.
type hostAddress struct {
	addr  netip.Addr
	bits  int // the prefix length
	index int // the interface's
	scope netlink.Scope
	label string
}

// loopbackIndex is the index of lo in every network namespace (LOOPBACK_IFINDEX in
// the kernel's include/net/flow.h).
const loopbackIndex = 1

// isHeld says whether this is the VIP in the form in which Up puts it on lo.
func (a hostAddress) isHeld(vip netip.Addr) bool {
	return a.addr == vip && a.index == loopbackIndex && a.bits == vip.BitLen() && a.scope == netlink.SCOPE_HOST
}

// vipLabel marks the VIPs that Up has put on lo, also for who reads `ip addr`: one
// without it is somebody else's. The kernel keeps it, and loses it with the address.
const vipLabel = "lo:peervip"

// isOurs says whether this node, in this life or an earlier one, has put the address
// on lo as a VIP.
func (a hostAddress) isOurs() bool { return a.isHeld(a.addr) && a.label == vipLabel }

func (a hostAddress) global() bool { return a.scope == netlink.SCOPE_UNIVERSE }

// device names the address's interface for an error.
func (a hostAddress) device() string {
	i, err := net.InterfaceByIndex(a.index)
	if err != nil {
		return fmt.Sprintf("interface %d", a.index)
	}
	return i.Name
}

// altNameSize is ALTIFNAMSIZ (include/uapi/linux/if.h).
const altNameSize = 128

// readDevice asks for the interface by itself: the library's link has no count of
// carrier losses.
func readDevice(name string) (device, error) {
	// An alternative name may be longer; the kernel finds short ones by either attribute.
	attribute := unix.IFLA_IFNAME
	switch {
	case name == "" || len(name) >= altNameSize:
		return device{}, nil // no interface is called that
	case len(name) >= unix.IFNAMSIZ:
		attribute = unix.IFLA_ALT_IFNAME
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(attribute, nl.ZeroTerminated(name)))
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if errors.Is(err, unix.ENODEV) {
		return device{}, nil
	}
	if err == nil && (len(messages) != 1 || len(messages[0]) < unix.SizeofIfInfomsg) {
		err = fmt.Errorf("the kernel's answer has %d messages", len(messages))
	}
	var attributes map[uint16]syscall.NetlinkRouteAttr
	if err == nil {
		attributes, err = nl.ParseRouteAttrAsMap(messages[0][unix.SizeofIfInfomsg:])
	}
	if err != nil {
		return device{}, fmt.Errorf("reading interface %s: %w", name, err)
	}
	info := nl.DeserializeIfInfomsg(messages[0])
	d := device{
		found: true, index: int(info.Index), name: unix.ByteSliceToString(attributes[unix.IFLA_IFNAME].Value),
		up:      info.Flags&unix.IFF_UP != 0,
		carrier: info.Flags&unix.IFF_LOWER_UP != 0,
		running: info.Flags&unix.IFF_RUNNING != 0,
	}
	if mac := attributes[unix.IFLA_ADDRESS].Value; info.Type == unix.ARPHRD_ETHER && len(mac) == len(d.mac) {
		d.ethernet, d.mac = true, hwAddr(mac)
	}
	if d.kind, err = readKind(attributes[unix.IFLA_LINKINFO].Value); err != nil {
		return device{}, err
	}
	if mtu := attributes[unix.IFLA_MTU].Value; len(mtu) == 4 {
		d.mtu = int(binary.NativeEndian.Uint32(mtu))
	}
	if count := attributes[unix.IFLA_CARRIER_DOWN_COUNT].Value; len(count) == 4 {
		d.losses = binary.NativeEndian.Uint32(count)
	}
	return d, nil
}

// dumpAttempts bounds how often a dump is asked for again that the kernel says was
// torn by a change; each attempt takes microseconds.
const dumpAttempts = 10

// readAddresses lists the host's IPv4 addresses in the kernel's order: an
// interface's primary address comes before its secondary ones.
func readAddresses() ([]hostAddress, error) {
	var list []netlink.Addr
	err := error(netlink.ErrDumpInterrupted)
	for try := 0; try < dumpAttempts && errors.Is(err, netlink.ErrDumpInterrupted); try++ {
		list, err = netlink.AddrList(nil, netlink.FAMILY_V4)
	}
	if err != nil {
		return nil, fmt.Errorf("listing the host's addresses: %w", err)
	}
	addresses := make([]hostAddress, 0, len(list))
	for _, a := range list {
		bits, _ := a.Mask.Size()
		addr, _ := netip.AddrFromSlice(a.IP.To4())
		addresses = append(addresses, hostAddress{addr: addr, bits: bits, index: a.LinkIndex, scope: netlink.Scope(a.Scope), label: a.Label})
	}
	return addresses, nil
}

// sight is one look at the host; it is never changed after it was published.
type sight struct {
	device
	hasAddress   bool       // the node's own address is there
	source       netip.Addr // fit as a sender on the interface; 0.0.0.0 if it has no address
	carrierSince time.Time  // since when the carrier is there, monotonic
}

func newSight(config Config, device device, addresses []hostAddress) sight {
	s := sight{device: device, source: netip.IPv4Unspecified()}
	for _, a := range addresses {
		if a.addr == config.Address {
			s.hasAddress = true
		}
		if a.index == device.index && (a.addr == config.Address || a.global() && s.source.IsUnspecified() && !slices.Contains(config.VIPs, a.addr)) {
			s.source = a.addr
		}
	}
	return s
}

// outageSince says what happened to a working interface since an earlier look if it
// works again now, so that nothing else shows it: "" for nothing. A switch port
// starts to learn anew after the shortest loss of the carrier, and an interface made
// anew lacks all that belonged to the old one; deleted tells of one that has the
// same index.
func (s sight) outageSince(before *sight, deleted bool) string {
	switch {
	case !s.working() || !before.working():
		return "" // the status shows it
	case s.index != before.index || deleted:
		return "was made anew"
	case s.losses != before.losses:
		return "lost its carrier for a moment"
	}
	return ""
}

// working says whether frames can come and go.
func (s sight) working() bool { return s.found && s.up && s.carrier && s.running }
