package gossip

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestADeathIsNoticed(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(3, quick)
	died := time.Now()
	nodes[2].end()
	for _, n := range nodes[:2] {
		eventually(t, n.cfg.Name+" notices the death", has(n.recorder, deadNamed("n3")))
		t.Logf("%s noticed after %s", n.cfg.Name, time.Since(died).Round(time.Millisecond))
		if has(n.recorder, func(d Dead) bool { return d.Left })() {
			t.Errorf("%s took the death for a leave", n.cfg.Name)
		}
		if diff := cmp.Diff([]string{"n1", "n2"}, names(n)); diff != "" {
			t.Errorf("members (-want +got):\n%s", diff)
		}
		if !slices.ContainsFunc(n.Known(), func(p Peer) bool { return p == Peer{"n3", c.at(3)} }) {
			t.Errorf("%s has forgotten n3: %v", n.cfg.Name, n.Known())
		}
	}
}

// names returns the members and the node itself.
func names(n *testNode) []string {
	all := []string{n.cfg.Name}
	for _, m := range n.Members() {
		all = append(all, m.Name)
	}
	slices.Sort(all)
	return all
}

func TestALeaveIsNoDeath(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(3)
	start := time.Now()
	if err := nodes[2].Leave(context.Background()); err != nil {
		t.Errorf("leaving: %v", err)
	}
	t.Logf("left in %s", time.Since(start).Round(time.Millisecond))
	for _, n := range nodes[:2] {
		eventually(t, n.cfg.Name+" sees the leave", has(n.recorder, func(d Dead) bool { return d == Dead{"n3", true} }))
		if slices.ContainsFunc(n.Known(), func(p Peer) bool { return p.Name == "n3" }) {
			t.Errorf("%s goes on trying n3, which left: %v", n.cfg.Name, n.Known())
		}
	}
	nodes[2].end() // Run ends by itself, without an error
	if err := nodes[2].Leave(context.Background()); err != nil {
		t.Errorf("leaving twice: %v", err)
	}
	if err := nodes[2].Close(); err != nil {
		t.Errorf("closing what left: %v", err)
	}
}

func TestLeaveSendsWhatIsQueued(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(2)
	payload := make([]byte, 50_000) // by TCP
	for i := range 20 {
		nodes[0].Send("n2", append(payload, byte(i)))
	}
	if err := nodes[0].Leave(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		eventually(t, fmt.Sprintf("payload %d arrives", i), has(nodes[1].recorder, func(m Message) bool {
			return len(m.Payload) == len(payload)+1 && m.Payload[len(payload)] == byte(i)
		}))
	}
}

func TestARestartWithinTheDetectionTimeIsSeen(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(3, quick)
	nodes[2].end()
	again := c.config(3)
	again.Meta = []byte("second life")
	c.start(again)
	for _, n := range nodes[:2] {
		eventually(t, n.cfg.Name+" sees the second life", has(n.recorder, func(a Alive) bool {
			return a.Name == "n3" && string(a.Meta) == "second life" && a.Addr == c.at(3)
		}))
	}
}

func TestANodeThatLeftComesBack(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(2, quick)
	if err := nodes[1].Leave(context.Background()); err != nil {
		t.Fatal(err)
	}
	again := c.config(2)
	again.Meta = []byte("second life")
	second := c.start(again)
	eventually(t, "n1 sees the second life", func() bool {
		m, ok := nodes[0].table.member("n2")
		return ok && string(m.Meta) == "second life"
	})
	// Its crash is no leave, whatever its first life said.
	second.end()
	eventually(t, "n1 sees the crash", has(nodes[0].recorder, func(d Dead) bool { return d == Dead{"n2", false} }))
}

func TestACrashedNameComesBackAtAnotherAddress(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(3, quick)
	nodes[2].end()
	again := c.config(3)
	again.Bind = c.at(33)
	again.Meta = []byte("second life")
	second := c.start(again) // refused as a conflict until the death is noticed
	for _, n := range nodes[:2] {
		eventually(t, n.cfg.Name+" sees n3 at its new address", has(n.recorder, func(a Alive) bool {
			return a.Name == "n3" && a.Addr == c.at(33) && string(a.Meta) == "second life"
		}))
	}
	meshed(t, nodes[0], nodes[1], second)
}

func TestNoEventComesAfterClose(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(3)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // keep it busy
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				nodes[1].Send("n1", []byte("x"))
				nodes[0].Send("n2", make([]byte, 10_000))
				time.Sleep(time.Millisecond)
			}
		}
	}()
	eventually(t, "messages flow", has(nodes[0].recorder, func(Message) bool { return true }))
	nodes[0].end()
	count := len(nodes[0].all())
	time.Sleep(50 * time.Millisecond)
	if got := len(nodes[0].all()); got != count {
		t.Errorf("%d events came after Close", got-count)
	}
	close(stop)
	<-done
}
