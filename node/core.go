package node

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/peervip/peervip/hashring"
)

// Core decides what this node owns. It is a step function over its state: the
// shell feeds it events and carries out the effects, in order. It must be used
// by one goroutine.
//
// What the node does with a slot follows from four sets:
//
//	want and kernel      held: the kernel accepts it and shall go on
//	want, not kernel     being taken: a commit is due or open
//	kernel, not want     being released: a commit is due or open
//	promised             released, or being released, for an heir that has not
//	                     confirmed yet
//	requested            asked for; the holder has not answered yet
type Core struct {
	cfg   Config
	now   Time
	phase Phase
	peers map[string]*peer

	weight, wantWeight int    // tenths: in force, and wished for
	unfit, wantUnfit   []bool // by service: in force, and as the checks say
	whyUnfit           []string
	lastVoluntary      Time
	everVoluntary      bool

	view     View
	viewSaid uint64      // first version of the statement that showed the view; 0: none yet
	places   []placement // by service

	want, kernel, promised, requested hashring.Set
	requests                          map[uint64]*request
	grants                            []*grant
	lastID                            uint64
	open                              *Commit
	openSlots                         hashring.Set
	commitAfter                       Time // no commit before: the last one failed
	commitFailed                      error

	said    *Statement // as last published
	wishes  map[string]Wish
	asking  map[string]uint64 // local operators who wait for a verdict on the wish for a node: their token
	obeyed  uint64
	verdict Verdict
	flows   []int

	startedAt    Time
	seedsTried   bool
	drained      bool // by wish, over restarts
	attached     bool
	attaching    bool
	attachAfter  Time
	attachFailed error
	wire         WireChanged
	wireSince    Time
	leaveBy      Time
	stopped      bool
	orphansSince Time // 0: no orphans wait for agreement
	doublesSince Time // 0: no double claim waits for agreement
	replan       bool
	out          []Effect
}

// peer is what this node knows of another.
type peer struct {
	PeerAlive
	alive      bool
	aliveSince Time
	foreign    bool // runs another spec: nothing it says of slots can be used
	said       *Statement
	foreignIs  Phase // phase of a foreign peer, once it has told it:
	told       bool  // it has said something of itself
	flows      []int

	acked, sent uint64 // versions of this node's statement
	sentAt      Time
	askedAt     Time // for its statement, while it has told nothing
	wishSentAt  Time

	// A grant may overtake the statement that shows it. Until a statement of at
	// least that version has come, the slots granted to us are not the peer's claim.
	releasedAt uint64
	released   hashring.Set

	refusedAt   Time   // it refused something; ask again when it may have changed:
	refusedSaid uint64 // its statement then
	refusedView uint64 // our view then
}

// New returns the core of a node that has not started yet.
func New(cfg Config) *Core {
	c := &Core{
		cfg:       cfg,
		peers:     map[string]*peer{},
		weight:    Tenths(cfg.Weight),
		unfit:     make([]bool, len(cfg.Services)),
		wantUnfit: make([]bool, len(cfg.Services)),
		whyUnfit:  make([]string, len(cfg.Services)),
		want:      cfg.newSet(), kernel: cfg.newSet(), promised: cfg.newSet(), requested: cfg.newSet(),
		openSlots: cfg.newSet(),
		requests:  map[uint64]*request{},
		wishes:    map[string]Wish{},
		asking:    map[string]uint64{},
		wire:      WireChanged{Reason: "the interface has not been looked at yet"},
		replan:    true,
	}
	c.wantWeight = c.weight
	for i, s := range cfg.Services {
		if s.Checked {
			c.unfit[i], c.wantUnfit[i] = true, true
			c.whyUnfit[i] = "no health check has finished yet"
		}
	}
	return c
}

// Step takes one event and returns what is to be done about it. The time must
// never run backwards. Call it with a Tick no later than Deadline.
func (c *Core) Step(now Time, event Event) []Effect {
	c.now = now
	c.out = nil
	switch ev := event.(type) {
	case Tick:
	case Started:
		c.startedAt, c.drained, c.obeyed = now, ev.Drained, ev.Obeyed
	case SeedsTried:
		c.seedsTried = true
	case PeerAlive:
		c.peerAlive(ev)
	case PeerDead:
		c.peerDead(ev)
	case Received:
		c.receive(ev.Message)
	case Committed:
		c.committed(ev)
	case Attached:
		c.attachDone(ev.Err)
	case WireChanged:
		c.wireChanged(ev)
	case HealthChanged:
		c.wantUnfit[ev.Service], c.whyUnfit[ev.Service] = !ev.Fit, ev.Reason
	case Wished:
		c.wished(ev)
	case Leave:
		c.leave()
	case FlowsCounted:
		c.flows = ev.Counts
		for p := range c.alivePeers() {
			c.send(p, &Message{Flows: &Flows{Counts: ev.Counts}})
		}
	default:
		panic(fmt.Sprintf("node: unknown event %T", event))
	}
	c.advance()
	return c.out
}

// advance brings everything that follows from the state to its end: phase, view,
// slots, the kernel, the statement, and what is due again.
func (c *Core) advance() {
	for again := true; again; again = c.replan {
		c.applyVoluntary()
		c.live()
		c.plan()
		c.finish()
		c.plan() // what a phase's end has changed
		c.commit()
		c.publish()
	}
	c.offerGrants()
	c.retransmit()
}

// Deadline is the time by which Step wants to be called again.
func (c *Core) Deadline() Time {
	at := c.now + 1e9
	soon := func(t Time) { at = min(at, max(t, c.now)) }
	t := c.cfg.Timing
	for p := range c.alivePeers() {
		if c.said != nil && p.acked < c.said.Version {
			soon(p.sentAt + t.Retry)
		}
		if !p.told {
			soon(p.askedAt + t.Retry)
		}
		if _, ok := c.wishes[p.Name]; ok {
			soon(p.wishSentAt + t.Retry)
		}
		if p.refusedAt > 0 {
			soon(p.refusedAt + t.Retry)
		}
	}
	for _, r := range c.requests {
		if !r.slots.Empty() {
			soon(r.sentAt + t.Retry)
		}
	}
	for _, g := range c.grants {
		if g.version > 0 {
			soon(g.sentAt + t.Retry)
		}
	}
	for _, since := range []Time{c.orphansSince, c.doublesSince} {
		if since > 0 {
			soon(since + t.Agreement)
		}
	}
	if c.commitFailed != nil {
		soon(c.commitAfter)
	}
	if c.attachFailed != nil && !c.attached {
		soon(c.attachAfter)
	}
	if c.voluntaryDue() {
		soon(c.lastVoluntary + t.Voluntary)
	}
	if c.phase == Leaving {
		soon(c.leaveBy)
	}
	return at
}

// alivePeers yields the peers that gossip holds alive, by name.
func (c *Core) alivePeers() iter.Seq[*peer] {
	return func(yield func(*peer) bool) {
		for _, name := range slices.Sorted(maps.Keys(c.peers)) {
			if p := c.peers[name]; p.alive && !yield(p) {
				return
			}
		}
	}
}

// likePeers yields the alive peers that run the same spec.
func (c *Core) likePeers() iter.Seq[*peer] {
	return func(yield func(*peer) bool) {
		for p := range c.alivePeers() {
			if !p.foreign && !yield(p) {
				return
			}
		}
	}
}

// alivePeer returns the alive peer that is this incarnation, or nil.
func (c *Core) alivePeer(inc Incarnation) *peer {
	if p := c.peers[inc.Name]; p != nil && p.alive && p.Incarnation == inc {
		return p
	}
	return nil
}

func (c *Core) peerAlive(ev PeerAlive) {
	if ev.Name == c.cfg.Name {
		return
	}
	p := c.peers[ev.Name]
	if p != nil && p.alive && p.Incarnation == ev.Incarnation {
		p.PeerAlive = ev
		return
	}
	if p != nil && p.alive {
		c.forgetPeer(p)
		c.notice(false, "%s has restarted", ev.Name)
	} else {
		c.notice(false, "%s is a member", ev.Name)
	}
	fresh := &peer{PeerAlive: ev, alive: true, aliveSince: c.now, released: c.cfg.newSet()}
	fresh.foreign = ev.SpecDigest != c.cfg.SpecDigest
	c.peers[ev.Name] = fresh
	c.replan = true
	// The wish first: a node that comes back must know of it before it serves.
	if w, ok := c.wishes[ev.Name]; ok {
		fresh.wishSentAt = c.now
		c.send(fresh, &Message{Wish: &w})
	}
	for _, name := range slices.Sorted(maps.Keys(c.wishes)) {
		if w := c.wishes[name]; name != ev.Name {
			c.send(fresh, &Message{Wish: &w})
		}
	}
	c.sendStatement(fresh, nil)
	c.askStatement(fresh)
}

// askStatement asks a peer for the whole of its statement: it may never have
// noticed that this node held it dead for a while, and forgot what it knew.
func (c *Core) askStatement(p *peer) {
	p.askedAt = c.now
	c.send(p, &Message{Ack: &Ack{Nonce: p.Nonce, Lost: true}})
}

func (c *Core) peerDead(ev PeerDead) {
	p := c.peers[ev.Name]
	if p == nil || !p.alive {
		return
	}
	p.alive = false
	c.forgetPeer(p)
	if token, ok := c.asking[ev.Name]; ok {
		delete(c.asking, ev.Name)
		c.answer(token, "", ev.Name+" went down; it will be told when it comes back")
	}
	if ev.Left {
		delete(c.peers, ev.Name)
		delete(c.wishes, ev.Name)
		c.notice(false, "%s has left", ev.Name)
		return
	}
	c.notice(true, "%s is dead", ev.Name)
}

// forgetPeer drops everything that was under way with an incarnation.
func (c *Core) forgetPeer(p *peer) {
	c.replan = true
	for id, r := range c.requests {
		if r.to == p.Incarnation {
			c.requested.RemoveAll(r.slots)
			delete(c.requests, id)
		}
	}
	c.grants = slices.DeleteFunc(c.grants, func(g *grant) bool {
		if g.to != p.Incarnation {
			return false
		}
		c.promised.RemoveAll(g.slots)
		// What the kernel still accepts was never given: it stays here.
		kept := g.slots.Clone()
		kept.RetainAll(c.kernel)
		c.want.AddAll(kept)
		return true
	})
}

// memberSelf is this node as others see it in the view.
func (c *Core) memberSelf() Member {
	return Member{Incarnation: c.cfg.Incarnation, Weight: c.weight, Phase: c.phase, Unfit: c.unfitList()}
}

func (c *Core) unfitList() []int {
	var list []int
	for i, u := range c.unfit {
		if u {
			list = append(list, i)
		}
	}
	return list
}

// currentView is the view as everything known now makes it.
func (c *Core) currentView() View {
	var members []Member
	if c.phase.Serving() {
		members = append(members, c.memberSelf())
	}
	for p := range c.likePeers() {
		if p.said != nil && p.said.Phase.Serving() {
			members = append(members, p.said.member())
		}
	}
	return NewView(members)
}

// voluntaryDue reports whether a change of weight or fitness waits for its turn.
func (c *Core) voluntaryDue() bool {
	return c.weight != c.wantWeight || !slices.Equal(c.unfit, c.wantUnfit)
}

// applyVoluntary lets changes of weight and fitness into the view, at most one
// each Timing.Voluntary, so that views come to rest even when many nodes change.
func (c *Core) applyVoluntary() {
	if !c.voluntaryDue() {
		return
	}
	if c.phase.Serving() && c.everVoluntary && c.now < c.lastVoluntary+c.cfg.Timing.Voluntary {
		return
	}
	for i, unfit := range c.wantUnfit {
		switch {
		case unfit && !c.unfit[i]:
			c.notice(true, "service %s: this node is unfit: %s", c.cfg.Services[i].Name, c.whyUnfit[i])
		case !unfit && c.unfit[i]:
			c.notice(false, "service %s: this node is fit", c.cfg.Services[i].Name)
		}
	}
	c.weight = c.wantWeight
	copy(c.unfit, c.wantUnfit)
	c.lastVoluntary, c.everVoluntary = c.now, c.phase.Serving()
	c.replan = true
}

// publish tells the peers what this node says of itself, if it has changed.
func (c *Core) publish() {
	next := c.statement()
	if c.said != nil && next.sameBut(c.said) {
		return
	}
	old := c.said
	next.Version = 1
	if old != nil {
		next.Version = old.Version + 1
	}
	c.said = next
	if c.viewSaid == 0 {
		c.viewSaid = next.Version
		c.replan = c.replan || c.orphansSince > 0
	}
	for p := range c.alivePeers() {
		c.sendStatement(p, old)
	}
}

// statement is what this node has to say of itself now.
func (c *Core) statement() *Statement {
	claims := c.want.Clone()
	claims.AddAll(c.kernel)
	s := &Statement{
		Incarnation: c.cfg.Incarnation,
		Phase:       c.phase, Weight: c.weight, Unfit: c.unfitList(),
		View: c.view.Digest(), Obeyed: c.obeyed, Claims: claims,
	}
	for _, g := range c.grants {
		if c.released(g) {
			s.Granted = append(s.Granted, Promise{To: g.to, ID: g.id, Slots: g.slots.Clone()})
		}
	}
	return s
}

// sendStatement sends the current statement as a change of old if that is what
// the peer was sent last, else whole.
func (c *Core) sendStatement(p *peer, old *Statement) {
	if c.said == nil {
		return
	}
	var from *Statement
	if old != nil && p.sent == old.Version && !p.foreign {
		from = old
	}
	d := c.said.delta(from)
	p.sent, p.sentAt = c.said.Version, c.now
	c.send(p, &Message{Delta: &d})
}

// retransmit sends again what was not answered in time.
func (c *Core) retransmit() {
	retry := c.cfg.Timing.Retry
	for p := range c.alivePeers() {
		if c.said != nil && p.acked < c.said.Version && c.now >= p.sentAt+retry {
			c.sendStatement(p, nil)
		}
		if !p.told && c.now >= p.askedAt+retry {
			c.askStatement(p)
		}
		if w, ok := c.wishes[p.Name]; ok && c.now >= p.wishSentAt+retry {
			p.wishSentAt = c.now
			c.send(p, &Message{Wish: &w})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.requests)) {
		if r := c.requests[id]; !r.slots.Empty() && c.now >= r.sentAt+retry {
			c.sendRequest(r)
		}
	}
}

func (c *Core) send(p *peer, m *Message) {
	m.From, m.To = c.cfg.Incarnation, p.Nonce
	c.out = append(c.out, Send{To: p.Name, Message: m})
}

func (c *Core) answer(token uint64, refused, note string) {
	c.out = append(c.out, Answer{Token: token, Refused: refused, Note: note})
}

func (c *Core) notice(act bool, format string, args ...any) {
	c.out = append(c.out, Notice{Act: act, Text: fmt.Sprintf(format, args...)})
}

// nextID numbers requests and commits; unique within this incarnation.
func (c *Core) nextID() uint64 {
	c.lastID++
	return c.lastID
}
