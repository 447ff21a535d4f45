package gossip

import (
	"bytes"
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxKnown bounds the lost members that are remembered: twice the largest
	// cluster. The longest lost are forgotten first.
	maxKnown = 128
	// goodbyeCounts is how long after a goodbye an end is a leave. What comes
	// later is a death: the goodbye was of an earlier life.
	goodbyeCounts = 10 * time.Second
)

// table is what memberlist said about the other nodes, and the one way by which
// events go out, so that they come one by one and agree with it.
//
// memberlist calls it under its node lock; it must never call memberlist.
type table struct {
	self string
	emit func(Event)
	now  func() time.Time
	// lonely is signalled when the last member is gone.
	lonely chan struct{}

	mu     sync.Mutex
	closed bool
	peers  map[string]*peer
}

// peer is one node, member or lost.
type peer struct {
	Member
	alive   bool
	left    bool      // gone by its own will
	changed time.Time // when it became a member, or was lost
	goodbye time.Time // when it said goodbye, zero if it did not
}

func newTable(self string, known []Peer, emit func(Event)) *table {
	t := &table{
		self: self, emit: emit, now: time.Now,
		lonely: make(chan struct{}, 1),
		peers:  make(map[string]*peer),
	}
	for _, k := range known {
		if k.Name != self && k.Addr.IsValid() {
			t.peers[k.Name] = &peer{Member: Member{Name: k.Name, Addr: k.Addr}}
		}
	}
	t.forget()
	return t
}

// event sends an event that is not about the table.
func (t *table) event(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.emit(e)
	}
}

// joined takes a new member, or a member that changed.
func (t *table) joined(m Member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.Name == t.self || t.closed {
		return
	}
	// Somebody known by another name was there: that one has been renamed.
	for _, p := range t.lostPeers() {
		if p.Addr == m.Addr && p.Name != m.Name {
			t.drop(p)
		}
	}
	t.peers[m.Name] = &peer{Member: m, alive: true, changed: t.now()}
	t.emit(Alive{m})
}

// gone takes the end of a member.
func (t *table) gone(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[name]
	if p == nil || !p.alive || t.closed {
		return // this node itself
	}
	now := t.now()
	p.alive, p.changed = false, now
	p.left = !p.goodbye.IsZero() && now.Sub(p.goodbye) < goodbyeCounts
	t.forget()
	t.emit(Dead{Name: name, Left: p.left})
	if !t.anyAlive() {
		select {
		case t.lonely <- struct{}{}:
		default: // already signalled
		}
	}
}

// goodbye takes a node's own word that it leaves, which comes before or after
// memberlist's news. With another Meta than the member's it is of another life. Without,
// it is of an earlier version, and may be of any life: those who hear the node otherwise
// must not believe it alone.
func (t *table) goodbye(name string, meta ...[]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[name]
	if p == nil || t.closed || len(meta) > 0 && len(p.Meta) > 0 && !bytes.Equal(meta[0], p.Meta) {
		return
	}
	if p.alive {
		p.goodbye = t.now()
		return
	}
	if !p.left {
		p.left = true
		t.emit(Dead{Name: name, Left: true})
	}
}

// forget drops the longest lost nodes above maxKnown.
func (t *table) forget() {
	lost := t.lostPeers()
	for _, p := range lost[:max(0, len(lost)-maxKnown)] {
		t.drop(p)
	}
}

// lostPeers are those who are no members, the longest lost first.
func (t *table) lostPeers() []*peer {
	lost := slices.DeleteFunc(slices.Collect(maps.Values(t.peers)), func(p *peer) bool { return p.alive })
	slices.SortFunc(lost, func(a, b *peer) int { return cmp.Or(a.changed.Compare(b.changed), strings.Compare(a.Name, b.Name)) })
	return lost
}

// drop forgets a lost node, and has everybody forget it: else each that ever died would
// be remembered, waited for and spoken to.
func (t *table) drop(p *peer) {
	delete(t.peers, p.Name)
	if !p.left {
		t.emit(Dead{Name: p.Name, Left: true})
	}
}

func (t *table) anyAlive() bool {
	for _, p := range t.peers {
		if p.alive {
			return true
		}
	}
	return false
}

// alone says whether there is no other member.
func (t *table) alone() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.anyAlive()
}

// member returns the member of that name.
func (t *table) member(name string) (Member, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[name]
	if p == nil || !p.alive {
		return Member{}, false
	}
	return p.Member, true
}

func (t *table) members() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Member
	for _, p := range t.peers {
		if p.alive {
			all = append(all, p.Member)
		}
	}
	slices.SortFunc(all, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func (t *table) known() []Peer {
	return t.collect(func(p *peer) bool { return !p.left })
}

// lost returns the members that died and may come back.
func (t *table) lost() []Peer {
	return t.collect(func(p *peer) bool { return !p.alive && !p.left })
}

func (t *table) collect(want func(*peer) bool) []Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Peer
	for _, p := range t.peers {
		if want(p) {
			all = append(all, Peer{Name: p.Name, Addr: p.Addr})
		}
	}
	slices.SortFunc(all, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// addrs returns the addresses of the members.
func (t *table) addrs() map[netip.AddrPort]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[netip.AddrPort]bool)
	for _, p := range t.peers {
		if p.alive {
			all[p.Addr] = true
		}
	}
	return all
}

// has says whether a member, or a node that was one, has the address.
func (t *table) has(addr netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.peers {
		if p.Addr.Addr() == addr {
			return true
		}
	}
	return false
}

// close ends the events.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}
