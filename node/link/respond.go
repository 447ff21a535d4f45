package link

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// respond answers what the socket hears, until it is closed or fails; then look
// opens another.
func (l *Link) respond(conn *packet.Conn) {
	buffer := make([]byte, snapLength)
	var warned conflictLog
	for {
		n, _, err := conn.ReadFrom(buffer)
		if errors.Is(err, unix.ENETDOWN) {
			continue // told once; the socket hears again when the interface is up
		}
		if err != nil {
			return
		}
		frame, err := parseARP(buffer[:n])
		if err != nil {
			continue // not ours to judge
		}
		l.note(frame, &warned)
		reply, why := l.speaker.Load().answer(frame)
		if why != answered {
			continue
		}
		if err := transmit(conn, reply); err != nil {
			l.log.Debug("an ARP request stays unanswered", "client", frame.senderIP, "error", err)
		}
	}
}

func transmit(conn *packet.Conn, frame arpFrame) error {
	_, err := conn.WriteTo(frame.bytes(), &packet.Addr{HardwareAddr: frame.dst.hardware()})
	if err != nil {
		return fmt.Errorf("sending an ARP frame for %s to %s: %w", frame.targetIP, frame.dst, err)
	}
	return nil
}

// note takes from a frame what it tells of the wire.
func (l *Link) note(frame arpFrame, warned *conflictLog) {
	own := l.seen.Load().mac
	if frame.operation == layers.ARPReply && frame.src != own && frame.senderMAC != own {
		l.heard.Store(true)
	}
	if frame.claims(l.config.VIPs, l.config.MAC.addr) && warned.due(frame.senderMAC, time.Now()) {
		l.log.Warn((&ConflictError{VIP: frame.senderIP, MAC: frame.senderMAC.hardware(), Cluster: l.config.MAC}).Error())
	}
}

// conflictLog keeps a host that claims a VIP from filling the log: one line a
// minute, and one for each other MAC.
type conflictLog struct {
	mac  hwAddr
	when time.Time
}

func (c *conflictLog) due(mac hwAddr, now time.Time) bool {
	if mac == c.mac && now.Sub(c.when) < time.Minute {
		return false
	}
	c.mac, c.when = mac, now
	return true
}

// announce sends gratuitous ARP for every VIP, if the link is up and works.
func (w *watch) announce() {
	speaker := w.speaker.Load()
	if speaker == nil || w.send == nil || !w.seen.Load().working() {
		return
	}
	for _, vip := range speaker.vips {
		w.report("sending gratuitous ARP for "+vip.String(), transmit(w.send, speaker.announcement(vip)))
	}
}

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
