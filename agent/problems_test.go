package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// "A different layout: which field."
func TestAnotherSpecIsNamed(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	c := newRig(t, "c", func(c *Config) { c.Spec.Buckets, c.Spec.MAC = 32, "unicast" })
	s.add(c)
	c.start()
	for _, r := range []*rig{a, c} {
		eventually(t, func() error {
			if r.loop.LocalState(true) == nil {
				return fmt.Errorf("%s has nothing to tell yet", r.cfg.Name)
			}
			return nil
		})
	}
	a.loop.Event(gossip.State{Payload: c.loop.LocalState(true)})
	c.loop.Event(gossip.State{Payload: a.loop.LocalState(true)})
	a.problem(t, true, "c has another spec: spec.buckets: 16 here, 32 there")
	a.problem(t, true, "c has another spec: spec.mac: multicast here, unicast there")
	c.problem(t, true, "a has another spec: spec.buckets: 32 here, 16 there")
	c.phase(t, node.Joining)

	// It comes back with the right one, and nobody holds the old one against it.
	mended := newRig(t, "c")
	s.add(mended)
	mended.start()
	mended.loop.Event(gossip.Attempt{Reached: 1})
	s.settled(t, a, rigs[1], mended)
	a.problem(t, false, "another spec")
}

// A spec that differs only in what this version does not know is told too.
func TestSpecOfALaterVersion(t *testing.T) {
	t.Parallel()
	_, rigs := newCluster(t, "a", "b")
	a, later := rigs[0], rigs[1].member()
	var m meta
	if err := json.Unmarshal(later.Meta, &m); err != nil {
		t.Fatal(err)
	}
	m.SpecDigest = "00000000000000ff"
	later.Meta = m.encode()
	a.loop.Event(gossip.Alive{Member: later})
	a.loop.Event(gossip.State{Payload: encodeExchange("b", a.cfg.Spec, nil)})
	a.problem(t, true, "b has another spec: it sets something that this version does not know")
	a.loop.Event(gossip.Alive{Member: rigs[1].member()})
	a.problem(t, false, "b has another spec")
}

// What a dead or unknown node said of its spec is no problem of today.
func TestSpecsOfTheGone(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	r := rigs[0]
	s.die(t, "b")
	other := r.cfg.Spec
	other.Buckets = 64
	for _, name := range []string{"b", "ghost"} {
		r.loop.Event(gossip.State{Payload: encodeExchange(name, other, nil)})
	}
	r.problem(t, false, "has another spec")
}

// Two machines with one name: told for as long as it lasts.
func TestNameConflict(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	r := rigs[0]
	conflict := gossip.Conflict{Name: "b", Known: netip.MustParseAddrPort("192.0.2.11:7946"), Other: netip.MustParseAddrPort("192.0.2.99:7946")}
	for range 3 {
		r.loop.Event(conflict)
	}
	r.problem(t, true, "two nodes are named b, at 192.0.2.11:7946 and at 192.0.2.99:7946: give one of the two another name")
	if n := strings.Count(r.log.String(), "two nodes have one name"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	r.ask(t, func(l *loop) {
		for name, c := range l.news.conflicts {
			c.seen -= 2 * conflictLasts
			l.news.conflicts[name] = c
		}
	})
	r.problem(t, false, "two nodes are named")
	// Back at another address before gossip has found its former life dead, which beacons
	// have.
	s.mute(rigs[1])
	eventually(t, func() error {
		var alive bool
		r.ask(t, func(l *loop) { alive = len(l.strays.alive) > 0 })
		if alive {
			return errors.New("b is alive")
		}
		return nil
	})
	r.loop.Event(conflict)
	r.problem(t, false, "two nodes are named")
	if n := strings.Count(r.log.String(), "two nodes have one name"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	n := newNews(slog.New(slog.DiscardHandler))
	if !n.conflict(conflict, time.Minute) || n.conflict(conflict, time.Minute+time.Second) || !n.conflict(conflict, 3*time.Minute) {
		t.Error("a conflict is new when it was not seen for a while, and only then")
	}
}

// Another host has the address: traffic goes there, and all else looks well.
func TestVIPConflict(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	err := error(&link.ConflictError{VIP: netip.MustParseAddr("192.0.2.100"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 7}})
	r.link.claimed.Store(&err)
	r.problem(t, true, "VIP 192.0.2.100 is in use by the host with MAC 02:00:00:00:00:07")
	r.link.claimed.Store(nil)
	r.problem(t, false, "is in use by")
}

// TestBeaconsNearTheMTU: who grows towards the MTU says so before beacons cease to leave.
func TestBeaconsNearTheMTU(t *testing.T) {
	t.Parallel()
	l := newRig(t, "a").loop // not running: it would look for problems by itself
	for _, row := range []struct {
		packet, mtu int
		by          string
		want        string
		alert       bool
	}{
		{1389, 1500, "", "a beacon is an IP packet of 1389 bytes, and the MTU of eth0 is 1500: a few nodes more, and none leaves: raise it", false},
		{1300, 1280, "web-3", "a beacon is an IP packet of 1300 bytes, and the MTU of eth0 is 1280, so that none leaves: raise it, or run a newer version on web-3, which reads format 1 at the most", true},
		{523, 1280, "", "", false},
		{523, 0, "", "", false},
		{1340, 1500, "", "", false},
	} {
		var list problemList
		l.beaconProblems(true, outlook{herald: node.HeraldStatus{Format: 1, FormatFor: row.by}, line: link.BeaconStatus{Packet: row.packet, MTU: row.mtu}}, &list)
		lines, alert := list.texts()
		if text := strings.Join(lines, "\n"); text != row.want || (alert != "") != row.alert {
			t.Errorf("%+v: %q, %q", row, text, alert)
		}
	}
}

// A node that must be silent says so, whatever keeps its lease away, and so does one that
// had to be a moment ago.
func TestASilentNodeSaysSo(t *testing.T) {
	t.Parallel()
	l := newRig(t, "a").loop // not running: it would look for problems by itself
	now := node.Time(time.Hour)
	told := func(h node.HeraldStatus) []string {
		var list problemList
		l.beaconProblems(true, outlook{now: now, herald: h}, &list)
		lines, _ := list.texts()
		return lines
	}
	contains := func(h node.HeraldStatus, words string, want bool) {
		t.Helper()
		if lines := told(h); strings.Contains(strings.Join(lines, "\n"), words) != want {
			t.Errorf("%+v: %q; says %q: want %t", h, lines, words, want)
		}
	}
	contains(node.HeraldStatus{Wanted: true}, "this node is silent: its lease is not armed yet", true)
	contains(node.HeraldStatus{Wanted: true, Held: true}, "silent", false)
	contains(node.HeraldStatus{}, "silent", false)
	paused := node.HeraldStatus{Held: true, Wanted: true, Lapses: node.Lapses{Count: 3, LastFor: node.Time(40 * time.Millisecond)}}
	contains(paused, "this node had to be silent, the last time for 40ms (pauses since its start: 3)", true)
	now += node.Time(2 * lately)
	contains(paused, "had to be silent", false)
}

// A problem that has passed is not told for ever.
func TestTrend(t *testing.T) {
	var c trend
	for _, step := range []struct {
		count uint64
		at    time.Duration
		want  bool
	}{
		{0, time.Second, false},
		{3, 2 * time.Second, true},
		{3, lately, true},
		{3, 2*time.Second + lately, false},
		{4, 2 * lately, true},
		{1, 2*lately + time.Second, true}, // started anew
		{1, 4 * lately, false},
		{2, 4*lately + time.Second, true},
	} {
		if got := c.grew(step.count, step.at); got != step.want {
			t.Errorf("%d at %v: %t", step.count, step.at, got)
		}
	}
}

// What has grown is noted when it grows, not when somebody asks next.
func TestProblemsAreNotedThoughNobodyAsks(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	r.members.set(func(c *fakeCluster) { c.stats.OtherKey = 3 })
	eventually(t, func() error {
		var noted trend
		r.ask(t, func(l *loop) { noted = l.news.knocks })
		if noted.last != 3 || noted.at == 0 {
			return fmt.Errorf("noted %+v", noted)
		}
		return nil
	})
}

func TestQueueKeepsOrderAndNeverBlocks(t *testing.T) {
	q := newQueue()
	var got []int
	add := func(i int) func() { return func() { got = append(got, i) } }
	for i := range queueLimit {
		q.offer(add(i))
	}
	q.offer(add(-1)) // may be lost
	q.put(add(queueLimit))
	within(t, "a token", q.ready)
	for _, f := range q.take() {
		f()
	}
	for i, n := range got {
		if i != n {
			t.Fatalf("%d at %d", n, i)
		}
	}
	if len(got) != queueLimit+1 || q.drops() != 1 || len(q.take()) != 0 {
		t.Errorf("%d done, %d dropped", len(got), q.drops())
	}
}

// A flood of messages is dropped, said, and harms nobody who waits.
func TestFlood(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a")
	for range queueLimit + 10 {
		r.loop.Event(gossip.Message{Payload: []byte("{}")})
	}
	r.start()
	r.problem(t, true, "10 messages of peers dropped")
}
