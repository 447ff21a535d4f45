package node

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peervip/peervip/hashring"
)

// TestNewNodeCanBeAskedAnything: operators are faster than the first event.
func TestNewNodeCanBeAskedAnything(t *testing.T) {
	c := New(Config{
		Incarnation: Incarnation{"a", 1}, Weight: 100, Buckets: 16,
		Services: []Service{{Name: "web", Checked: true}, {Name: "other"}}, Timing: promptTiming(),
	})
	s := c.Snapshot()
	if s.Phase != Joining || s.Agreed || s.Attached || len(s.Nodes) != 1 || len(s.Services) != 2 || s.Services[0].Unclaimed != 16 {
		t.Errorf("the snapshot of a new node: %+v", s)
	}
	want := []string{
		"not serving yet: the interface has not been looked at yet",
		"service web: this node is unfit: no health check has finished yet",
	}
	if diff := cmp.Diff(want, s.Problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if e := c.Explain(1, 15); e.Owner != "" || e.Why != "no node serves" {
		t.Errorf("explained: %+v", e)
	}
	if x := c.Exchange(); len(x) > 0 {
		t.Errorf("it has something to say already: %+v", x[0])
	}
	if at := c.Deadline(); at <= 0 {
		t.Errorf("wants to be woken at %v", at)
	}
}

// TestSnapshotSumsUp what everybody claims.
func TestSnapshotSumsUp(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16, 1, 2, 3), "c": setOf(16, 3, 4)})
	d.step(FlowsCounted{Counts: []int{7}})
	d.tells("b", Message{Flows: &Flows{Counts: []int{5}}})
	d.says("c", func(s *Statement) { s.Unfit = []int{0} })
	d.step(PeerAlive{Incarnation: Incarnation{"x", 'x'}, Address: "192.0.2.9", SpecDigest: 9})
	d.step(Wished{Wish: Wish{Node: "b", Want: WantDrain}})
	s := d.core.Snapshot()
	want := []NodeSnapshot{
		{Incarnation: Incarnation{"a", 1}, Phase: Active, Alive: true, Weight: 10, Services: []NodeServiceSnapshot{{Healthy: true, Flows: 7}}},
		{Incarnation: Incarnation{"b", 'b'}, Phase: Active, Alive: true, Weight: 10, Services: []NodeServiceSnapshot{{Healthy: true, Own: 3, Flows: 5}}, Wishes: []WishKind{WantDrain}},
		{Incarnation: Incarnation{"c", 'c'}, Phase: Active, Alive: true, Weight: 10, Services: []NodeServiceSnapshot{{Own: 2}}},
		{Incarnation: Incarnation{"x", 'x'}, Address: "192.0.2.9", Alive: true, Unknown: true, Services: []NodeServiceSnapshot{{Healthy: true}}},
	}
	if diff := cmp.Diff(want, s.Nodes); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	own := d.core.want.Count()
	if own == 0 {
		t.Fatal("this node has taken nothing")
	}
	if diff := cmp.Diff([]ServiceSnapshot{{Name: "web", Buckets: 16, Unclaimed: 16 - 4 - own, ClaimedTwice: 1}}, s.Services); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
}

// TestProblemsAreWhatAnOperatorReads, with the cure.
func TestProblemsAreWhatAnOperatorReads(t *testing.T) {
	two := func(t *testing.T) *desk {
		d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
		d.commits(nil)
		return d
	}
	for name, c := range map[string]struct {
		happens func(t *testing.T) *desk
		want    []string
	}{
		"all is well": {two, nil},
		"alone": {func(t *testing.T) *desk { return activeDesk(t, nil) }, []string{
			"this node is alone: nobody would take over; start another, or check cluster.join and the gossip port"}},
		"the address": {func(t *testing.T) *desk {
			d := newDesk(t)
			d.step(SeedsTried{})
			d.wait(6 * time.Second)
			d.step(Attached{Err: errors.New("192.0.2.100 is in use by 02:00:00:00:00:07")})
			return d
		}, []string{"the address cannot be brought up: 192.0.2.100 is in use by 02:00:00:00:00:07"}},
		"the kernel": {func(t *testing.T) *desk {
			d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
			d.commits(errors.New("no memory"))
			return d
		}, []string{"the kernel has refused the last change of buckets (no memory); it is tried again"}},
		"a member that does not serve": {func(t *testing.T) *desk {
			d := two(t)
			d.says("b", func(s *Statement) { s.Phase = Joining })
			d.wait(d.core.cfg.Timing.Alone)
			d.acks("b")
			return d
		}, []string{
			"this node serves alone: nobody would take over",
			"b is a member and does not serve: `peervip status` there says why"}},
		"a member that does not serve, for messages that it does not get": {func(t *testing.T) *desk {
			d := two(t)
			d.says("b", func(s *Statement) { s.Phase = Joining })
			d.wait(d.core.cfg.Timing.Alone)
			return d
		}, []string{
			"this node serves alone: nobody would take over",
			"b is a member and does not serve: `peervip status` there says why",
			"b does not answer this node's messages, though it is alive: look for firewalls at cluster.port, TCP and UDP, and for other versions"}},
		"beacons of a node that is no member": {func(t *testing.T) *desk {
			d := two(t)
			x := Incarnation{"x", 'x'}
			d.step(PeerStanding{Incarnation: x, Standing: Alive})
			d.step(PeerSpoke{Incarnation: x, Bulletin: Bulletin{Phase: Joining, Claims: 1}})
			if problems := d.core.Snapshot().Problems; len(problems) > 0 {
				t.Errorf("at once it says %q", problems)
			}
			d.wait(d.core.cfg.Timing.Mourn)
			return d
		}, []string{"beacons of x come, but it is no member here, since messages do not pass: look for a firewall at cluster.port, TCP and UDP, or add it to cluster.join"}},
		"and it serves": {func(t *testing.T) *desk {
			d := two(t)
			x := Incarnation{"x", 'x'}
			d.step(PeerStanding{Incarnation: x, Standing: Alive})
			d.step(PeerSpoke{Incarnation: x, Bulletin: Bulletin{Phase: Active, Claims: 1}})
			d.wait(d.core.cfg.Timing.Mourn)
			return d
		}, []string{"beacons of x come, but it is no member here, since messages do not pass: look for a firewall at cluster.port, TCP and UDP, or add it to cluster.join; until then this node takes nothing that the dead had"}},
		"unfit": {func(t *testing.T) *desk {
			d := two(t)
			d.step(HealthChanged{Service: 0, Reason: "connection refused"})
			return d
		}, []string{"service web: this node is unfit: connection refused"}},
		"nobody is fit": {func(t *testing.T) *desk {
			d := two(t)
			d.says("b", func(s *Statement) { s.Unfit = []int{0} })
			d.step(HealthChanged{Service: 0, Reason: "connection refused"})
			return d
		}, []string{
			"service web: this node is unfit: connection refused",
			"service web: no active node is fit, so buckets stay where they are; mend what its checks look at"}},
		"everybody drains": {func(t *testing.T) *desk {
			d := two(t)
			d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
			d.says("b", func(s *Statement) { s.Phase = Draining })
			return d
		}, []string{"service web: all nodes are draining, so buckets stay where they are; resume one with `peervip resume`"}},
		"a death": {func(t *testing.T) *desk {
			d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": setOf(16)})
			d.step(PeerDead{Name: "b"})
			return d
		}, []string{"b is silent or dead; its buckets have gone to the others until it is back"}},
		"another spec": {func(t *testing.T) *desk {
			d := two(t)
			d.step(PeerAlive{Incarnation: Incarnation{"x", 'x'}, SpecDigest: 9, SpecRevision: 3})
			return d
		}, []string{"x runs another spec (revision 3, here 1); give all nodes the same spec"}},
		"kept out by another spec": {func(t *testing.T) *desk {
			d := newDesk(t)
			d.step(PeerAlive{Incarnation: Incarnation{"x", 'x'}, SpecDigest: 9, SpecRevision: 3})
			d.says("x", func(*Statement) {})
			d.step(SeedsTried{})
			return d
		}, []string{"not serving yet: x runs another spec (revision 3, here 1); give all nodes the same spec"}},
		"a silent member": {func(t *testing.T) *desk {
			d := two(t)
			d.alive("c")
			d.wait(6 * time.Second)
			return d
		}, []string{"c is a member and has told nothing yet: its messages are lost on the way, or it is another version"}},
	} {
		d := c.happens(t)
		if diff := cmp.Diff(c.want, d.core.Snapshot().Problems); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestExplainSaysWhereABucketIsAndWhy, through the life of one.
func TestExplainSaysWhereABucketIsAndWhy(t *testing.T) {
	d, asked := theirs(t)
	x := first(asked.Slots)
	other := first(d.owned("b"))
	check := func(bucket int, owner string, holders []string, state State, why string) {
		t.Helper()
		want := Explanation{Owner: owner, Holders: holders, State: state, Why: why}
		if diff := cmp.Diff(want, d.core.Explain(0, bucket)); diff != "" {
			t.Errorf("bucket %d (-want +got):\n%s", bucket, diff)
		}
	}
	const place = "its place among the nodes that are fit"
	check(x, "a", []string{"c"}, None, place+"; asked for, the holder has not answered yet")
	check(first(d.owned("c")), "c", []string{"c"}, None, place)
	check(other, "b", []string{"c"}, None, place+"; still held until the owner asks for it")
	d.tells("c", Message{Grant: &Grant{ID: asked.ID, Version: d.said["c"].Version + 1, Slots: asked.Slots}})
	check(x, "a", []string{"a"}, None, place) // claimed, and about to be in the kernel
	d.commits(nil)
	check(x, "a", []string{"a"}, Own, place)
	d.says("c", func(s *Statement) { s.Claims = setOf(16, first(d.owned("c")), x) })
	check(x, "a", []string{"a", "c"}, Own, place+"; claimed twice, about to be settled")
	check(other, "b", nil, None, place+"; nobody has it yet")

	// This node drains; b asks.
	d.says("c", func(s *Statement) { s.Claims.Remove(x) })
	d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
	heir := d.core.Explain(0, x).Owner
	check(x, heir, []string{"a"}, Own, place+"; still held until the owner asks for it")
	d.tells(heir, Message{Request: &Request{ID: 1, Slots: setOf(16, x)}})
	check(x, heir, []string{"a"}, Own, place+"; on its way from here to its heir")

	for phase, why := range map[Phase]string{
		Active:   "no active node is fit: it stays where it is",
		Draining: "all nodes are draining, or cannot serve: it stays where it is",
	} {
		d := activeDesk(t, map[string]hashring.Set{"b": everything(16)})
		d.step(HealthChanged{Service: 0, Reason: "broken"})
		if phase == Draining {
			d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
		}
		d.says("b", func(s *Statement) { s.Unfit, s.Phase = []int{0}, phase })
		if e := d.core.Explain(0, x); e.Owner != "b" || e.Why != why {
			t.Errorf("all are %s and unfit: %+v, want b and %q", phase, e, why)
		}
	}
	silent := activeDesk(t, map[string]hashring.Set{"b": setOf(16)}, func(c *Config) { c.DropUnhealthy = true })
	silent.commits(nil)
	silent.says("b", func(s *Statement) { s.Unfit = []int{0} })
	silent.step(HealthChanged{Service: 0, Reason: "broken"})
	e := silent.core.Explain(0, first(silent.core.kernel))
	if e.Owner != "" || e.Why != "no active node is fit, and spec.when_none_healthy says drop; about to be given up" {
		t.Errorf("nobody should serve it: %+v", e)
	}
}

// TestNoticesTellOperatorsWhatHappens: events with their numbers, and which of them
// somebody should act on.
func TestNoticesTellOperatorsWhatHappens(t *testing.T) {
	d, asked := theirs(t)
	var told []string
	note := func(effects []Effect) {
		for _, n := range effectsOf[Notice](effects) {
			mark := "  "
			if n.Act {
				mark = "! "
			}
			told = append(told, mark+n.Text)
		}
	}
	note(d.tells("c", Message{Grant: &Grant{ID: asked.ID, Version: 9, Slots: asked.Slots}}))
	note(d.commits(errors.New("no memory")))
	note(d.step(HealthChanged{Service: 0, Reason: "connection refused"}))
	note(d.step(PeerDead{Name: "b"}))
	note(d.step(PeerDead{Name: "b", Left: true}))
	note(d.alive("b"))
	note(d.step(PeerAlive{Incarnation: Incarnation{"b", 3}, SpecDigest: 1}))
	note(d.step(WireChanged{Reason: "eth0 has no carrier"}))
	want := []string{
		"! the kernel refused a change of 6 buckets: no memory",
		"! service web: this node is unfit: connection refused",
		"! b is silent or dead",
		"  b has left",
		"  b is a member",
		"  b has restarted",
		"! giving up all buckets: eth0 has no carrier",
		"  this node is joining",
	}
	told = slices.DeleteFunc(told, func(s string) bool { return strings.Contains(s, "taking") })
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}
