package node

import (
	"testing"

	"github.com/peervip/peervip/hashring"
)

// threeAtRest is a node whose peers b and c know all that it has said.
func threeAtRest(t *testing.T) *desk {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": everything(16)})
	d.agrees("b")
	d.agrees("c")
	return d
}

// received is a message of the peer's as an event.
func (d *desk) received(name string, m Message) Event {
	m.From, m.To = d.incarnation(name), d.core.cfg.Nonce
	m.Said = d.said[name].Version
	return Received{&m}
}

// next is the peer's next statement as an event.
func (d *desk) next(name string, change func(*Statement)) Event {
	s := *d.said[name]
	s.Claims, s.Linger = s.Claims.Clone(), s.Linger.Clone()
	s.Version++
	change(&s)
	d.said[name] = &s
	return d.received(name, Message{Delta: &Delta{Statement: s}})
}

// takesAll lets this node take everything from the peers, which drain.
func (d *desk) takesAll(peers ...string) {
	d.t.Helper()
	for _, name := range peers {
		d.says(name, func(s *Statement) { s.Phase = Draining })
	}
	for range 3 {
		for _, name := range peers {
			d.agrees(name)
		}
	}
	d.wait(d.core.cfg.Timing.Agreement)
	d.commits(nil)
	if !d.core.kernel.Equal(d.all()) {
		d.t.Fatalf("the node has %d of 16 buckets before", d.core.kernel.Count())
	}
}

// TestABatchIsOneStatement: what several peers say at once makes one view, and one
// statement to each of them, which acknowledges what it said.
func TestABatchIsOneStatement(t *testing.T) {
	d := threeAtRest(t)
	before := d.core.said.Version
	got := d.core.Step(d.now,
		d.next("b", func(s *Statement) { s.Weight = 20 }),
		d.next("c", func(s *Statement) { s.Weight = 30 }),
		d.next("b", func(s *Statement) { s.Weight = 25 }),
	)
	if d.core.said.Version != before+1 {
		t.Errorf("the batch has made %d statements, want one", d.core.said.Version-before)
	}
	for _, name := range []string{"b", "c"} {
		if told := sent(got, name, deltaOf); len(told) != 1 || told[0].View != d.core.view.Digest() {
			t.Errorf("%s is told %d statements, want one with the view", name, len(told))
		}
		if acks := sent(got, name, ackOf); len(acks) > 0 {
			t.Errorf("%s gets %d messages that only acknowledge, beside a statement", name, len(acks))
		}
	}
	for _, s := range effectsOf[Send](got) {
		if want := d.said[s.To].Version; s.Message.Delta != nil && s.Message.For == "" && s.Message.Heard != want {
			t.Errorf("%s is told that version %d has come, want %d", s.To, s.Message.Heard, want)
		}
	}
}

// TestARequestIsJudgedByTheNewsThatCameWithIt: a peer says that it has come to serve and
// asks for its share in the same batch; another drains. Nobody is refused for a view that
// is a moment old.
func TestARequestIsJudgedByTheNewsThatCameWithIt(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.commits(nil)
	d.takesAll("b")
	theirs := NewView([]Member{d.core.self(), {Incarnation: d.incarnation("b"), Weight: 10, Phase: Active}}).place(hashring.NewPlacer(16), 1)[0].table.Buckets("b")
	ask := d.received("b", Message{Request: &Request{ID: 1, Slots: theirs}})
	got := d.core.Step(d.now, ask, d.next("b", func(s *Statement) { s.Phase = Active }))
	if refused := sent(got, "b", refusalOf); len(refused) > 0 {
		t.Errorf("refused, since %v", refused[0].Reason)
	}
	if !d.core.promised.Equal(theirs) {
		t.Errorf("%v is promised, want %v", d.core.promised, theirs)
	}
}

// TestOneStatementAtATime: a peer that has not acknowledged a statement is told the next
// when it does, and then all that has changed in one.
func TestOneStatementAtATime(t *testing.T) {
	d := threeAtRest(t)
	first := sent(d.says("c", func(s *Statement) { s.Weight = 20 }), "b", deltaOf)
	if len(first) != 1 {
		t.Fatalf("b is told %d statements, want one", len(first))
	}
	for weight := 21; weight < 25; weight++ {
		if more := sent(d.says("c", func(s *Statement) { s.Weight = weight }), "b", deltaOf); len(more) > 0 {
			t.Fatalf("b is told version %d though it has not acknowledged version %d", more[0].Version, first[0].Version)
		}
	}
	rest := sent(d.tells("b", Message{Ack: &Ack{Nonce: 1, Version: first[0].Version}}), "b", deltaOf)
	if len(rest) != 1 || rest[0].From != first[0].Version || rest[0].View != d.core.view.Digest() {
		t.Errorf("b is told %+v, want one change of version %d to the last", rest, first[0].Version)
	}
}

// TestAGrantWaitsForNoAcknowledgement: whoever is given slots is told the statement that
// shows it first, though it has not acknowledged the last one, and at once.
func TestAGrantWaitsForNoAcknowledgement(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": setOf(16)})
	d.commits(nil)
	d.takesAll("b", "c")
	d.says("b", func(s *Statement) { s.Phase = Active })
	for range 3 {
		d.agrees("b")
		d.agrees("c")
	}
	d.says("c", func(s *Statement) { s.Weight = 20 }) // b is told, and does not answer
	if p := d.core.peers["b"]; p.acked >= p.sent {
		t.Fatal("b has acknowledged everything")
	}
	slots := d.core.kernel.Clone()
	slots.RetainAll(d.owned("b"))
	if slots.Empty() {
		t.Fatal("the node holds nothing of b's")
	}
	d.tells("b", Message{Request: &Request{ID: 1, Slots: slots}})
	var kinds []string
	for _, s := range effectsOf[Send](d.commits(nil)) {
		if s.To == "b" {
			kinds = append(kinds, kindOf(s.Message))
		}
	}
	if len(kinds) != 2 || kinds[0] != "statement" || kinds[1] != "grant" {
		t.Errorf("b is sent %q, want the statement and then the grant", kinds)
	}
}

func ackOf(m *Message) *Ack { return m.Ack }
