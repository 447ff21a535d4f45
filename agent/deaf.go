package agent

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
)

// deafness tells a node that hears nobody because of its own firewall from one to
// which nobody speaks: the packet filter counts beacons as they come in, before any
// other rules of the host. A deaf node must be silent, and soon: those who hear it
// wait for its acknowledgements, and would hold their leases back until it is dead.
type deafness struct {
	detect node.Detect

	received uint64    // datagrams that came to the sockets
	at       node.Time // when the last one did
	looking  bool      // the kernel goroutine was asked to count
	lookedAt node.Time
	first    *look // at the beginning of a silence
	last     look
	deaf     bool
}

// look is what both had counted at one time.
type look struct {
	at                node.Time
	received, counted uint64
}

const (
	// deafCount is how many beacons the kernel must have counted while the sockets got
	// none. One may be on its way from there.
	deafCount = 3
	// deafTry is how often a deaf node looks whether that is over, and a node that
	// nobody speaks to whether it is deaf.
	deafTry = node.Time(time.Second)
)

// hear takes a datagram that came to a socket, and says whether this ends a deafness.
func (d *deafness) hear(now node.Time) (ended bool) {
	d.received++
	d.at, d.first = now, nil
	ended, d.deaf = d.deaf, false
	return ended
}

// due says whether the kernel should be asked now: soon after a silence has begun,
// and again when several beacons must have come; later seldom.
func (d *deafness) due(now node.Time) bool {
	every := d.detect.Interval
	silent := now - d.at
	switch {
	case d.looking || silent < 2*d.detect.Interval:
		return false
	case d.first != nil && !d.deaf:
		every = (deafCount + 1) * d.detect.Interval / 2
	}
	if d.deaf || silent > d.detect.D {
		every = deafTry
	}
	return now-d.lookedAt >= every
}

// look takes what the kernel has counted, of all that is not waiting in the sockets,
// and says whether the deafness has begun or ended.
func (d *deafness) look(now node.Time, counted uint64, waiting bool) (changed bool) {
	before := d.last
	d.last = look{now, d.received, counted}
	d.looking, d.lookedAt = false, now
	switch {
	case waiting || d.first == nil || d.first.received != d.received || counted < d.first.counted:
		d.first = &look{now, d.received, counted}
		return false
	case d.deaf:
		// Nothing comes any more, so nothing is kept away either.
		if d.deaf = counted > before.counted || now-before.at < deafTry; !d.deaf {
			d.first = nil
		}
		return !d.deaf
	case counted-d.first.counted >= deafCount:
		d.deaf = true
		return true
	}
	return false
}

// filtering is what keeps the wire's beacons from the agent, though others come by unicast.
type filtering struct {
	wire    deafness // of the wire alone: it silences nobody
	drops   uint64   // of the host's rp_filter, when it was looked at last
	reverse bool     // rp_filter is what drops them
}

// why says it, in words; "": nothing does.
func (f *filtering) why(port uint16, vip netip.Addr) string {
	switch {
	case !f.wire.deaf:
		return ""
	case f.reverse:
		return fmt.Sprintf("beacons come to this host on the wire and its rp_filter drops them (%s so far), and perhaps clients' packets: the way back to the senders leaves by another interface, or this one has no address: set rp_filter of net.ipv4.conf.all and of the interface to 0, or give it an address of their network", node.Count(f.drops, "packets"))
	}
	return fmt.Sprintf("beacons come to this host on the wire and a firewall or filter of its own keeps them from the agent, and perhaps clients' packets from the services: let in UDP to port %d of %s (see nft list ruleset and iptables-save)", port, vip)
}

// look takes what the kernel has counted, as deafness does.
func (f *filtering) look(now node.Time, counted uint64, waiting bool, drops uint64) {
	grown, came := drops-min(f.drops, drops), counted-min(f.wire.last.counted, counted)
	f.drops = drops
	f.wire.look(now, counted, waiting)
	f.reverse = grown > 0 && 2*grown >= came
}

// lookForDeafness has the kernel goroutine count if that is due. It needs mu.
func (b *beacons) lookForDeafness(now node.Time) {
	for _, d := range []*deafness{&b.deafness, &b.filtering.wire} {
		if b.attached && d.due(now) {
			d.looking = true
			b.kernel.ask(b.kernel.looks)
		}
	}
}

// looked takes what the kernel goroutine has counted.
func (b *beacons) looked(c nft.BeaconCounters, err error) {
	waiting := b.line.Unread()
	b.mu.Lock()
	looking, reverseDrops := b.filtering.wire.looking, b.reverseDrops
	b.mu.Unlock()
	drops := uint64(0)
	if looking {
		drops, _ = reverseDrops() // without the count, it is a firewall
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if err != nil {
		for _, d := range []*deafness{&b.deafness, &b.filtering.wire} {
			d.looking, d.lookedAt = false, now
		}
		return
	}
	if looking {
		onWire := others(c, b.own) - c.Unknown.Packets + c.UnknownOnWire.Packets
		b.filtering.look(now, onWire, waiting, drops)
	}
	if b.deafness.looking && b.deafness.look(now, others(c, b.own), waiting) {
		b.hush(b.deafness.deaf)
	}
}

// others are the beacons that the kernel let in, but for this node's own.
func others(c nft.BeaconCounters, own netip.Addr) uint64 {
	return c.Accepted().Packets - c.BySource[own].Packets
}

// hush makes this node mute because it is deaf, or ends that. It needs mu.
func (b *beacons) hush(deaf bool) {
	b.herald.Mute(deaf)
	why := ""
	if deaf {
		b.drop()
		b.line.Kick() // the last words
		why = fmt.Sprintf("beacons come to this host and a firewall or filter of its own keeps them from the agent: let in UDP to port %d of %s and %s (and look at rp_filter)",
			b.port, b.vip, b.own)
	}
	b.deafChanged(why)
}

// deafChanged takes why this node hears nobody by its own fault; "": it does not.
func (l *loop) deafChanged(why string) {
	l.queue.put(func() {
		l.deaf = why
		l.wireChanged()
	})
}
