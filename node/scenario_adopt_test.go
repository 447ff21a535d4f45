package node

import (
	"testing"
	"time"
)

// TestFlowsInAChainOfHandoffs is invariant 4: n0 gives buckets to n1, n2 and n3, and n1,
// which lingers, gives them on to n2 or n3, and so on. What n1 says of itself comes to n3
// late, so of n1's flows n3 knows by the grant alone.
func TestFlowsInAChainOfHandoffs(t *testing.T) {
	scenario(t, 4, func(t *testing.T, w *world) {
		w.strictFlows = true
		w.intercept = func(from, to *simNode, m *Message) fate {
			return fate{lost: from.index == 1 && to.index == 3 && m.Delta != nil}
		}
		w.clients(2*ms, 1500*ms)
		w.wish(w.nodes[0], Wish{Node: "n0", Want: WantDrain})
		w.run(1500 * ms)
		w.wish(w.nodes[0], Wish{Node: "n1", Want: WantDrain})
		w.run(500 * ms)
		w.wish(w.nodes[0], Wish{Node: "n2", Want: WantDrain})
		w.run(500 * ms)
		if w.resets > 0 {
			t.Errorf("%d flows were reset", w.resets)
		}
	})
}

// TestFlowsOfTwoThatRestartAtOnce is invariant 4: while n0 is away with its flows n1 goes
// too, and is back first. What n2 gives it then may have flows of n0.
func TestFlowsOfTwoThatRestartAtOnce(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.strictFlows = true
		w.clients(2*ms, time.Second)
		w.run(time.Second)
		w.step(w.nodes[0], Leave{KeepFlows: true})
		w.run(300 * ms)
		w.step(w.nodes[1], Leave{KeepFlows: true})
		w.run(300 * ms)
		w.start(w.nodes[1])
		w.run(1500 * ms)
		w.start(w.nodes[0])
		w.run(3 * time.Second)
		if n := w.nodes[0].reset; n > 0 {
			t.Errorf("%d flows of n0 were reset", n)
		}
	})
}

// TestFlowsOfARestartThatANewcomerMissed is invariant 4: n0 is away with its flows when
// n1 comes for the first time; then n2 dies, and n1 takes from n2 what n2 had of n0.
func TestFlowsOfARestartThatANewcomerMissed(t *testing.T) {
	scenario(t, 3, func(t *testing.T, w *world) {
		w.gapLimit = 0
		w.strictFlows = true
		w.stop(w.nodes[1], false)
		w.run(3 * time.Second)
		w.clients(2*ms, time.Second)
		w.run(time.Second)
		w.step(w.nodes[0], Leave{KeepFlows: true})
		w.run(300 * ms)
		w.start(w.nodes[1])
		w.run(1500 * ms)
		w.stop(w.nodes[2], false)
		w.run(1500 * ms)
		w.start(w.nodes[0])
		w.run(time.Second)
		w.start(w.nodes[2])
		w.run(3 * time.Second)
		if n := w.nodes[0].reset; n > 0 {
			t.Errorf("%d flows of n0 were reset", n)
		}
	})
}
