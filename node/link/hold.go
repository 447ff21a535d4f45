package link

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A hold is one thing that the host is made to have while the node runs.
type hold interface {
	// ensure makes it so where it is not, and says whether it had to change
	// anything. The index is the interface's, 0 while there is none: then what
	// belongs to the interface is forgotten, since it went with it.
	ensure(index int) (changed bool, err error)
	// release takes back what ensure did, and only that. After an error it may be
	// called again.
	release() error
	// String names the thing for a log.
	String() string
}

// newHolds lists what Hold does, in its order. A sysctl calls note before it is
// changed.
func newHolds(config Config, note func(*sysctl)) []hold {
	holds := []hold{arpAnnounce("all", note), arpIgnore(config.Interface, note), arpAnnounce(config.Interface, note)}
	if config.ARPFiltered {
		holds = append(holds, &segmentMates{config: config, note: note})
	} else {
		holds = append(holds, arpIgnore("all", note))
	}
	for _, vip := range config.VIPs {
		holds = append(holds, &vipOnLo{vip: vip})
	}
	return append(holds, &membership{mac: config.MAC, on: config.Interface})
}

// arpIgnore keeps the kernel from answering ARP for addresses of lo. Values of
// net/ipv4/arp.c, arp_ignore: 1 to 3 and 8 keep still about one with scope host, 4 to 7
// are reserved and mean 0.
func arpIgnore(where string, note func(*sysctl)) *sysctl {
	return &sysctl{where: where, key: "arp_ignore", want: 1, enough: []int{1, 2, 3, 8}, note: note}
}

// arpAnnounce keeps the kernel from naming a VIP as the sender of its own requests.
// arp_solicit: everything but 1 and 2 means 0; 1 may still name a VIP.
func arpAnnounce(where string, note func(*sysctl)) *sysctl {
	return &sysctl{where: where, key: "arp_announce", want: 2, enough: []int{2}, note: note}
}

// Hold makes the host hold the VIPs, in silence: sysctls, the VIPs on lo, the group of
// the cluster MAC. The guard that drops what comes to the VIPs must be in place before.
// While the interface is not there, what belongs to it is left out. Hold may be called
// again; after an error, Down takes back what was done.
//
// Run checks all this at every look and puts back, with a warning, what somebody
// has taken away: who does not want the VIP here stops the node.
func (l *Link) Hold() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	device, err := readDevice(l.config.Interface)
	if err != nil {
		return err
	}
	return l.hold(device)
}

// hold is Hold for who holds l.mu.
func (l *Link) hold(device device) error {
	for _, h := range l.holds {
		if _, err := h.ensure(device.index); err != nil {
			return err
		}
	}
	l.held = true
	return nil
}

// Up is Hold, and then begins to answer ARP for the VIPs, as long as Run runs. It may be
// called again.
func (l *Link) Up() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	device, err := readDevice(l.config.Interface)
	if err != nil {
		return err
	}
	if !device.found {
		return fmt.Errorf("interface %s does not exist", l.config.Interface)
	}
	if err := l.hold(device); err != nil {
		return err
	}
	l.up = true
	l.speak(device.mac)
	l.fresh.Store(true)
	l.nudge()
	return nil
}

// Hush ends the answers of Up; the host goes on to hold the VIPs.
func (l *Link) Hush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = false
	l.speaker.Store(nil)
}

// Down stops the answers and then takes back what Hold did, in reverse, also after
// a partial Hold, and what an earlier life has left. What Hold found as it wanted it
// stays, and so does what somebody has changed since. Down may be called again, and
// Hold after it.
//
// A node that was killed leaves the VIPs on lo, and the sysctls; they harm nobody.
// The VIPs are known by their label, the sysctls by Config.Changes: the next life
// goes on with them, and its Down takes them back. The group goes with the process.
func (l *Link) Down() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held, l.up = false, false
	l.speaker.Store(nil)
	var errs []error
	for _, h := range slices.Backward(l.holds) {
		errs = append(errs, h.release())
	}
	errs = append(errs, l.discard())
	return errors.Join(errs...)
}

// Abandon stops the answers and leaves the host as it is, for the next life to go on
// with: only the group of the cluster MAC goes, as it would with the process.
func (l *Link) Abandon() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held, l.up = false, false
	l.speaker.Store(nil)
	for _, h := range l.holds {
		if m, ok := h.(*membership); ok {
			return m.release()
		}
	}
	return nil
}

// speak sets what the answers say. The caller holds l.mu.
func (l *Link) speak(own hwAddr) {
	if l.up {
		l.speaker.Store(&speaker{own: own, cluster: l.config.MAC.addr, vips: l.config.VIPs})
	}
}

// repair ensures again what Hold did, unless Down was called: after the interface was
// made anew, or somebody changed the host. With deleted, the interface was away,
// even if one with the same index is there again.
func (l *Link) repair(seen *sight, deleted bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held {
		return nil
	}
	l.speak(seen.mac)
	var errs []error
	for _, h := range l.holds {
		if deleted {
			_, err := h.ensure(0)
			errs = append(errs, err)
		}
	}
	for _, h := range l.holds {
		changed, err := h.ensure(seen.index)
		if changed {
			l.log.Warn("put back what was gone from the host", "what", h)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sysctl is a setting of net.ipv4.conf, for all interfaces or one. The kernel goes
// by the greater of the two for the keys used here (IN_DEV_MAXCONF in
// include/linux/inetdevice.h).
type sysctl struct {
	where  string // "all", or the interface's name
	key    string
	want   int
	enough []int // the values that will do
	note   func(*sysctl)

	index   int  // the interface that the rest is for; 0: all
	changed bool // there is something to put back:
	found   int
}

func (s *sysctl) String() string { return "net.ipv4.conf." + s.where + "." + s.key }

func (s *sysctl) ensure(index int) (bool, error) {
	if s.where != "all" {
		if index != s.index {
			if s.index > 0 && nameOf(s.index) != s.where { // a new name, and the old settings
				if err := s.release(); err != nil {
					return false, err
				}
			}
			s.index, s.changed = index, false
		}
		if index == 0 {
			return false, nil
		}
	}
	found, err := s.read()
	if err != nil {
		return false, err
	}
	if slices.Contains(s.enough, found) {
		return false, nil
	}
	if !s.changed {
		s.changed, s.found = true, found
		s.note(s)
	}
	if err := s.write(s.want); err != nil {
		return false, err
	}
	return true, nil
}

func (s *sysctl) release() error {
	if !s.changed {
		return nil
	}
	if err := s.putBack(); err != nil {
		return err
	}
	s.changed = false
	return nil
}

// putBack restores the value, unless somebody has changed ours meanwhile: then that
// is what he wants.
func (s *sysctl) putBack() error {
	there := *s
	if s.index > 0 {
		if there.where = nameOf(s.index); there.where == "" {
			return nil // went with the interface
		}
	}
	now, err := there.read()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went just now
	}
	if err != nil {
		return err
	}
	if now != s.want {
		return nil
	}
	return there.write(s.found)
}

// nameOf is what the interface is called now; "": there is none of that index.
func nameOf(index int) string {
	device, err := net.InterfaceByIndex(index)
	if err != nil {
		return ""
	}
	return device.Name
}

// path leads to the network namespace of the calling thread.
func (s *sysctl) path() string {
	return filepath.Join("/proc/sys/net/ipv4/conf", s.where, s.key)
}

func (s *sysctl) read() (int, error) {
	text, err := os.ReadFile(s.path())
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", s, err)
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", s, err)
	}
	return value, nil
}

func (s *sysctl) write(value int) error {
	err := os.WriteFile(s.path(), []byte(strconv.Itoa(value)), 0)
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("setting %s to %d: /proc/sys is read-only here (a container?): set it from outside", s, value)
	}
	if err != nil {
		return fmt.Errorf("setting %s to %d: %w", s, value, err)
	}
	return nil
}

// vipOnLo is a VIP as an address of lo, with scope host.
type vipOnLo struct{ vip netip.Addr }

func (v *vipOnLo) String() string { return v.vip.String() + " on lo" }

func (v *vipOnLo) address() *netlink.Addr {
	return &netlink.Addr{
		IPNet: &net.IPNet{IP: v.vip.AsSlice(), Mask: net.CIDRMask(v.vip.BitLen(), v.vip.BitLen())},
		Scope: int(netlink.SCOPE_HOST),
		Label: vipLabel,
	}
}

func (v *vipOnLo) ensure(int) (bool, error) {
	addresses, err := readAddresses()
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(addresses, func(a hostAddress) bool { return a.isHeld(v.vip) }) {
		return false, nil
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.AddrAdd(lo, v.address())
	}
	if err != nil {
		return false, fmt.Errorf("adding the VIP %s to lo: %w", v.vip, err)
	}
	return true, nil
}

// release removes the VIP if it has our label: the kernel compares it.
func (v *vipOnLo) release() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.AddrDel(lo, v.address())
	}
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) { // already gone
		return fmt.Errorf("removing the VIP %s from lo: %w", v.vip, err)
	}
	return nil
}

// membership makes the interface take frames to the cluster MAC. It lives in a
// socket, so the kernel ends it with the process at the latest.
type membership struct {
	mac ClusterMAC
	on  string

	index  int // the interface that the socket is for; 0: there is no socket
	socket int
}

func (m *membership) String() string {
	if m.mac.group.IsValid() {
		return fmt.Sprintf("membership of %s (%s) on %s", m.mac.group, m.mac, m.on)
	}
	return fmt.Sprintf("filter for %s on %s", m.mac, m.on)
}

func (m *membership) ensure(index int) (bool, error) {
	if index == m.index {
		return false, nil
	}
	if err := m.release(); err != nil || index == 0 {
		return false, err
	}
	socket, err := m.join(index)
	if err != nil {
		return false, fmt.Errorf("joining: %s: %w", m, err)
	}
	m.index, m.socket = index, socket
	return true, nil
}

// join opens a socket that gets no packets and holds the membership.
func (m *membership) join(index int) (int, error) {
	family, kind := unix.AF_PACKET, unix.SOCK_RAW
	if m.mac.group.IsValid() {
		family, kind = unix.AF_INET, unix.SOCK_DGRAM
	}
	socket, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("opening a socket: %w", err)
	}
	if err := m.set(socket, index, true); err != nil {
		return 0, errors.Join(err, unix.Close(socket))
	}
	return socket, nil
}

// set joins or leaves: the IGMP group, so that switches learn of it, or else the
// bare MAC in the interface's filter (packet(7)).
func (m *membership) set(socket, index int, member bool) error {
	if m.mac.group.IsValid() {
		option := unix.IP_DROP_MEMBERSHIP
		if member {
			option = unix.IP_ADD_MEMBERSHIP
		}
		return unix.SetsockoptIPMreqn(socket, unix.IPPROTO_IP, option,
			&unix.IPMreqn{Multiaddr: m.mac.group.As4(), Ifindex: int32(index)})
	}
	option := unix.PACKET_DROP_MEMBERSHIP
	if member {
		option = unix.PACKET_ADD_MEMBERSHIP
	}
	request := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_UNICAST, Alen: uint16(len(m.mac.addr))}
	if m.mac.Multicast() {
		request.Type = unix.PACKET_MR_MULTICAST
	}
	copy(request.Address[:], m.mac.addr[:])
	return unix.SetsockoptPacketMreq(socket, unix.SOL_PACKET, option, &request)
}

func (m *membership) release() error {
	if m.index == 0 {
		return nil
	}
	// Closing alone is not enough: a child that is being started holds a copy of the
	// socket until it executes its program, and would take with it, then, the
	// membership of an interface that has come back with the same index.
	err := m.set(m.socket, m.index, false)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL) {
		err = nil // the interface has gone, and the membership with it
	}
	err = errors.Join(err, unix.Close(m.socket))
	m.index = 0
	if err != nil {
		return fmt.Errorf("leaving: %s: %w", m, err)
	}
	return nil
}
