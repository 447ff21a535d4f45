package link

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
)

// segmentMates are the host's other interfaces on the segment of the VIPs, as far as
// their addresses show it. On these the kernel must keep still about the VIPs even when
// agent and rules are gone: who asks there would take all that is the VIP's to this node.
// An interface on another segment keeps its settings.
type segmentMates struct {
	config Config
	note   func(*sysctl)

	settings []*sysctl // of interfaces that are or were such
}

// ARPFiltered is what Config says.
func (l *Link) ARPFiltered() bool { return l.config.ARPFiltered }

func (m *segmentMates) String() string { return "arp_ignore on other interfaces of the segment" }

func (m *segmentMates) ensure(int) (bool, error) {
	addresses, err := readAddresses()
	if err != nil {
		return false, err
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return false, fmt.Errorf("listing the host's interfaces: %w", err)
	}
	mates, changed, errs := m.find(addresses, interfaces), false, []error(nil)
	for _, name := range slices.Sorted(maps.Keys(mates)) {
		i := slices.IndexFunc(m.settings, func(s *sysctl) bool { return s.where == name })
		if i < 0 {
			i = len(m.settings)
			m.settings = append(m.settings, arpIgnore(name, m.note))
		}
		before := m.settings[i].changed // else it is an interface that has come
		now, err := m.settings[i].ensure(mates[name])
		changed, errs = changed || before && now, append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// find returns the index of each, by name: those with an address in whose network a VIP
// is, or an address of the VIPs' interface.
func (m *segmentMates) find(addresses []hostAddress, interfaces []net.Interface) map[string]int {
	names := map[int]string{}
	for _, i := range interfaces {
		names[i.Index] = i.Name
	}
	segment := slices.Clone(m.config.VIPs)
	for _, a := range addresses {
		if names[a.index] == m.config.Interface {
			segment = append(segment, a.addr)
		}
	}
	mates := map[string]int{}
	for _, a := range addresses {
		name := names[a.index]
		if name == "" || name == m.config.Interface || a.index == loopbackIndex || a.bits == 0 {
			continue
		}
		if slices.ContainsFunc(segment, netip.PrefixFrom(a.addr, a.bits).Contains) {
			mates[name] = a.index
		}
	}
	return mates
}

func (m *segmentMates) release() error {
	var errs []error
	for _, s := range m.settings {
		errs = append(errs, s.release())
	}
	return errors.Join(errs...)
}
