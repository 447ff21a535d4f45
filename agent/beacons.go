package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// leaseMark is the firewall mark of beacons that prolong the lease: "pvip".
const leaseMark = 0x70766970

// beaconLine carries beacons, as link.Beacons does.
type beaconLine interface {
	Send(context.Context, link.Build) error
	Receive(context.Context, func(link.Received)) error
	Kick()
	Unread() bool
	HeardUntil(now time.Duration) time.Duration
	Tell(to netip.AddrPort, payload []byte) error
	Status() link.BeaconStatus
}

// beacons is the herald among threads: the one that sends, those that receive, the
// loop, and the kernel goroutine, which has the lease. None of them waits for
// another, but for mu, which is held for microseconds.
type beacons struct {
	log          *slog.Logger
	now          func() node.Time
	wall         func(node.Time) time.Time // the same moment by the clock that package nft reads
	post         func(node.Event)
	kernel       *kernel
	line         beaconLine
	own          netip.Addr
	vip          netip.Addr
	port         uint16
	deafChanged  func(why string) // tells the loop
	detect       node.Detect
	reverseDrops func() (uint64, error) // what the host's rp_filter has dropped

	// Of the goroutine that receives.
	reader  *node.BeaconCodec
	letters *letters
	deliver func(message []byte) // takes what a letter says
	got     node.Beacon
	faults  [node.BeaconFaults]atomic.Uint64
	outside *outside
	kinds   [node.HearingKinds]atomic.Uint64

	timer *time.Timer // for what falls due between two beacons

	mu        sync.Mutex
	herald    *node.Herald
	peers     map[node.Incarnation]netip.AddrPort // the members
	unlisted  map[node.Incarnation]netip.Addr     // who was heard and is no member, since they were last asked for
	due       node.Time                           // when the timer goes off; 0: it does not
	arming    bool                                // the kernel goroutine was asked to arm the lease
	dropping  bool                                // it was asked to drop it
	attached  bool                                // the VIP is up, so that beacons on the wire can be heard
	deafness  deafness
	filtering filtering
	// Of the thread that sends.
	writer  *node.BeaconCodec
	next    node.Beacon
	to      []node.Incarnation
	unicast []netip.AddrPort
}

// newBeacons returns the beacons of a loop and its kernel, without sockets.
func newBeacons(cfg Config, l *loop, k *kernel) (*beacons, error) {
	tick, err := KernelTick()
	if err != nil {
		return nil, err
	}
	var keys []node.BeaconKey
	for _, key := range cfg.Keys {
		derived, err := node.DeriveBeaconKey(key)
		if err != nil {
			return nil, err
		}
		keys = append(keys, derived)
	}
	letters, err := newLetters(cfg.Cluster, cfg.Keys)
	if err != nil {
		return nil, err
	}
	detect := cfg.Spec.Detect.timing()
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	b := &beacons{
		log: l.log, now: l.now, wall: l.wall, post: l.post, kernel: k, own: cfg.Address, vip: cfg.Spec.VIPs[0], port: cfg.BeaconPort, detect: detect,
		letters: letters, deliver: l.deliver, deafChanged: l.deafChanged, deafness: deafness{detect: detect},
		filtering: filtering{wire: deafness{detect: detect}}, reverseDrops: link.ReversePathDrops,
		reader: node.NewBeaconCodec(cfg.Cluster, keys), writer: node.NewBeaconCodec(cfg.Cluster, keys),
		outside: newOutside(detect.Interval, l.now, l.post), timer: timer, herald: node.NewHerald(node.Incarnation{Name: cfg.Name, Nonce: l.nonce}, detect, tick),
		peers: map[node.Incarnation]netip.AddrPort{}, unlisted: map[node.Incarnation]netip.Addr{},
	}
	k.lease = b
	k.setPeers(b.sources()) // its own beacons, if they come back, are no sign that others speak
	return b, nil
}

// beaconConfig is for the sockets.
func (b *beacons) beaconConfig() link.BeaconConfig {
	return link.BeaconConfig{
		Port: b.port, Interval: b.detect.Interval, Mark: leaseMark, Now: b.now, Fresh: fresh(b.detect), Overdue: b.overdue,
	}
}

// fresh is how old the decision to mark a beacon may be when it leaves: a peer that
// has heard nothing since the beacon that was acknowledged A ago takes over after D, by a
// clock that may be quicker than this node's.
func fresh(d node.Detect) time.Duration { return max(d.MaxLate(), time.Millisecond) }

// run is all that beacons do by themselves.
func (b *beacons) run(ctx context.Context, start func(func() error)) {
	start(func() error { return b.line.Send(ctx, b.build) })
	start(func() error { return b.line.Receive(ctx, b.receive) })
	start(func() error {
		defer b.timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-b.timer.C:
				b.mu.Lock()
				b.due = 0
				b.attend(b.now())
				b.tend(b.now())
				b.mu.Unlock()
			}
		}
	})
}

// build makes the next beacon, see link.Build.
func (b *beacons) build(now time.Duration, buf []byte) (payload []byte, marked bool, unicast []netip.AddrPort, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attend(now)
	if marked, ok = b.herald.Beacon(now, &b.next); ok {
		var err error
		if payload, err = b.writer.Append(buf, &b.next); err != nil {
			panic(err) // of a configuration that was checked
		}
		unicast = b.addressees(now)
	}
	b.tend(now)
	return payload, marked, unicast, ok
}

// attend tells the herald until when everything that has come has been heard: a
// goroutine that does not get to read must not make its peers look silent. It needs mu.
func (b *beacons) attend(now node.Time) { b.herald.AttendUntil(now, b.line.HeardUntil(now)) }

// addressees are those who get the beacon by unicast too.
func (b *beacons) addressees(now node.Time) []netip.AddrPort {
	b.to, b.unicast = b.herald.AppendUnicast(b.to[:0], now), b.unicast[:0]
	for _, inc := range b.to {
		if addr, ok := b.peers[inc]; ok {
			b.unicast = append(b.unicast, addr)
		}
	}
	return b.unicast
}

var mediums = map[link.Medium]node.Medium{link.MediumWire: node.Wire, link.MediumUnicast: node.Unicast}

// receive takes a datagram. What is no beacon of this cluster is counted, and
// nothing else comes of it.
func (b *beacons) receive(r link.Received) {
	b.mu.Lock()
	if b.deafness.hear(b.now()) {
		b.hush(false)
	}
	if r.Medium == link.MediumWire {
		b.filtering.wire.hear(b.now())
	}
	b.mu.Unlock()
	if r.Medium == link.MediumUnicast {
		if message, err := b.letters.open(r.Payload); err == nil {
			b.deliver(message)
			return
		} // else it is a beacon, or its codec says what is wrong
	}
	if err := b.reader.Decode(&b.got, r.Payload); err != nil {
		if fault, ok := err.(node.BeaconFault); ok {
			b.faults[fault].Add(1)
			b.outside.hear(b.reader, r, fault)
		}
		return
	}
	b.mu.Lock()
	now := b.now()
	heed := b.herald.Hear(now, mediums[r.Medium], &b.got)
	if heed.Drop {
		b.drop()
	}
	if heed.Kind == node.HeardFresh || heed.Kind == node.HeardRestarted {
		b.noteUnlisted(b.got.Incarnation, r.Source.Addr())
	}
	b.tend(now)
	b.mu.Unlock()
	b.kinds[heed.Kind].Add(1)
	if heed.Kick {
		b.line.Kick()
	}
}

// noteUnlisted keeps the address of a sender that is no member. It needs mu.
func (b *beacons) noteUnlisted(inc node.Incarnation, from netip.Addr) {
	if _, member := b.peers[inc]; !member && len(b.unlisted) < node.MaxBeaconPeers {
		b.unlisted[inc] = from
	}
}

// unlistedAddrs are the addresses of those who were heard since the last call and are no
// members: gossip may reach them there, though no seed names them.
func (b *beacons) unlistedAddrs() []netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	addrs := slices.Collect(maps.Values(b.unlisted))
	clear(b.unlisted)
	return addrs
}

// tend passes on what the herald has to tell, in its order, and has a missing lease
// armed. It needs mu.
func (b *beacons) tend(now node.Time) {
	for _, ev := range b.herald.Events(now) {
		b.post(ev)
	}
	// The next beacon looks after what falls due later.
	if at := b.herald.Deadline(now); at < now+b.detect.Interval && (b.due == 0 || at < b.due) {
		b.due = at
		b.timer.Reset(at - now)
	}
	b.lookForDeafness(now)
	if b.arming || b.dropping {
		return
	}
	if _, ok := b.herald.ArmBy(now); ok {
		b.arming = true
		b.kernel.ask(b.kernel.arms)
	}
}

// drop has the lease dropped before anything else is done to the kernel. It needs mu.
func (b *beacons) drop() {
	b.dropping = true
	b.kernel.ask(b.kernel.drops)
}

// overdue is for a marked beacon that left too late, see link.BeaconConfig.
func (b *beacons) overdue(time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.herald.Lapse(b.now())
	b.drop()
}

// say takes the core's word, from the loop: without it for D there are no beacons.
func (b *beacons) say(word node.Bulletin) {
	b.mu.Lock()
	now := b.now()
	news, drop := b.herald.Say(now, word)
	if drop {
		b.drop()
	}
	b.tend(now)
	b.mu.Unlock()
	if news {
		b.line.Kick()
	}
}

// know begins to look for beacons of a member, and to send it some by unicast.
func (b *beacons) know(k node.Know) error {
	addr, err := netip.ParseAddr(k.Address)
	if err != nil {
		return fmt.Errorf("the address of %s: %w", k.Name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.herald.Know(b.now(), k.Incarnation)
	b.herald.Reads(k.Incarnation, k.Reads)
	b.peers[k.Incarnation] = netip.AddrPortFrom(addr, b.port)
	b.kernel.setPeers(b.sources())
	return nil
}

// forget is for an incarnation that is no more.
func (b *beacons) forget(e node.Forget) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.herald.Forget(e.Incarnation, e.Gone)
	delete(b.peers, e.Incarnation)
	b.kernel.setPeers(b.sources())
}

// have is for a statement that has come.
func (b *beacons) have(e node.Have) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.herald.Have(e.Incarnation, e.Version)
}

// verify has the core told if an incarnation is not heard of any more.
func (b *beacons) verify(e node.Verify) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.herald.Verify(e.Incarnation)
	b.tend(b.now())
}

// attach tells that the VIP is up.
func (b *beacons) attach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attached = true
	b.herald.Attached(b.now())
}

// retire ends this node's beacons, and returns when the last of them have had their
// time: they say that nobody has to wait for it.
func (b *beacons) retire(ctx context.Context) {
	b.mu.Lock()
	b.herald.Retire(b.now())
	b.mu.Unlock()
	b.line.Kick()
	select {
	case <-ctx.Done():
	case <-time.After(b.detect.LastWords()):
	}
}

// tell sends a message to a peer whom gossip does not reach. Like any message it may
// be lost.
func (b *beacons) tell(name string, message []byte) error {
	b.mu.Lock()
	var to netip.AddrPort
	for inc, addr := range b.peers {
		if inc.Name == name {
			to = addr
		}
	}
	b.mu.Unlock()
	letter := b.letters.seal(message)
	switch {
	case !to.IsValid():
		return fmt.Errorf("telling %s: its address is not known", name)
	case len(letter) > link.MaxLetter:
		return fmt.Errorf("telling %s: %d bytes fit no datagram; they have to wait for gossip", name, len(letter))
	}
	return b.line.Tell(to, letter)
}

// sources are the addresses whose beacons the kernel is to count: of the members,
// and this node's own, whose should never come.
func (b *beacons) sources() []netip.Addr {
	addrs := []netip.Addr{b.own}
	for peer := range maps.Values(b.peers) {
		addrs = append(addrs, peer.Addr())
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// The kernel goroutine's part.

// mayArm says whether the lease is to be armed, and by when: it is asked right
// before that.
func (b *beacons) mayArm() (began node.Time, by time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	began = b.now()
	until, ok := b.herald.ArmBy(began)
	if !ok || b.dropping {
		b.arming = false
		return began, by, false
	}
	return began, b.wall(until), true
}

// armed tells what became of it.
func (b *beacons) armed(began node.Time, armed bool) {
	b.mu.Lock()
	b.arming = false
	now := b.now()
	if armed && !b.dropping { // else it is dropped next
		b.herald.Armed(now, began)
	}
	b.tend(now)
	b.mu.Unlock()
	if armed {
		b.line.Kick()
	}
}

// dropped tells that the lease is gone, or that it could not be dropped: then it
// runs out, since nothing prolongs it.
func (b *beacons) dropped() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropping = false
	b.tend(b.now())
}

// lapsed tells that the kernel holds no lease.
func (b *beacons) lapsed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.herald.Lapse(now)
	b.tend(now)
}
