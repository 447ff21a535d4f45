package link

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Medium is one of the two ways that a beacon takes.
type Medium uint8

const (
	// MediumWire is the frame to the cluster MAC.
	MediumWire Medium = iota
	// MediumUnicast is plain UDP between the nodes' addresses.
	MediumUnicast
)

// String returns "wire" or "unicast".
func (m Medium) String() string {
	switch m {
	case MediumWire:
		return "wire"
	case MediumUnicast:
		return "unicast"
	}
	return fmt.Sprintf("medium(%d)", uint8(m))
}

// Received is a beacon as it came; nothing in it is verified but its TTL on the wire.
type Received struct {
	// Payload is valid during the call only.
	Payload []byte
	Medium  Medium
	Source  netip.AddrPort
	// TTL is what was left of it, 1 to 255; 255 on the wire. On the unicast medium
	// routers are allowed.
	TTL int
	// Near: it came by the node's interface and over no router, on either medium, so its
	// sender is on this segment.
	Near bool
	// At is when it was read from the socket, by BeaconConfig.Now.
	At time.Duration
}

// Receive gives deliver each beacon that comes on either medium, one call at a time,
// until the context is cancelled; then it returns nil. What it drops it counts: see
// MediumStatus.
func (b *Beacons) Receive(ctx context.Context, deliver func(Received)) error {
	b.receiving.Lock()
	defer b.receiving.Unlock()
	var one sync.Mutex
	tasks, ctx := errgroup.WithContext(ctx)
	for _, in := range []*inlet{&b.wire, &b.unicast} {
		tasks.Go(func() error {
			return in.read(ctx, func(r Received) {
				one.Lock()
				defer one.Unlock()
				deliver(r)
			})
		})
	}
	return tasks.Wait()
}

// inlet is the socket of one medium.
type inlet struct {
	medium   Medium
	socket   int // closed: below 0
	own      netip.Addr
	longest  int // of its datagrams
	atOnce   int // how many are read with one call
	reader   atomic.Pointer[intake]
	now      func() time.Duration
	on       func() int // the index of the node's interface
	counters receivedCounters
}

// receivedCounters are written by the reader and read by everybody.
type receivedCounters struct {
	delivered, own, farAway, oversized atomic.Uint64
	overflows                          atomic.Uint32 // the kernel's own count, of this width
}

// oobLen is room for the control messages that are asked for: two of 4 bytes, and
// IP_PKTINFO.
var oobLen = 2*unix.CmsgSpace(4) + unix.CmsgSpace(unix.SizeofInet4Pktinfo)

func (in *inlet) read(ctx context.Context, deliver func(Received)) error {
	if in.socket < 0 {
		return fmt.Errorf("receiving beacons (%s): %w", in.medium, net.ErrClosed)
	}
	intake, err := newIntake(in.socket, in.atOnce, in.longest, oobLen)
	if err != nil {
		return fmt.Errorf("receiving beacons (%s): %w", in.medium, err)
	}
	defer intake.close()
	intake.now = in.now
	intake.emptied.Store(int64(in.now())) // what came before is none of this reader's
	in.reader.Store(intake)
	defer in.reader.Store(nil)
	defer onDone(ctx, intake.end)()
	for {
		n, err := intake.read()
		if err != nil {
			return fmt.Errorf("receiving beacons (%s): %w", in.medium, err)
		}
		if n == 0 {
			return nil
		}
		at, near := in.now(), in.on()
		for i := range n {
			ttl, index := in.control(intake.control(i))
			r := Received{Payload: intake.content(i), Medium: in.medium, At: at, TTL: ttl, Near: ttl == beaconTTL && index == near,
				Source: intake.source(i)}
			if in.admit(r, intake.truncated(i)) {
				deliver(r)
			}
		}
		intake.taken()
	}
}

// heardUntil is until when all that came to the medium was delivered; while nobody
// reads, nothing is.
func (in *inlet) heardUntil(now time.Duration) time.Duration {
	if reader := in.reader.Load(); reader != nil {
		return reader.heardUntil(now)
	}
	return 0
}

// admit says whether a datagram is to be delivered, and counts it.
func (in *inlet) admit(r Received, truncated bool) bool {
	count := &in.counters.delivered
	switch {
	case r.Source.Addr() == in.own:
		count = &in.counters.own
	case r.Medium == MediumWire && r.TTL != beaconTTL:
		count = &in.counters.farAway
	case truncated:
		count = &in.counters.oversized
	}
	count.Add(1)
	return count == &in.counters.delivered
}

// control reads the control messages of a datagram: it returns the TTL and the interface
// that it came by, and keeps the kernel's count of what the socket had no room for, which
// comes with the first datagram after a loss.
func (in *inlet) control(oob []byte) (ttl, index int) {
	for len(oob) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return ttl, index // the kernel's own bytes, cut short: nothing follows
		}
		oob = rest
		switch {
		case len(data) < 4:
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_TTL:
			ttl = int(binary.NativeEndian.Uint32(data))
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO:
			index = int(binary.NativeEndian.Uint32(data)) // the first field of in_pktinfo
		case header.Level == unix.SOL_SOCKET && header.Type == unix.SO_RXQ_OVFL:
			in.counters.overflows.Store(binary.NativeEndian.Uint32(data))
		}
	}
	return ttl, index
}
