package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// errHandedOver ends the loop of an agent that was told to leave.
var errHandedOver = errors.New("everything is handed over")

// loop is the one goroutine that owns the core. Everybody else puts work into
// its queue and never waits for it, but for the control socket. Work is never
// done from within other work: what an effect brings back comes by the queue.
type loop struct {
	cfg     Config
	log     *slog.Logger
	core    *node.Core
	nonce   uint64
	origin  time.Time
	queue   *queue
	send    func(to string, payloads ...[]byte)
	known   func() []gossip.Peer
	rejoin  func(heard ...netip.Addr) // has gossip try again to reach whom it has lost, and whom beacons show
	attach  func()                    // brings the VIP up, in a goroutine of its own
	askVIP  func()                    // asks whether another host answers for the VIP, in a goroutine of its own
	find    func(node.FindFlows)      // looks for flows, in a goroutine of its own
	list    func(node.ListFlows)      // lists flows, in a goroutine of its own
	kernel  *kernel
	beacons *beacons
	saver   *saver
	ended   chan struct{} // closed when run has returned

	memory  memory
	despite []netip.Addr             // of the strangers that an operator has said do not matter
	answers map[uint64]chan<- answer // who waits at the control socket
	tokens  uint64

	link     link.Status
	forwards bool
	said     node.Time        // when the herald last had the core's word
	renewal  uint64           // the last renewal of the packet filter that was asked for
	unready  string           // why the packet filter is not in place, though the interface is; "": it is
	deaf     string           // why this node hears nobody, by its own fault; "": it does not
	refused  string           // why the cluster does not take this node; "": it does, or nobody was asked
	otherKey node.OtherKey    // the same of seeds with another key, as the core was told
	wire     node.WireChanged // as the core was told last

	batch     []node.Event        // that the core gets together
	outbox    map[string][][]byte // what is to be sent when the work at hand is done
	news      news
	strays    strays
	ways      ways
	served    bool // in this life, though it may be joining again
	phase     node.Phase
	going     atomic.Bool   // the node drains or leaves: its flows are counted each second
	goes      chan struct{} // that has begun
	leaving   atomic.Bool   // the node goes, for good or for a restart
	line      string        // its status in a line, as of the last look
	fatal     error
	stop      bool
	keepFlows bool                            // with stop: for the next life
	exchange  atomic.Pointer[[]*node.Message] // what LocalState tells
}

// answer ends a wait at the control socket.
type answer struct {
	refused string
	note    string
	unsaved error // it is done, and a restart would forget it
}

// now is the core's clock: monotonic, and never 0.
func (l *loop) now() node.Time { return time.Since(l.origin) + time.Millisecond }

// wall is the same moment as a time.Time.
func (l *loop) wall(t node.Time) time.Time { return l.origin.Add(t - time.Millisecond) }

// post hands the core an event, from any goroutine.
func (l *loop) post(ev node.Event) { l.queue.put(func() { l.gather(ev) }) }

// run is the loop. It ends with the context, when everything is handed over
// (errHandedOver), or when the node cannot be part of the cluster.
func (l *loop) run(ctx context.Context) error {
	defer close(l.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	l.step(node.Started{Drained: l.memory.Drained, Forced: l.memory.Forced, Grace: l.memory.Grace, Obeyed: l.memory.Obeyed, Stamps: l.memory.Stamps, Doubt: l.memory.Doubt})
	for _, addr := range l.despite {
		l.step(node.ServeDespite{Address: addr})
	}
	l.flush()
	for {
		timer.Reset(min(l.core.Deadline(), l.said+l.progress()) - l.now())
		select {
		case <-ctx.Done():
			return nil
		case <-l.queue.ready:
			for _, work := range l.queue.take() {
				if work(); len(l.batch) >= batchLimit {
					l.settle()
				}
			}
			l.settle()
		case <-timer.C:
			if l.now() >= l.core.Deadline() {
				l.step(node.Tick{})
			} else {
				l.say()
			}
		}
		l.flush()
		switch {
		case l.fatal != nil:
			return l.fatal
		case l.stop:
			return errHandedOver
		}
	}
}

// batchLimit is how many events are one step at the most: some milliseconds, so that the
// herald has the core's word in time.
const batchLimit = 256

// progress is how often the herald hears from the core at the least: beacons need it.
func (l *loop) progress() time.Duration { return l.cfg.Spec.Detect.Time() / 4 }

// say gives the herald the core's word.
func (l *loop) say() {
	l.said = l.now()
	if l.strays.due(l.said) {
		l.rejoin(l.beacons.unlistedAddrs()...)
	}
	word := l.core.Bulletin()
	l.served = l.served || word.Phase.Serving()
	l.phaseChanged(word.Phase)
	l.beacons.say(word)
}

// errStopping is for those who ask when nobody answers any more.
var errStopping = errors.New("this agent is stopping")

// ask has f done by the loop and waits for it.
func (l *loop) ask(ctx context.Context, f func()) error {
	done := make(chan struct{})
	l.queue.put(func() {
		l.settle() // f sees what came before it
		f()
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-l.ended:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the agent: %w", ctx.Err())
	}
	select {
	case <-done: // it was the last that the loop did
		return nil
	default:
		return errStopping
	}
}

// step gives the core an event at once, after those that are gathered.
func (l *loop) step(ev node.Event) {
	l.gather(ev)
	l.settle()
}

// gather keeps an event until all work that waits in the queue has been looked at: what
// many peers say at once is one step of the core.
func (l *loop) gather(ev node.Event) {
	l.batch = append(l.batch, ev)
	switch ev := ev.(type) {
	case node.PeerStanding:
		l.strays.standing(ev)
	case node.Attached:
		if ev.Err == nil {
			l.beacons.attach()
		}
	}
}

// settle gives the core the events that are gathered, and carries out what it wants.
func (l *loop) settle() {
	if len(l.batch) == 0 {
		return
	}
	batch := l.batch
	l.batch = nil
	effects := l.core.Step(l.now(), batch...)
	for _, effect := range effects {
		switch e := effect.(type) {
		case node.Commit:
			l.kernel.commits <- e // never waits: at most one is open
		case node.Send:
			l.transmit(e)
		case node.Attach:
			l.attach()
		case node.AskVIP:
			l.askVIP()
		case node.FindFlows:
			l.find(e)
		case node.ListFlows:
			l.list(e)
		case node.Save:
			l.memory.Drained, l.memory.Forced, l.memory.Grace = e.Drained, e.Forced, e.Grace
			l.memory.Obeyed, l.memory.Stamps, l.memory.Doubt = e.Obeyed, e.Stamps, e.Doubt
			l.saver.save(l.memory)
		case node.Answer:
			l.answer(e)
		case node.Notice:
			level := slog.LevelInfo
			if e.Act {
				level = slog.LevelWarn
			}
			l.log.Log(context.Background(), level, e.Text)
		case node.Know:
			if err := l.beacons.know(e); err != nil {
				l.log.Warn("a member gets no beacons", "error", err)
			}
		case node.Forget:
			l.beacons.forget(e)
			delete(l.strays.alive, e.Incarnation)
		case node.Verify:
			l.beacons.verify(e)
		case node.Have:
			l.beacons.have(e)
		case node.Stop:
			l.stop, l.keepFlows = true, e.KeepFlows
		default:
			panic(fmt.Sprintf("agent: unknown effect %T", effect))
		}
	}
	if len(effects) > 0 {
		l.refreshExchange()
	}
	l.say()
}

// transmit has a message sent. The word that a wish is obeyed goes out when a
// restart would not forget it: whoever reads "drained" may cut the power. That moment
// comes in another goroutine, which has no part in the outbox.
func (l *loop) transmit(e node.Send) {
	payload := e.Message.Encode()
	letter := e.Unlisted || e.Message.Flows == nil && l.ways.sent(e.To, l.now(), answered(e.Message))
	by := func(send func(to string, payloads ...[]byte)) {
		if !e.Unlisted {
			send(e.To, payload)
		}
		if letter {
			if err := l.beacons.tell(e.To, payload); err != nil {
				l.log.Debug("a letter was not sent", "error", err)
			}
		}
	}
	if e.Message.Verdict == nil {
		by(l.hold)
		return
	}
	l.saver.whenSaved(func(error) { by(l.send) })
}

// hold keeps payloads for the next flush.
func (l *loop) hold(to string, payloads ...[]byte) {
	l.outbox[to] = append(l.outbox[to], payloads...)
}

// flush sends what all steps since the last time had for each peer in as few datagrams
// as it fits in: a handoff is mostly messages.
func (l *loop) flush() {
	for to, payloads := range l.outbox {
		l.send(to, payloads...)
	}
	clear(l.outbox)
}

// answer tells the operator, when a restart would not forget it.
func (l *loop) answer(e node.Answer) {
	waiting, ok := l.answers[e.Token]
	if !ok {
		return // he has gone
	}
	delete(l.answers, e.Token)
	l.saver.whenSaved(func(err error) { waiting <- answer{e.Refused, e.Note, err} })
}

// wish puts an operator's wish to the core and waits for the answer.
func (l *loop) wish(ctx context.Context, w node.Wish) (answer, error) {
	got := make(chan answer, 1)
	var token uint64
	// Whatever ends the wait, the loop forgets whom it would have told.
	defer l.queue.put(func() { delete(l.answers, token) })
	err := l.ask(ctx, func() {
		if ctx.Err() != nil {
			return // he was told that it did not come to this
		}
		l.tokens++
		token = l.tokens
		l.answers[token] = got
		l.step(node.Wished{Token: token, Wish: w})
	})
	if err == nil && token == 0 {
		err = fmt.Errorf("waiting for the agent: %w", ctx.Err())
	}
	if err != nil {
		return answer{}, err
	}
	select {
	case a := <-got:
		return a, nil
	case <-l.ended:
		return answer{}, fmt.Errorf("%w; whether %s has heard of it, `peervip status` of another node says", errStopping, w.Node)
	case <-ctx.Done():
		return answer{}, fmt.Errorf("%s has not answered yet; the command is kept and told again until it does, see `peervip status`", w.Node)
	}
}

func (l *loop) refreshExchange() {
	messages := l.core.Exchange()
	l.exchange.Store(&messages)
}

// LocalState answers gossip with what this node says of itself. It is seldom asked, and
// what it tells is encoded only then.
func (l *loop) LocalState(bool) []byte {
	if messages := l.exchange.Load(); messages != nil {
		return encodeExchange(l.cfg.Name, l.cfg.Spec, *messages)
	}
	return nil
}

// linkChanged takes what the watch says of the interface. When that has been
// away, the kernel may have dropped rules with it: the node does not serve before
// they are in place again.
func (l *loop) linkChanged(s link.Status) {
	back := s.OK && l.link.Reason != ""
	if s.Moved && !l.link.Moved {
		l.moved()
	}
	l.link = s
	if back {
		l.renewal++
		l.unready = "the packet filter is being put in place again"
		l.kernel.renew(l.renewal)
	}
	l.wireChanged()
}

// forwardsChanged takes whether the wire is known to forward.
func (l *loop) forwardsChanged(forwards bool) {
	l.forwards = forwards
	l.wireChanged()
}

func (l *loop) wireChanged() {
	now := node.WireChanged{OK: l.link.OK, Reason: l.link.Reason, Forwards: l.forwards}
	if now.OK && l.unready != "" {
		now.OK, now.Reason = false, l.unready
	}
	if now.OK && l.deaf != "" {
		now.OK, now.Reason = false, l.deaf
	}
	if now.OK && l.refused != "" {
		now.OK, now.Reason = false, l.refused
	}
	if now == l.wire || !now.OK && now.Reason == "" { // nothing new, or nothing known yet
		return
	}
	l.wire = now
	l.step(now)
}

// The loop is its kernel's kernelReport.

func (l *loop) committed(c node.Committed) { l.post(c) }

func (l *loop) renewed(renewal uint64, err error) {
	l.queue.put(func() {
		switch {
		case renewal != l.renewal: // a later one is due
			return
		case err != nil:
			l.unready = err.Error()
		default:
			l.unready = ""
		}
		l.wireChanged()
	})
}

func (l *loop) guarded(err error) {
	l.queue.put(func() {
		l.news.guardErr = err
		if err != nil {
			l.log.Warn("the guard cannot be looked after, and will be tried again", "error", err)
		}
	})
}
