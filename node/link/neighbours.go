package link

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Ask makes Run look for evidence that the wire forwards: once a second, until
// Heard, it sends ARP requests to the targets and to the default gateways on the
// interface. After a loss of the carrier it asks again by itself. Ask may be
// called again with other targets.
func (l *Link) Ask(targets []netip.Addr) {
	targets = slices.Clone(targets)
	l.asking.Store(&targets)
	l.nudge()
}

// Heard says whether an ARP reply of another host has come in since the carrier
// came up, which proves that the wire forwards in both directions. A switch port
// that is still learning, or is isolated, gives a carrier and no answers.
func (l *Link) Heard() bool { return l.heard.Load() }

// ask sends the requests of Ask.
func (w *watch) ask() {
	targets, seen := w.asking.Load(), w.seen.Load()
	w.asked = targets
	if targets == nil || w.send == nil || w.heard.Load() || !seen.working() {
		return
	}
	gateways, err := gateways(seen.index)
	w.report("listing default gateways", err)
	for _, target := range slices.Concat(*targets, gateways) {
		target = target.Unmap()
		if !target.Is4() || target == w.config.Address || target == seen.source || slices.Contains(w.config.VIPs, target) {
			continue
		}
		w.report("asking for the neighbour "+target.String(), transmit(w.send, request(seen.mac, seen.source, target)))
	}
}

// gateways returns the IPv4 default gateways behind the interface.
func gateways(index int) ([]netip.Addr, error) {
	var routes []netlink.Route
	err := error(netlink.ErrDumpInterrupted)
	for try := 0; try < dumpAttempts && errors.Is(err, netlink.ErrDumpInterrupted); try++ {
		// A nil Dst stands for the default route.
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_DST)
	}
	if err != nil {
		return nil, fmt.Errorf("listing default routes: %w", err)
	}
	var found []netip.Addr
	for _, route := range routes {
		hops := route.MultiPath
		if len(hops) == 0 {
			hops = []*netlink.NexthopInfo{{LinkIndex: route.LinkIndex, Gw: route.Gw}}
		}
		for _, hop := range hops {
			gateway, ok := netip.AddrFromSlice(hop.Gw)
			if ok && hop.LinkIndex == index && !slices.Contains(found, gateway.Unmap()) {
				found = append(found, gateway.Unmap())
			}
		}
	}
	return found, nil
}
