package agent

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
)

// connections is an open one of each of so many clients.
func connections(n byte) flowLister {
	return func() iter.Seq2[nft.Flow, error] {
		return func(yield func(nft.Flow, error) bool) {
			for i := range n {
				f := nft.Flow{Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, i}), 4000), Protocol: protocolTCP, Established: true}
				if !yield(f, nil) {
					return
				}
			}
		}
	}
}

// waitingCluster is of a, with 200 open connections that never end, and b.
func waitingCluster(t *testing.T, change ...func(a *rig)) (a, b *rig) {
	s := &segment{rigs: map[string]*rig{}}
	a, b = newRig(t, "a"), newRig(t, "b")
	a.agent.flows, a.loop.kernel.cut = connections(200), func(hashring.Set) error { return nil }
	a.agent.live = func(slots, _ hashring.Set) (hashring.Set, error) { return slots.Clone(), nil }
	for _, f := range change {
		f(a)
	}
	for _, r := range []*rig{a, b} {
		s.add(r)
		r.start()
		r.loop.Event(gossip.Attempt{Reached: 1})
	}
	s.settled(t, a, b)
	return a, b
}

// waiting waits until the node says of the other, or of itself, what that waits for.
func (r *rig) waiting(t *testing.T, of, phase string) (w WaitingStatus) {
	t.Helper()
	eventually(t, func() error {
		for _, n := range r.status(t).Nodes {
			if n.Name == of && n.Phase == phase && n.Waiting != nil {
				w = *n.Waiting
				return nil
			}
		}
		return fmt.Errorf("%s does not say what %s waits for", r.cfg.Name, of)
	})
	return w
}

// A drain with a grace of its own is shown here and at the peers, and outlives a
// restart; a leave that waits is cut short.
func TestWaitingIsShownAndCutShort(t *testing.T) {
	t.Parallel()
	a, b := waitingCluster(t)
	grace := 10 * time.Hour
	if _, err := b.client.Wish(t.Context(), WishRequest{Node: "a", Want: node.WantDrain, Grace: &grace}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*rig{a, b} {
		w := r.waiting(t, "a", "draining")
		if w.Flows < 50 || w.Flows > 200 || w.Left < 9*3600 || w.Left > 10*3600 {
			t.Errorf("%s says that a is %v", r.cfg.Name, w)
		}
	}
	remembered, err := loadMemory(a.cfg.StateDir)
	if err != nil || remembered.Grace == nil || *remembered.Grace != grace {
		t.Errorf("a remembers %+v, %v", remembered, err)
	}
	logs := func(words ...string) {
		t.Helper()
		eventually(t, func() error {
			for _, w := range words {
				if log := a.log.String(); !strings.Contains(log, w) {
					return fmt.Errorf("logged %s, without %q", log, w)
				}
			}
			return nil
		})
	}
	logs("draining: waiting for ", "`peervip drain a --grace 0s` ends them")
	if _, err := a.client.Leave(t.Context(), LeaveRequest{KeepFlows: true, Now: true}); err == nil {
		t.Error("the connections are kept, and ended at once")
	}
	_, err = a.client.Leave(t.Context(), LeaveRequest{})
	must(t, err)
	if w := a.waiting(t, "a", "leaving"); w.Flows < 50 {
		t.Errorf("a is %v", w)
	}
	logs("leaving: waiting for ", "`peervip leave --now` ends them")
	_, err = a.client.Leave(t.Context(), LeaveRequest{Now: true})
	must(t, err)
	if err := a.end(t); err != nil || !a.members.left {
		t.Errorf("ended with %v, goodbye %t", err, a.members.left)
	}
	logs("ending the open connections of")
}

// The log has what is waited for at once, and then each half minute.
func TestWaitingLog(t *testing.T) {
	var w waitingLog
	self := NodeStatus{Name: "a", Phase: "leaving", Waiting: &WaitingStatus{Flows: 3, Left: 280}}
	const line = "leaving: waiting for 3 open connections, at most 4m40s; `peervip leave --now` ends them"
	for _, step := range []struct {
		at   time.Duration
		self NodeStatus
		want string
	}{
		{time.Second, NodeStatus{Name: "a", Phase: "active"}, ""},
		{2 * time.Second, self, line},
		{31 * time.Second, self, ""},
		{32 * time.Second, self, line},
		{33 * time.Second, NodeStatus{Name: "a", Phase: "leaving", Waiting: &WaitingStatus{}}, ""},
		{34 * time.Second, NodeStatus{Name: "a", Phase: "active"}, ""},
		{35 * time.Second, self, line},
	} {
		if got := w.look(node.Time(step.at), step.self); got != step.want {
			t.Errorf("at %v: %q, want %q", step.at, got, step.want)
		}
	}
}

// Flows that cannot be counted are not taken for none.
func TestWaitingUncounted(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a")
	r.agent.flows = func() iter.Seq2[nft.Flow, error] {
		return func(yield func(nft.Flow, error) bool) { yield(nft.Flow{}, context.DeadlineExceeded) }
	}
	r.start()
	_, err := r.client.Wish(t.Context(), WishRequest{Node: "a", Want: node.WantDrain, Force: true})
	must(t, err)
	time.Sleep(100 * time.Millisecond)
	if n := r.status(t).Nodes[0]; n.Waiting != nil {
		t.Errorf("it is %v", n.Waiting)
	}
}

// A goodbye that nobody confirms is worth a warning while somebody serves on, and not when
// all go at once.
func TestGoodbyeThatNobodyConfirms(t *testing.T) {
	t.Parallel()
	const line = `level=WARN msg="the others may take this leave for a death"`
	_, rigs := newCluster(t, "a", "b")
	for _, r := range rigs {
		r.members.set(func(c *fakeCluster) { c.leaves = errFake })
		_, err := r.client.Leave(t.Context(), LeaveRequest{})
		must(t, err)
		must(t, r.end(t))
		if r == rigs[0] {
			rigs[1].loop.Event(gossip.Dead{Name: "a", Left: true})
		}
	}
	if !strings.Contains(rigs[0].log.String(), line) {
		t.Errorf("b serves on, and a logs %s", rigs[0].log)
	}
	if strings.Contains(rigs[1].log.String(), line) {
		t.Errorf("b is the last, and logs %s", rigs[1].log)
	}
}
