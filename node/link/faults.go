package link

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// Faults are settings of the host that keep clients or beacons from this node, as Run has
// seen them last: sentences with the cure. They may be what somebody wants, and are only told.
func (l *Link) Faults() []string {
	if faults := l.faults.Load(); faults != nil {
		return *faults
	}
	return nil
}

// findFaults looks at the host.
func (w *watch) findFaults(now *sight) {
	var faults []string
	var errs []error
	for _, find := range []func(Config, *sight) (string, error){filteredBridge, snoopingBridge, strictReversePath} {
		fault, err := find(w.config, now)
		errs = append(errs, err)
		if fault != "" {
			faults = append(faults, fault)
		}
	}
	w.report("looking at the host's settings", errors.Join(errs...))
	w.faults.Store(&faults)
}

// filteredBridge: in a frame to a unicast address that a bridge floods and passes up the
// kernel lets conntrack see nothing (br_nf_local_in in net/bridge/br_netfilter_hooks.c).
func filteredBridge(config Config, now *sight) (string, error) {
	if now.kind.name != "bridge" || config.MAC.Multicast() {
		return "", nil
	}
	called := now.kind.callsFilter
	if !called {
		value, err := readSetting("/proc/sys/net/bridge/bridge-nf-call-iptables")
		if err != nil {
			return "", err
		}
		called = value == 1
	}
	if !called {
		return "", nil
	}
	return fmt.Sprintf("%s is a bridge whose frames pass the IP filter (br_netfilter), and with the unicast cluster MAC %s conntrack does not see them: moves break connections: sysctl net.bridge.bridge-nf-call-iptables=0, or spec.mac: multicast",
		config.Interface, config.MAC), nil
}

// snoopingBridge: a Linux bridge looks at the IP destination, for which nobody has asked.
func snoopingBridge(config Config, now *sight) (string, error) {
	k := now.kind
	if !config.MAC.Multicast() || !k.snoops || k.hearsAll || !k.queried {
		return "", nil
	}
	return fmt.Sprintf("%[1]s is a bridge that snoops and hears a querier, and does not pass frames to the cluster MAC up to this host: ip link set %[1]s type bridge mcast_router 2, or mcast_snooping 0",
		config.Interface), nil
}

// elsewhere is an address that only a default route leads to.
var elsewhere = net.IPv4(1, 1, 1, 1)

// strictReversePath: rp_filter=1 drops what would be answered by another interface. The
// kernel goes by the greater of the two settings.
func strictReversePath(config Config, now *sight) (string, error) {
	if !now.found {
		return "", nil
	}
	strictest := 0
	for _, where := range []string{"all", config.Interface} {
		value, err := readSetting("/proc/sys/net/ipv4/conf/" + where + "/rp_filter")
		if err != nil {
			return "", err
		}
		strictest = max(strictest, value)
	}
	if strictest != 1 {
		return "", nil
	}
	// As the kernel asks (fib_validate_source): by which way would the VIP answer?
	routes, err := netlink.RouteGetWithOptions(elsewhere, &netlink.RouteGetOptions{SrcAddr: config.VIPs[0].AsSlice()})
	if err != nil || len(routes) == 0 || routes[0].LinkIndex == now.index || routes[0].LinkIndex == loopbackIndex {
		return "", nil // no way at all, or the VIP is not here
	}
	by := fmt.Sprintf("interface %d", routes[0].LinkIndex)
	if i, err := net.InterfaceByIndex(routes[0].LinkIndex); err == nil {
		by = i.Name
	}
	return fmt.Sprintf("rp_filter is strict on %[1]s, and the default route leaves by %[2]s: the kernel drops clients of other networks that come by %[1]s: sysctl net.ipv4.conf.%[1]s.rp_filter=2, or a route back by %[1]s",
		config.Interface, by), nil
}

// ReversePathDrops is how many packets the kernel has dropped by rp_filter, on all
// interfaces of the calling thread's network namespace.
func ReversePathDrops() (uint64, error) {
	text, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		return 0, fmt.Errorf("reading what rp_filter has dropped: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, "IPReversePathFilter"); i > 0 && i < len(fields) {
			return strconv.ParseUint(fields[i], 10, 64)
		}
	}
	return 0, errors.New("reading what rp_filter has dropped: the kernel does not say")
}

// readSetting reads a number; 0 where there is no such setting.
func readSetting(path string) (int, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading a setting of the host: %w", err)
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", path, err)
	}
	return value, nil
}
