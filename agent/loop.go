package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// errHandedOver ends the loop of an agent that was told to leave.
var errHandedOver = errors.New("everything is handed over")

// loop is the one goroutine that owns the core. Everybody else puts work into
// its queue and never waits for it, but for the control socket.
type loop struct {
	cfg    Config
	log    *slog.Logger
	core   *node.Core
	nonce  uint64
	origin time.Time
	queue  *queue
	send   func(to string, payload []byte)
	known  func() []gossip.Peer
	attach func() // brings the VIP up, in a goroutine of its own
	kernel *kernel
	saver  *saver

	memory   memory
	link     link.Status
	forwards bool
	answers  map[uint64]chan<- answer
	tokens   uint64
	specs    map[string]Spec   // of the peers, as they told it
	strange  map[string]string // members that cannot be understood, and why
	joinErr  error             // why seeds or lost members are not reached
	fatal    error
	stop     bool
	exchange atomic.Pointer[[]byte] // what LocalState answers
}

// answer ends a wait at the control socket.
type answer struct {
	refused string
	note    string
}

// now is the core's clock: monotonic, and never 0.
func (l *loop) now() node.Time { return time.Since(l.origin) + time.Millisecond }

// post hands the core an event, from any goroutine.
func (l *loop) post(ev node.Event) { l.queue.put(func() { l.step(ev) }) }

// run is the loop. It ends with the context, when everything is handed over
// (errHandedOver), or when the node cannot be part of the cluster.
func (l *loop) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	l.step(node.Started{Drained: l.memory.Drained, Obeyed: l.memory.Obeyed})
	for {
		timer.Reset(l.core.Deadline() - l.now())
		select {
		case <-ctx.Done():
			return nil
		case <-l.queue.ready:
			for _, work := range l.queue.take() {
				work()
			}
		case <-timer.C:
			l.step(node.Tick{})
		}
		switch {
		case l.fatal != nil:
			return l.fatal
		case l.stop:
			return errHandedOver
		}
	}
}

// step gives the core one event and carries out what it wants.
func (l *loop) step(ev node.Event) {
	effects := l.core.Step(l.now(), ev)
	for _, effect := range effects {
		switch e := effect.(type) {
		case node.Commit:
			l.kernel.commits <- e // never waits: at most one is open
		case node.Send:
			l.send(e.To, e.Message.Encode())
		case node.Attach:
			l.attach()
		case node.Save:
			l.memory.Drained, l.memory.Obeyed = e.Drained, e.Obeyed
			l.saver.save(l.memory)
		case node.Answer:
			if waiting, ok := l.answers[e.Token]; ok {
				delete(l.answers, e.Token)
				waiting <- answer{e.Refused, e.Note}
			}
		case node.Notice:
			level := slog.LevelInfo
			if e.Act {
				level = slog.LevelWarn
			}
			l.log.Log(context.Background(), level, e.Text)
		case node.Stop:
			l.stop = true
		default:
			panic(fmt.Sprintf("agent: unknown effect %T", effect))
		}
	}
	if len(effects) > 0 {
		l.refreshExchange()
	}
}

func (l *loop) refreshExchange() {
	b := encodeExchange(l.cfg.Name, l.cfg.Spec, l.core.Exchange())
	l.exchange.Store(&b)
}

// Event takes what gossip hears; see gossip.Handler.
func (l *loop) Event(ev gossip.Event) { l.queue.put(func() { l.heard(ev) }) }

// LocalState answers gossip with what this node says of itself.
func (l *loop) LocalState(bool) []byte {
	if b := l.exchange.Load(); b != nil {
		return *b
	}
	return nil
}

func (l *loop) heard(ev gossip.Event) {
	switch ev := ev.(type) {
	case gossip.Alive:
		alive, err := peerAlive(ev.Member)
		if err != nil {
			if l.strange[ev.Name] == "" {
				l.log.Warn("a member cannot be understood", "node", ev.Name, "error", err)
			}
			l.strange[ev.Name] = err.Error()
			return
		}
		delete(l.strange, ev.Name)
		l.step(alive)
		l.rememberPeers()
	case gossip.Dead:
		delete(l.strange, ev.Name)
		delete(l.specs, ev.Name)
		l.step(node.PeerDead{Name: ev.Name, Left: ev.Left})
		if ev.Left {
			l.rememberPeers()
		}
	case gossip.Message:
		m, err := node.Decode(ev.Payload)
		if err != nil {
			l.log.Debug("a message was dropped", "error", err)
			return
		}
		l.step(node.Received{Message: m})
	case gossip.State:
		x, messages, err := decodeExchange(ev.Payload)
		if err != nil {
			l.log.Debug("a state exchange was dropped", "error", err)
			return
		}
		l.specs[x.Name] = x.Spec
		for _, m := range messages {
			l.step(node.Received{Message: m})
		}
	case gossip.Conflict:
		if ev.Name == l.cfg.Name {
			l.log.Error("another node uses this node's name; give one of the two another name",
				"name", ev.Name, "other", ev.Other)
		}
	case gossip.Attempt:
		l.attempted(ev)
	}
}

// attempted learns the outcome of a round of joining. Before the node serves, a
// seed that refuses it is a reason to stop: it must not start alone beside a
// cluster that it cannot join.
func (l *loop) attempted(ev gossip.Attempt) {
	l.joinErr = ev.Err
	joining := l.core.Snapshot().Phase == node.Joining
	switch {
	case joining && errors.Is(ev.Err, gossip.ErrNameTaken),
		joining && ev.Reached == 0 && errors.Is(ev.Err, gossip.ErrWrongKey):
		l.fatal = fmt.Errorf("joining the cluster %q: %w", l.cfg.Cluster, ev.Err)
	default:
		l.step(node.SeedsTried{})
	}
}

// rememberPeers keeps the members' addresses for the next start.
func (l *loop) rememberPeers() {
	peers := l.known()
	if !slices.Equal(peers, l.memory.Peers) {
		l.memory.Peers = peers
		l.saver.save(l.memory)
	}
}

// linkChanged tells the core of the interface.
func (l *loop) linkChanged(s link.Status, forwards bool) {
	if s == l.link && forwards == l.forwards {
		return
	}
	if s.OK && !l.link.OK && l.link.Reason != "" {
		select {
		case l.kernel.renew <- struct{}{}:
		default:
		}
	}
	l.link, l.forwards = s, forwards
	l.step(node.WireChanged{OK: s.OK, Reason: s.Reason, Forwards: forwards})
}

// problems are the core's and the shell's own, in words.
func (l *loop) problems(list []string) []string {
	for _, name := range slices.Sorted(maps.Keys(l.specs)) {
		for _, line := range l.cfg.Spec.Diff(l.specs[name]) {
			list = append(list, fmt.Sprintf("%s has another spec: %s", name, line))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.strange)) {
		list = append(list, l.strange[name])
	}
	if l.joinErr != nil {
		list = append(list, fmt.Sprintf("not all seeds are reached: %v", l.joinErr))
	}
	if err := l.saver.err(); err != nil {
		list = append(list, fmt.Sprintf("a restart would forget that this node is drained: %v", err))
	}
	return list
}
