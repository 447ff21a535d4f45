package agent

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// outside looks after datagrams to the beacon port that are none of this cluster's: who
// sends them from this segment all the time is a stranger (node.Strangers), of whom the
// core is told; the rest is noise, which is counted.
type outside struct {
	now  func() node.Time
	post func(node.Event)
	wake chan struct{} // there is something new about strangers

	mu        sync.Mutex
	strangers *node.Strangers
	far       noise

	// Of the task that tells.
	macs       map[netip.Addr]string // of the strangers that were asked for; "": the segment does not say
	resolvedAt node.Time             // when it was last asked
	told       []node.Stranger       // as the core knows them
	tokens     int                   // how often the core may be told now
	tokenAt    node.Time             // when the last one was added
}

// noise is what has come that neither a node nor a stranger has sent.
type noise struct {
	count   uint64
	from    netip.Addr // the last one
	differs node.Difference
}

// asker is what can be asked of the wire about strangers, as link.Link asks it.
type asker interface {
	// AskVIP returns the MAC of another host that answers for the VIP, or nil.
	AskVIP(ctx context.Context) (net.HardwareAddr, error)
	// Resolve returns the MACs of those addresses that somebody has.
	Resolve(ctx context.Context, targets []netip.Addr) (map[netip.Addr]net.HardwareAddr, error)
}

const (
	// strangersLook is how often strangers are looked at while there are some.
	strangersLook = 100 * time.Millisecond
	// resolveAgain is the least time between two questions for MACs.
	resolveAgain = 5 * time.Second
	// The core is told of changes at most so often in a row, and then each strangersPace:
	// who can send frames can make strangers come and go all the time.
	strangersBurst = 10
	strangersPace  = time.Second
)

func newOutside(interval time.Duration, now func() node.Time, post func(node.Event)) *outside {
	return &outside{
		now: now, post: post, wake: make(chan struct{}, 1), strangers: node.NewStrangers(interval), macs: map[netip.Addr]string{},
		tokens: strangersBurst,
	}
}

// hear takes a datagram that the codec has refused. It runs on the goroutine that
// receives, to which the codec belongs.
func (o *outside) hear(codec *node.BeaconCodec, r link.Received, fault node.BeaconFault) {
	head, ok := node.ReadBeaconHead(r.Payload)
	if !ok {
		return
	}
	differs := node.DiffersKey
	if fault != node.BeaconSignature { // that is all that is wrong with those
		differs = codec.Difference(head, r.Payload)
	}
	if differs == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !r.Near {
		o.far = noise{o.far.count + 1, r.Source.Addr(), differs}
		return
	}
	if o.strangers.Hear(o.now(), r.Source.Addr(), head, differs) {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// heard returns what noise has come.
func (o *outside) heard() noise {
	o.mu.Lock()
	defer o.mu.Unlock()
	near := o.strangers.Noise(o.now())
	sum := noise{o.far.count + near.Count, o.far.from, o.far.differs}
	if near.Count > 0 {
		sum.from, sum.differs = near.Last.Address, near.Last.Differs
	}
	return sum
}

// run tells the core of strangers. It sleeps while there are none.
func (o *outside) run(ctx context.Context, wire asker) error {
	tick := time.NewTicker(strangersLook)
	defer tick.Stop()
	for {
		tick.Stop()
		if o.tell() {
			tick.Reset(strangersLook)
			o.resolve(ctx, wire)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
		case <-tick.C:
		}
	}
}

// tell passes on what is new, if it may, and says whether it has to look again.
func (o *outside) tell() bool {
	now := o.now()
	if more := int((now - o.tokenAt) / strangersPace); more > 0 {
		o.tokens, o.tokenAt = min(o.tokens+more, strangersBurst), now
	}
	o.mu.Lock()
	list := o.strangers.List(now)
	o.mu.Unlock()
	for i := range list {
		list[i].MAC = o.macs[list[i].Address]
	}
	if !slices.Equal(list, o.told) && o.tokens > 0 {
		o.tokens--
		o.told = list
		o.post(node.StrangersHeard{List: list})
	}
	return len(list)+len(o.told) > 0
}

// resolve asks for the MACs of strangers that are not known.
func (o *outside) resolve(ctx context.Context, wire asker) {
	maps.DeleteFunc(o.macs, func(addr netip.Addr, _ string) bool {
		return !slices.ContainsFunc(o.told, func(s node.Stranger) bool { return s.Address == addr })
	})
	now := o.now()
	again := now-o.resolvedAt >= resolveAgain
	var missing []netip.Addr
	for _, s := range o.told {
		if mac, asked := o.macs[s.Address]; !asked || mac == "" && again {
			missing = append(missing, s.Address)
			o.macs[s.Address] = ""
		}
	}
	if missing == nil {
		return
	}
	o.resolvedAt = now
	found, err := wire.Resolve(ctx, missing)
	if err != nil {
		return // it is tried again, and the address alone is told meanwhile
	}
	for addr, mac := range found {
		o.macs[addr] = mac.String()
	}
}

// askVIP asks whether another host answers for the VIP.
func (o *outside) askVIP(ctx context.Context, wire asker) node.VIPAnswered {
	by, err := wire.AskVIP(ctx)
	return node.VIPAnswered{By: by.String(), Err: err}
}

// strangerAddr reads the address of a stranger, which is one that another host of this
// segment can send from.
func (c Config) strangerAddr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	addr = addr.Unmap()
	family := "IPv4"
	if c.Address.Is6() {
		family = "IPv6"
	}
	why := ""
	switch {
	case err != nil:
		return addr, fmt.Errorf("%q is no address: `peervip status` has those of the strangers", text)
	case addr.Is4() != c.Address.Is4() || addr.Zone() != "":
		why = "beacons come from " + family + " addresses"
	case addr == c.Address:
		why = "it is this node's own address"
	case slices.Contains(c.Spec.VIPs, addr):
		why = "it is the address that is shared"
	case addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		why = "no other host sends from there"
	default:
		return addr, nil
	}
	return addr, fmt.Errorf("%s cannot be a stranger's address (%s): `peervip status` has those of the strangers", addr, why)
}

// serveServe is for an operator who wants this node to serve beside a stranger.
func (a *agent) serveServe(w http.ResponseWriter, r *http.Request) {
	var q ServeRequest
	if !readBody(w, r, &q) {
		return
	}
	var addrs []netip.Addr
	for _, text := range q.Despite {
		addr, err := a.cfg.strangerAddr(text)
		if err != nil {
			reply(w, http.StatusBadRequest, Reply{Error: err.Error()})
			return
		}
		addrs = append(addrs, addr)
	}
	if len(addrs) == 0 {
		reply(w, http.StatusBadRequest, Reply{Error: "no address of a stranger is given"})
		return
	}
	done := Reply{Node: a.cfg.Name}
	err := a.loop.ask(r.Context(), func() {
		for _, addr := range addrs {
			if !slices.Contains(a.loop.despite, addr) {
				a.loop.despite = append(a.loop.despite, addr)
			}
			a.loop.step(node.ServeDespite{Address: addr})
			if !slices.ContainsFunc(a.loop.core.Snapshot().Strangers, func(s node.StrangerSnapshot) bool { return s.Address == addr }) {
				done.Note = fmt.Sprintf("no stranger at %s is heard now; one that comes will not keep %s from serving", addr, a.cfg.Name)
			}
		}
	})
	if err != nil {
		unavailable(w, err)
		return
	}
	reply(w, http.StatusOK, done)
}
