package node

import (
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// passed picks the messages that go to a peer for another, or of another.
func passed(effects []Effect, to string) (found []*Message) {
	for _, e := range effectsOf[Send](effects) {
		if e.To == to && e.Message.For != "" {
			found = append(found, e.Message)
		}
	}
	return found
}

// TestThirdPassesOnOnce what is for a life of a peer that it knows, and nothing else.
func TestThirdPassesOnOnce(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": setOf(16)})
	from, ack := d.incarnation("b"), &Ack{Nonce: 'c', Version: 7}
	takes := func(m Message) []*Message {
		t.Helper()
		m.Ack = ack
		decoded, err := Decode(m.Encode())
		if err != nil {
			t.Fatal(err)
		}
		effects := d.step(Received{decoded})
		if n := len(passed(effects, "b")); n > 0 {
			t.Errorf("%d messages went back", n)
		}
		return passed(effects, "c")
	}
	got := takes(Message{From: from, To: 'c', For: "c", Said: 9, Back: true})
	if len(got) != 1 || got[0].From != from || got[0].To != 'c' || got[0].For != "c" || got[0].Via != "a" || got[0].Said != 9 || !got[0].Back || got[0].Ack == nil {
		t.Errorf("passed on: %+v", got)
	}
	for why, m := range map[string]Message{
		"it was passed on already":   {From: from, To: 'c', For: "c", Via: "x"},
		"it is for an earlier life":  {From: from, To: 'C', For: "c"},
		"it is for any life":         {From: from, For: "c"},
		"its sender is a stranger":   {From: Incarnation{"x", 7}, To: 'c', For: "c"},
		"it is of an earlier life":   {From: Incarnation{"b", 7}, To: 'c', For: "c"},
		"it is for somebody unknown": {From: from, To: 'y', For: "y"},
	} {
		if got := takes(m); len(got) > 0 {
			t.Errorf("passed on though %s: %+v", why, got[0])
		}
	}
}

// calm has the peers answer all that they have left unanswered, and lets the time pass in
// which that matters.
func (d *desk) calm(names ...string) {
	if d.core.open != nil {
		d.commits(nil)
	}
	for range 2 {
		for _, name := range names {
			d.agrees(name)
		}
		d.wait(6 * time.Second)
	}
}

// TestUnansweredGoesThroughOthersInTurn, from the second repetition on, and answers to
// what came through another go back through it.
func TestUnansweredGoesThroughOthersInTurn(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": setOf(16), "d": setOf(16)})
	d.calm("b", "c", "d")
	d.says("c", func(s *Statement) { s.Weight = 20 }) // a new view, which b never acknowledges
	d.agrees("c")
	d.agrees("d")
	retry := d.core.cfg.Timing.Retry
	through := map[string]int{}
	if effects := d.wait(retry + retry/2); len(passed(effects, "c"))+len(passed(effects, "d")) > 0 {
		t.Error("the first repetition goes through others")
	}
	effects := d.wait(2 * retry)
	for _, third := range []string{"c", "d"} {
		for _, m := range passed(effects, third) {
			if m.For != "b" || m.To != 'b' || !m.Back || m.Delta == nil {
				t.Errorf("to %s: %+v", third, m)
			}
			through[third]++
		}
	}
	if through["c"] != 1 || through["d"] != 1 {
		t.Errorf("repetitions went through %v, want one through each", through)
	}
}

// TestAnswersGoBackTheSameWay, if that is wanted, and directly too.
func TestAnswersGoBackTheSameWay(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": setOf(16), "d": setOf(16)})
	d.calm("b", "c", "d")
	request := &Request{ID: 3, Slots: setOf(16, 1)}
	effects := d.tells("b", Message{Request: request, Via: "d"})
	if got := passed(effects, "d"); len(got) > 0 {
		t.Errorf("b has not asked for it, and the answer goes through d: %+v", got[0])
	}
	effects = d.tells("b", Message{Request: request, Via: "d", Back: true})
	if got := passed(effects, "d"); len(got) != 1 || got[0].Refusal == nil || got[0].For != "b" || got[0].Back {
		t.Errorf("the answer through d: %+v", got)
	}
	if got := sent(effects, "b", refusalOf); len(got) != 1 {
		t.Errorf("the answer to b: %+v", got)
	}
}
