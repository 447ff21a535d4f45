package node

import (
	"fmt"

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
//	lingering            not wanted, but the flows that are here go on
type Core struct {
	cfg   Config
	now   Time // never 0, which stands for "not set" in the times below
	phase Phase
	peers map[string]*peer
	order []*peer // the peers by name

	weight, wantWeight int    // tenths: in force, and wished for
	unfit, wantUnfit   []bool // by service: in force, and as the checks say
	whyUnfit           []string
	lastVoluntary      Time // 0: none since this node serves
	gatherUntil        Time // what has got worse comes into the view then; 0: nothing has

	view       View
	viewChange string      // what made it another than the one before; "": nothing that has words
	places     []placement // by service
	placer     *hashring.Placer
	askedWith  uint64   // version of the statement that asked for the peers' word on the view; 0: not said yet
	orphans    question // slots that nobody claims
	doubles    question // slots of this node that another claims too
	replan     bool

	// What follows from the view: the slots that it places here, those that stay
	// where they are because nobody is fit, and those that nobody should serve.
	own, stuck, mute hashring.Set

	want, kernel, promised, requested, lingering hashring.Set

	kernelAdopt, kernelLinger hashring.Set // in these states; what is adopted is also in kernel

	lingers  hashring.Set // the slots whose service wants flows to stay
	lists    lists
	flowLook flowLook
	cutting  hashring.Set // to be cut with the next commit
	cutBy    Time         // when lingering flows are cut; 0: they are not
	requests map[uint64]*request
	givenUp  uint64 // the highest ID of a request that was not answered in time
	grants   []*grant
	lastID   uint64

	open         *Commit
	openSlots    hashring.Set
	openTakes    bool // it makes the kernel accept new flows of some slot
	commitAfter  Time // no commit before; 0: at once
	commitFailed error
	failures     int // commits refused in a row
	declined     int // commits of what was granted that were refused, since one was taken
	failing      failing
	lame         Lame // what it has told of that
	askAfter     Time // nothing is asked for before, see commitRefused; 0: at once

	said      *Statement // as last published
	flows     []int
	waitedFor int // flows that are in the way of a drain or a leave; -1: not counted yet

	wishes   map[wishKey]Wish
	asking   map[wishKey]uint64 // local operators who wait for a verdict on the wish: their token
	stamps   Stamps             // of the wishes that this node has dealt with
	verdicts map[Topic]Verdict

	heard      map[Incarnation]*heard // whom beacons speak of
	heralded   Heralded
	tellCutOff Time // when it is time to tell that this node is cut off; 0: there is nothing to tell
	epoch      uint64
	disowned   bool // held dead, or all was given up, and the kernel has not let go of everything yet
	disownedAt Time // since when; 0: it is not
	mourned    []mourning

	outside outsiders // strangers on the wire

	startedAt       Time
	servingSince    Time   // 0: this node does not serve
	joinedWith      uint64 // version of the statement that first said that it joins
	seedsTried      bool
	drained, forced bool  // by wish, over restarts
	wishedGrace     *Time // of the drain; nil: Config.DrainTimeout
	hurry           bool  // a leave that ends the flows at once
	doubt           bool  // whether it was drained is not known, see Started
	attached        bool
	attaching       bool
	attachAfter     Time
	attachFailed    error
	wire            WireChanged
	wireSince       Time
	doneAt          Time // since when a node that goes has nothing more to do; 0: it has
	lastToGo        bool // it leaves, nobody was left to serve the address, and its flows were let go
	giveUpBy        Time // when a node that goes no longer waits for its heirs; 0: it does not go
	stopped         bool

	out []Effect
}

// New returns the core of a node that has not started yet.
func New(cfg Config) *Core {
	c := &Core{
		cfg:       cfg,
		placer:    hashring.NewPlacer(cfg.Buckets),
		peers:     map[string]*peer{},
		weight:    Tenths(cfg.Weight),
		unfit:     make([]bool, len(cfg.Services)),
		wantUnfit: make([]bool, len(cfg.Services)),
		whyUnfit:  make([]string, len(cfg.Services)),
		want:      cfg.newSet(), kernel: cfg.newSet(), promised: cfg.newSet(), requested: cfg.newSet(),
		lingering: cfg.newSet(), cutting: cfg.newSet(), kernelAdopt: cfg.newSet(), kernelLinger: cfg.newSet(),
		openSlots: cfg.newSet(),
		requests:  map[uint64]*request{},
		wishes:    map[wishKey]Wish{},
		asking:    map[wishKey]uint64{},
		stamps:    Stamps{},
		verdicts:  map[Topic]Verdict{},
		heard:     map[Incarnation]*heard{},
		wire:      WireChanged{Reason: "the interface has not been looked at yet"},
		heralded:  Heralded{Lease: cfg.Silence == 0},
		waitedFor: -1,
	}
	c.wantWeight = c.weight
	c.lists = newLists(cfg)
	c.lingers = cfg.all()
	for slot := range c.lingers.All() {
		if !cfg.Services[slot/cfg.Buckets].Linger {
			c.lingers.Remove(slot)
		}
	}
	for i, s := range cfg.Services {
		if s.Checked {
			c.unfit[i], c.wantUnfit[i] = true, true
			c.whyUnfit[i] = "no health check has finished yet"
		}
	}
	c.look()
	return c
}

// Deadline is the time by which Step wants to be called again. It is always
// after the last Step: what is overdue then waits for something else than time.
func (c *Core) Deadline() Time {
	at := c.now + 1e9
	soon := func(t Time) {
		if t > c.now {
			at = min(at, t)
		}
	}
	t := c.cfg.Timing
	for p := range c.alivePeers() {
		patience := p.patience(t.Retry)
		if c.said != nil && p.acked < c.said.Version {
			soon(p.sentAt + patience)
		}
		if p.said == nil {
			soon(p.askedAt + patience)
			soon(p.aliveSince + t.Alone)
		}
		if c.phase == Joining {
			soon(c.answersBy(p))
		} else if since := p.stuckSince(); since > 0 {
			soon(since + t.Words)
			soon(since + 2*t.Words)
		}
		if p.heard != nil && p.heard.joiningSince > 0 {
			soon(p.heard.joiningSince + c.cfg.Silence)
		}
		if len(c.keptWishes(p.Name)) > 0 {
			soon(p.wishSentAt + patience)
		}
		if p.refusedAt > 0 {
			soon(p.refusedAt + t.Agreement)
		}
	}
	for _, r := range c.requests {
		if !r.slots.Empty() {
			soon(r.sentAt + t.Retry)
			soon(c.answerBy(r))
		}
	}
	for _, g := range c.grants {
		if g.version > 0 {
			soon(g.sentAt + t.Retry)
		}
	}
	for _, q := range []question{c.orphans, c.doubles} {
		if q.open() {
			soon(q.since + t.Agreement)
		}
	}
	if c.flowLook.due(c) {
		soon(c.flowLook.at)
	}
	c.wakeForLists(soon)
	for _, m := range c.mourned {
		soon(m.until)
	}
	if c.servingSince > 0 {
		soon(c.servingSince + c.cfg.Silence)
	}
	soon(c.cutBy)
	soon(c.gatherUntil)
	soon(c.tellCutOff)
	soon(c.commitAfter)
	soon(c.askAfter)
	soon(c.disownedAt + c.cfg.Silence)
	c.wakeForLame(soon)
	soon(c.attachAfter)
	if c.voluntaryDue() {
		soon(c.lastVoluntary + t.Voluntary)
	}
	if c.giveUpBy > 0 {
		soon(c.giveUpBy)
		soon(max(c.giveUpBy, c.cutBy) + t.LeaveBy)
		if c.doneAt > 0 {
			soon(c.doneAt + t.Agreement)
		}
	}
	if c.phase == Joining {
		soon(max(c.startedAt, c.wireSince) + c.cfg.Silence)
		soon(max(c.startedAt, c.wireSince) + t.Alone)
		soon(c.wireSince + t.Carrier)
		soon(c.outside.freeSince + strangerDelay)
		soon(c.outside.askedAt + askVIPEvery)
	}
	return at
}

// self is this node as others see it in the view.
func (c *Core) self() Member {
	return Member{
		Incarnation: c.cfg.Incarnation, Weight: c.weight, Phase: c.phase, Unfit: c.unfitList(), CutOff: c.cutOff(), Lame: c.lame,
	}
}

// rank is this node's rank for a service.
func (c *Core) rank(service int) rank { return c.self().rank(service) }

func (c *Core) unfitList() []int {
	var list []int
	for i, u := range c.unfit {
		if u {
			list = append(list, i)
		}
	}
	return list
}

// send sends a message to the peer, and through another where that is the way.
func (c *Core) send(p *peer, m *Message) { c.sendSince(p, m, 0) }

// sendDirectly addresses a message and has it sent.
func (c *Core) sendDirectly(p *peer, m *Message) {
	m.Format, m.From, m.To = p.formatFor(), c.cfg.Incarnation, p.Nonce
	m.Heard, p.owed = p.version(), false
	if c.said != nil {
		m.Said = c.said.Version
	}
	c.out = append(c.out, Send{To: p.Name, Unlisted: !p.listed, Message: m})
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
