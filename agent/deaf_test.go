package agent

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peervip/peervip/node"
)

// A silence is deafness if the kernel counts several beacons meanwhile of which none
// came to the sockets, nor waits there.
func TestDeafness(t *testing.T) {
	const ms = time.Millisecond
	detect := node.NewDetect(20*ms, 10)
	fresh := func() *deafness {
		d := &deafness{detect: detect}
		d.hear(0)
		return d
	}
	d := fresh()
	if d.due(39*ms) || !d.due(40*ms) {
		t.Error("the first look is not due after two intervals")
	}
	d.look(40*ms, 100, false)
	if d.due(79*ms) || !d.due(80*ms) {
		t.Error("the second look is not due after two more")
	}
	if d.look(80*ms, 102, false) {
		t.Error("deaf for two beacons")
	}
	if d.look(110*ms, 103, true) {
		t.Error("deaf though something waits")
	}
	if d.look(130*ms, 105, false) || !d.look(150*ms, 106, false) || !d.deaf {
		t.Error("not deaf after three beacons of which none came")
	}
	if d.due(1149*ms) || !d.due(1150*ms) {
		t.Error("the deaf look once a second")
	}
	if d.look(1150*ms, 107, false) || !d.look(2150*ms, 107, false) || d.deaf {
		t.Error("deaf though nothing comes for a second")
	}

	d = fresh()
	d.look(40*ms, 100, false)
	d.hear(60 * ms)
	if d.look(100*ms, 200, false) || d.look(140*ms, 202, false) {
		t.Error("deaf though something was heard between")
	}
	if d.look(160*ms, 1, false) || d.look(180*ms, 3, false) || !d.look(200*ms, 4, false) {
		t.Error("counts that start anew")
	}
	if !d.hear(210*ms) || d.deaf || d.hear(220*ms) {
		t.Error("who hears is not deaf")
	}
	for range 3 {
		d.look(500*ms, 4, false)
	}
	if d.due(1499 * ms) {
		t.Error("where nobody speaks the kernel is asked more than once a second")
	}
}

// Deaf to beacons, not to clients. A node whose own firewall drops beacons
// is silent before the others need to wait for it, says why, and comes back.
func TestDeafByItsOwnFirewall(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	a, b := rigs[0], rigs[1]
	a.line.set(func(l *fakeLine) { l.deaf = true })
	a.problem(t, true, "a firewall or filter of its own keeps them from the agent: let in UDP to port 7947")
	a.phase(t, node.Joining)
	if a.filter.leased() {
		t.Error("a deaf node holds a lease")
	}
	s.settled(t, b)
	a.line.set(func(l *fakeLine) { l.deaf = false })
	a.problem(t, false, "firewall")
	s.settled(t, rigs...)
	eventually(t, func() error {
		if log := a.log.String(); !strings.Contains(log, "giving up all buckets: beacons come to this host") {
			return fmt.Errorf("log: %s", log)
		}
		return nil
	})
}

// What the host's own filter keeps from the agent is not blamed on the switch.
// The kernel has seen the beacons of the wire, the socket has not, and unicast ones come.
func TestAHostsOwnFilterIsNamed(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	a, b := rigs[0], rigs[1]
	var drops atomic.Uint64
	a.loop.beacons.mu.Lock()
	a.loop.beacons.reverseDrops = func() (uint64, error) { return drops.Load(), nil }
	a.loop.beacons.mu.Unlock()
	a.line.set(func(l *fakeLine) { l.unwired = true })
	a.problem(t, true, "beacons come to this host on the wire and a firewall or filter of its own keeps them from the agent")
	a.problem(t, false, "look at its switch port")
	a.problem(t, false, "the switch does not pass frames")
	stop := make(chan struct{})
	var counting sync.WaitGroup
	counting.Go(func() {
		for tick := time.NewTicker(10 * time.Millisecond); ; drops.Add(1) {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	})
	a.problem(t, true, "beacons come to this host on the wire and its rp_filter drops them")
	close(stop)
	counting.Wait()
	a.line.set(func(l *fakeLine) { l.unwired = false })
	a.problem(t, false, "beacons come to this host on the wire")
	s.settled(t, a, b)
}
