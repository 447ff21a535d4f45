package agent

import (
	"testing"
	"time"

	"github.com/peervip/peervip/node"
)

func TestWays(t *testing.T) {
	const ms = node.Time(time.Millisecond)
	w := newWays(Detect{Interval: 20 * time.Millisecond, Misses: 10}) // retries after 50 ms
	sends := func(at node.Time, letter bool, why string) {
		t.Helper()
		if got := w.sent("b", at, true); got != letter {
			t.Errorf("%s: by letter: %t", why, got)
		}
	}
	sends(100*ms, false, "the first")
	sends(110*ms, false, "another, soon after")
	sends(150*ms, true, "the first again, which nobody has answered")
	w.got("b", 160*ms, false)
	sends(170*ms, false, "it answers by gossip")
	w.got("b", 180*ms, true)
	sends(190*ms, true, "it writes letters")
	w.got("b", 200*ms, true)
	sends(200*ms+letterLasts, false, "its letter is long ago")
	w.got("b", 300*ms+letterLasts, false)
	sends(400*ms+letterLasts, false, "gossip is back")
	w.got("b", 410*ms+letterLasts, false)
	if w.sent("b", 420*ms+letterLasts, false) {
		t.Error("an acknowledgement, while nothing waits: by letter")
	}
	sends(900*ms+letterLasts, false, "the first again: an acknowledgement waits for nothing")
	if !w.sent("b", 950*ms+letterLasts, false) {
		t.Error("an acknowledgement, while a message waits: not by letter")
	}
}

// What a peer is to pass on another one answers.
func TestWhatIsPassedOnIsNotAnswered(t *testing.T) {
	delta := &node.Delta{}
	if !answered(&node.Message{Delta: delta}) || answered(&node.Message{Delta: delta, For: "c"}) {
		t.Error("a statement is answered, unless it is for another")
	}
}

// What gossip does not carry goes by letter long before gossip knows: a drain ends.
func TestADrainWhenGossipIsCut(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	s.losing(func(string, *node.Message) bool { return true }) // and nobody is told
	reply, err := rigs[0].client.Wish(t.Context(), WishRequest{Want: node.WantDrain})
	must(t, err)
	if reply.Error != "" {
		t.Fatal(reply.Error)
	}
	rigs[0].phase(t, node.Drained)
	s.settled(t, rigs[1])
}
