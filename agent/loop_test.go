package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// Told to leave, an agent hands everything over and says goodbye before it ends.
func TestLeaveHandsOver(t *testing.T) {
	t.Parallel()
	_, rigs := newCluster(t, "a", "b")
	a, b := rigs[0], rigs[1]
	close(a.leave)
	if err := a.end(t); err != nil {
		t.Errorf("ended with %v", err)
	}
	if !a.members.left {
		t.Error("no goodbye")
	}
	if a.filter.owned() != 0 || b.filter.owned() != buckets {
		t.Errorf("a has %d buckets, b %d of %d", a.filter.owned(), b.filter.owned(), buckets)
	}
}

// What one turn of the loop has for a member goes together, so that it stays in order: a
// request after the statement with the view that it comes of.
func TestMessagesOfATurnGoTogether(t *testing.T) {
	t.Parallel()
	s, _ := newCluster(t, "a", "b")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.together < 2 {
		t.Errorf("two nodes have come to share everything, and never sent more than %d message at once", s.together)
	}
}

// A node that is told to leave before it serves ends at once: there is nothing to
// hand over.
func TestLeaveWhileJoining(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	close(r.leave)
	if err := r.end(t); err != nil || !r.members.left {
		t.Errorf("ended with %v, goodbye %t", err, r.members.left)
	}
}

// The second signal ends the context: at once, without a word to the others.
func TestEndsWithTheContext(t *testing.T) {
	t.Parallel()
	_, rigs := newCluster(t, "a", "b")
	a, b := rigs[0], rigs[1]
	a.cancel()
	if err := a.end(t); err != nil {
		t.Errorf("ended with %v", err)
	}
	if a.members.left || b.filter.owned() == buckets {
		t.Error("it was handed over")
	}
}

// A death, an unplugged cable, a failing disk: they come at any time, also while
// the agent leaves, which ends all the same.
func TestLeaveEndsWithoutHeirs(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	s.losing(func(string, *node.Message) bool { return true })
	close(rigs[0].leave)
	rigs[0].phase(t, node.Leaving)
	s.die(t, "b")
	if err := rigs[0].end(t); err != nil {
		t.Errorf("ended with %v", err)
	}
}

func refusedSeed(err error) gossip.Attempt {
	return gossip.Attempt{Err: gossip.SeedErrors{{Seed: "192.0.2.12", Err: err}}}
}

// A seed that refuses the node before it serves keeps it joining, until none does; later
// it is a problem to be told.
func TestRefusedByASeed(t *testing.T) {
	t.Parallel()
	key := fmt.Errorf("%w: give both nodes the same key file", gossip.ErrWrongKey)
	name := fmt.Errorf("%w by 192.0.2.13: give one of the two another name", gossip.ErrNameTaken)
	reachedToo := refusedSeed(key)
	reachedToo.Reached = 1
	for _, test := range []struct {
		name string
		said gossip.Attempt
		want string // why it does not serve; "": it goes on
	}{
		{"wrong key", refusedSeed(key), `not serving yet: joining the cluster "web" is refused, and tried again: 192.0.2.12: the node there has another cluster key: give both nodes the same key file`},
		{"name taken", refusedSeed(name), `not serving yet: joining the cluster "web" is refused, and tried again: 192.0.2.12: this node's name is taken by 192.0.2.13: give one of the two another name`},
		{"wrong key at one, another reached", reachedToo, ""},
		{"not there", refusedSeed(errFake), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, "a").start()
			r.loop.Event(test.said)
			if test.want != "" {
				r.problem(t, true, test.want)
				r.problem(t, false, "not all seeds are reached")
				time.Sleep(3 * testDetect.Time()) // in which a node that may starts to serve
				r.phase(t, node.Joining)
				r.loop.Event(gossip.Attempt{Reached: 1})
				r.problem(t, false, test.want)
				return
			}
			r.problem(t, true, "not all seeds are reached: 192.0.2.12: ")
		})
	}
	t.Run("while it serves", func(t *testing.T) {
		_, rigs := newCluster(t, "a", "b")
		rigs[0].loop.Event(refusedSeed(key))
		rigs[0].problem(t, true, "another cluster key")
		rigs[0].phase(t, node.Active)
	})
	t.Run("when it has served", func(t *testing.T) {
		_, rigs := newCluster(t, "a")
		rigs[0].link.unplug("no carrier")
		rigs[0].phase(t, node.Joining)
		rigs[0].loop.Event(refusedSeed(key))
		rigs[0].problem(t, true, "another cluster key")
		rigs[0].link.plug()
		rigs[0].phase(t, node.Active)
	})
	t.Run("when it has met a member", func(t *testing.T) {
		a := newRig(t, "a").start()
		a.loop.Event(gossip.Alive{Member: newRig(t, "b").member()})
		a.loop.Event(refusedSeed(key))
		a.problem(t, true, "another cluster key")
	})
}

// A member of the past that is not there is a problem only to a node without others.
func TestMembersOfThePast(t *testing.T) {
	t.Parallel()
	a := newRig(t, "a").start()
	gone := gossip.Attempt{Err: gossip.SeedErrors{{Seed: "z (192.0.2.19:7946)", Err: errFake, Lost: true}}}
	a.loop.Event(gone)
	a.problem(t, true, "not all seeds are reached: z (192.0.2.19:7946)")
	a.loop.Event(gossip.Alive{Member: newRig(t, "b").member()})
	a.loop.Event(gone)
	a.problem(t, false, "not all seeds")
	gone.Err = append(gone.Err.(gossip.SeedErrors), &gossip.SeedError{Seed: "192.0.2.12", Err: errFake})
	a.loop.Event(gone)
	a.problem(t, true, "not all seeds are reached: 192.0.2.12: ")
}

// A seed that was not there and joins by itself is no problem any more.
func TestSeedsThatComeByThemselves(t *testing.T) {
	t.Parallel()
	s := &segment{rigs: map[string]*rig{}}
	a, b := newRig(t, "a", func(c *Config) { c.Join = []string{"192.0.2.12"} }), newRig(t, "b")
	s.add(a)
	a.start()
	a.loop.Event(refusedSeed(errFake))
	a.problem(t, true, "not all seeds are reached")
	s.add(b)
	b.start()
	b.loop.Event(gossip.Attempt{Reached: 1})
	s.settled(t, a, b)
	a.problem(t, false, "not all seeds are reached")
}

// A member of another format is told as a problem; whatever it was before, it
// holds no buckets.
func TestStrangeMember(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	s.losing(func(string, *node.Message) bool { return true })
	s.mute(rigs[1])
	strange := rigs[1].member()
	strange.Meta = []byte(`{"fmin":9,"fmax":12,"nonce":5,"spec":"00"}`)
	a.loop.Event(gossip.Alive{Member: strange})
	a.problem(t, true, "b speaks formats 9 to 12, this program 1 to 1: run versions that are nearer to each other")
	s.settled(t, a)
	strange.Meta = []byte("\xff\xfe")
	a.loop.Event(gossip.Alive{Member: strange})
	a.problem(t, true, "what b announces cannot be read")
	s.losing(nil)
	a.loop.Event(gossip.Alive{Member: rigs[1].member()})
	a.problem(t, false, "what b announces")
}

// Garbage from the wire is dropped.
func TestGarbageIsDropped(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	for _, payload := range []string{"", "{}", "\x00\xff", `{"name":"b","spec":{},"messages":[{}]}`} {
		rigs[0].loop.Event(gossip.Message{Payload: []byte(payload)})
		rigs[0].loop.Event(gossip.State{Payload: []byte(payload)})
	}
	rigs[0].ask(t, func(*loop) {})
	s.settled(t, rigs...)
	if !strings.Contains(rigs[0].log.String(), "a message was dropped") {
		t.Error("nothing was said")
	}
}

// The interface goes and comes back. In between the kernel may have dropped rules,
// so nothing is served before they are in place again.
func TestInterfaceComesBack(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	a, b := rigs[0], rigs[1]
	a.filter.set(func(f *fakeFilter) { f.fail["Reinstall"] = errFake })
	a.link.unplug("eth0 has no carrier")
	a.problem(t, true, "eth0 has no carrier")
	s.settled(t, b)
	a.link.plug()
	a.problem(t, true, "not serving yet: "+errFake.Error())
	if a.filter.owned() != 0 {
		t.Errorf("%d buckets without rules", a.filter.owned())
	}
	a.filter.set(func(f *fakeFilter) { delete(f.fail, "Reinstall") })
	s.settled(t, a, b)
	n := a.filter.called("Reinstall")
	a.link.unplug("eth0 has no carrier")
	a.link.plug()
	eventually(t, func() error {
		if a.filter.called("Reinstall") == n {
			return fmt.Errorf("no Reinstall")
		}
		return nil
	})
	s.settled(t, a, b)
}

// What the wire is known to be: nothing, until the watch has said something.
func TestWireIsNotKnownYet(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a")
	l := r.loop
	l.step(node.Started{})
	l.forwardsChanged(true)
	if l.wire != (node.WireChanged{}) {
		t.Errorf("the core was told %+v", l.wire)
	}
	l.linkChanged(link.Status{OK: true})
	if l.wire != (node.WireChanged{OK: true, Forwards: true}) {
		t.Errorf("the core was told %+v", l.wire)
	}
	if r.filter.called("Reinstall") > 0 || l.renewal != 0 {
		t.Error("rules were renewed that are new")
	}
}

// An earlier renewal's success is not the later one's.
func TestOnlyTheLastRenewalCounts(t *testing.T) {
	t.Parallel()
	l := newRig(t, "a").loop
	l.step(node.Started{})
	for range 2 {
		l.linkChanged(link.Status{OK: true})
		l.linkChanged(link.Status{Reason: "no carrier"})
	}
	l.linkChanged(link.Status{OK: true})
	work := func() {
		for _, f := range l.queue.take() {
			f()
		}
	}
	l.renewed(l.renewal-1, nil)
	work()
	if l.wire.OK {
		t.Error("it serves with rules of before the last loss")
	}
	l.renewed(l.renewal, nil)
	work()
	if !l.wire.OK {
		t.Errorf("it does not serve: %+v", l.wire)
	}
}

// What peers say while the loop is at something else is one step of the core, and each
// peer is sent one statement for all of it.
func TestWhatComesTogetherIsOneStep(t *testing.T) {
	t.Parallel()
	l := newRig(t, "a").loop
	l.step(node.Started{})
	l.flush()
	version := l.core.Bulletin().Claims
	peers := []string{"b", "c", "d"}
	for i, name := range peers {
		l.post(node.PeerAlive{Incarnation: node.Incarnation{Name: name, Nonce: uint64(i + 1)}})
	}
	for _, f := range l.queue.take() {
		f()
	}
	if n := len(l.core.Snapshot().Nodes); n != 1 {
		t.Errorf("the core knows %d nodes before the queue is empty", n)
	}
	l.settle()
	for _, name := range peers {
		if n := len(l.outbox[name]); n != 1 {
			t.Errorf("%s is sent %d messages, want one", name, n)
		}
	}
	if now := l.core.Bulletin().Claims; now > version+1 {
		t.Errorf("three peers that have come have made %d statements", now-version)
	}
}

// The address cannot be brought up: said, and tried again.
func TestAttachFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a")
	r.attach = func(context.Context) error { return errFake }
	s := &segment{rigs: map[string]*rig{}}
	b := newRig(t, "b")
	s.add(r)
	s.add(b)
	r.start()
	b.start()
	r.loop.Event(gossip.Attempt{Reached: 1})
	r.problem(t, true, "the address cannot be brought up: "+errFake.Error())
}

// Members and their addresses outlive the process.
func TestPeersAreRemembered(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a")
	peers := []gossip.Peer{{Name: "b", Addr: netip.MustParseAddrPort("192.0.2.12:7946")}}
	r.loop.known = func() []gossip.Peer { return peers }
	r.start()
	r.loop.Event(gossip.Alive{Member: newRig(t, "b").member()})
	eventually(t, func() error {
		m, err := loadMemory(r.cfg.StateDir)
		if err == nil && len(m.Peers) != 1 {
			err = fmt.Errorf("peers %v", m.Peers)
		}
		return err
	})
}

// Whatever ends the wait of an operator, the loop forgets him.
func TestNobodyWaitsForEver(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	s.losing(func(string, *node.Message) bool { return true })
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := a.client.Wish(ctx, WishRequest{Node: "b", Want: node.WantDrain})
		failed <- err
	}()
	waiting := func(n int) {
		t.Helper()
		eventually(t, func() (err error) {
			a.ask(t, func(l *loop) {
				if len(l.answers) != n {
					err = fmt.Errorf("%d wait, want %d", len(l.answers), n)
				}
			})
			return err
		})
	}
	waiting(1)
	cancel() // Ctrl-C
	within(t, "the client's end", failed)
	waiting(0)

	go func() {
		_, err := a.client.Wish(t.Context(), WishRequest{Node: "b", Want: node.WantDrain})
		failed <- err
	}()
	waiting(1)
	a.cancel()
	if err := within(t, "the client's end", failed); err == nil || !strings.HasPrefix(err.Error(), "this agent is stopping; whether b has heard of it") {
		t.Errorf("he was told %v", err)
	}
	must(t, a.end(t))
	// Until everything is taken back, the socket says so.
	if _, err := a.client.Status(t.Context()); err == nil || err.Error() != errStopping.Error() {
		t.Errorf("status of a stopping agent: %v", err)
	}
}

// A wish whose operator has gone before it was heard is not obeyed.
func TestWishOfNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.start()
	if _, err := r.loop.wish(ctx, node.Wish{Node: "a", Want: node.WantDrain}); err == nil {
		t.Error("it was answered")
	}
	r.ask(t, func(l *loop) {
		if l.memory.Drained || len(l.answers) != 0 {
			t.Errorf("drained %t, %d wait", l.memory.Drained, len(l.answers))
		}
	})
}
