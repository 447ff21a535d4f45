package node

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// desk drives one core, of the node "a", by hand: events go in and effects come
// out, and nothing else happens. The test plays the peers and the kernel.
type desk struct {
	t    *testing.T
	core *Core
	now  Time
	said map[string]*Statement // of the peers, as they said it last
}

// promptTiming is that of a node which acts at once on what gets worse.
func promptTiming() Timing {
	t := DefaultTiming(200 * ms)
	t.Gather = 0
	return t
}

// newDesk returns a node that has been started on a sound wire and has not heard
// from anybody yet.
func newDesk(t *testing.T, configure ...func(*Config)) *desk {
	cfg := Config{
		Incarnation: Incarnation{"a", 1}, Weight: 100, Buckets: 16,
		Services: []Service{{Name: "web"}}, SpecDigest: 1, SpecRevision: 1,
		Timing: promptTiming(),
	}
	for _, f := range configure {
		f(&cfg)
	}
	d := &desk{t: t, core: New(cfg), now: time.Second, said: map[string]*Statement{}}
	d.step(Started{})
	d.step(FlowsFound{Live: cfg.newSet()})
	d.step(WireChanged{OK: true, Forwards: true})
	return d
}

// activeDesk returns a node that serves beside the peers named, which hold what
// claims says, by name; all know each other's view.
func activeDesk(t *testing.T, claims map[string]hashring.Set, configure ...func(*Config)) *desk {
	d := newDesk(t, configure...)
	for _, name := range sortedKeys(claims) {
		d.alive(name)
		d.says(name, func(s *Statement) { s.Claims = claims[name].Clone() })
	}
	d.step(SeedsTried{})
	for _, name := range sortedKeys(claims) {
		d.acks(name)
	}
	d.wait(6 * time.Second) // for those who start alone
	d.step(Attached{})
	if d.core.phase != Active {
		t.Fatalf("the node is %s: %s", d.core.phase, d.core.mayServe())
	}
	for _, name := range sortedKeys(claims) {
		d.agrees(name)
	}
	return d
}

func (d *desk) step(ev Event) []Effect {
	d.t.Helper()
	effects := d.core.Step(d.now, ev)
	if at := d.core.Deadline(); at <= d.now {
		d.t.Fatalf("at %v, after %T, the core wants to be woken at %v: it would spin", d.now, ev, at)
	}
	return effects
}

// wait lets time pass, with the wake-ups that the core wants.
func (d *desk) wait(span Time) (effects []Effect) {
	d.t.Helper()
	for end := d.now + span; d.now < end; {
		d.now = min(end, d.core.Deadline())
		effects = append(effects, d.step(Tick{})...)
	}
	return effects
}

// alive is gossip's word that the peer is a member. Nonces are the first letter.
func (d *desk) alive(name string) []Effect {
	d.t.Helper()
	return d.step(PeerAlive{Incarnation: d.incarnation(name), SpecDigest: 1, SpecRevision: 1})
}

func (d *desk) incarnation(name string) Incarnation {
	if s := d.said[name]; s != nil {
		return s.Incarnation
	}
	return Incarnation{name, uint64(name[0])}
}

// says publishes the peer's next statement, whole: its last one, changed.
func (d *desk) says(name string, change func(*Statement)) []Effect {
	d.t.Helper()
	next := Statement{
		Incarnation: d.incarnation(name), Phase: Active, Weight: 10,
		Claims: d.core.cfg.newSet(), Linger: d.core.cfg.newSet(),
	}
	if s := d.said[name]; s != nil {
		next = *s
		next.Claims, next.Linger = s.Claims.Clone(), s.Linger.Clone()
	}
	next.Version++
	change(&next)
	d.said[name] = &next
	return d.tells(name, Message{Delta: &Delta{Statement: next}})
}

// agrees makes the peer act on this node's view, and know all it says.
func (d *desk) agrees(name string) (effects []Effect) {
	d.t.Helper()
	for range 3 { // what it says may change what this node says
		effects = append(effects, d.acks(name)...)
		if d.said[name].View == d.core.view.Digest() {
			break
		}
		effects = append(effects, d.says(name, func(s *Statement) { s.View = d.core.view.Digest() })...)
	}
	return effects
}

func (d *desk) acks(name string) []Effect {
	d.t.Helper()
	return d.tells(name, Message{Ack: &Ack{Nonce: d.core.cfg.Nonce, Version: d.core.said.Version}})
}

// tells delivers a message of the peer's to this node. Who asks for slots has got what this
// node says.
func (d *desk) tells(name string, m Message) []Effect {
	d.t.Helper()
	if m.Request != nil {
		d.acks(name)
	}
	m.From, m.To = d.incarnation(name), d.core.cfg.Nonce
	if s := d.said[name]; s != nil && m.Said == 0 {
		m.Said = s.Version
	}
	decoded, err := Decode(m.Encode())
	if err != nil {
		d.t.Fatalf("a message of the test: %v", err)
	}
	return d.step(Received{decoded})
}

// commits lets the kernel carry out the open commit, or refuse it.
func (d *desk) commits(err error) []Effect {
	d.t.Helper()
	if d.core.open == nil {
		d.t.Fatal("no commit is open")
	}
	return d.step(Committed{ID: d.core.open.ID, Err: err})
}

// owned are the buckets of the first service that the placement gives to the node.
func (d *desk) owned(name string) hashring.Set {
	return d.core.places[0].table.Buckets(name)
}

func (d *desk) all() hashring.Set {
	s := d.core.cfg.newSet()
	for i := range s.Cap() {
		s.Add(i)
	}
	return s
}

// sent picks the messages for the peer out of effects, those of one kind, but not those
// that it is to pass on.
func sent[T any](effects []Effect, to string, body func(*Message) *T) (found []*T) {
	for _, e := range effects {
		if s, ok := e.(Send); ok && s.To == to && s.Message.For == "" {
			if b := body(s.Message); b != nil {
				found = append(found, b)
			}
		}
	}
	return found
}

func requestOf(m *Message) *Request { return m.Request }
func grantOf(m *Message) *Grant     { return m.Grant }
func refusalOf(m *Message) *Refusal { return m.Refusal }
func cancelOf(m *Message) *Cancel   { return m.Cancel }
func confirmOf(m *Message) *Confirm { return m.Confirm }
func wishOf(m *Message) *Wish       { return m.Wish }
func verdictOf(m *Message) *Verdict { return m.Verdict }
func deltaOf(m *Message) *Delta     { return m.Delta }

// effectsOf picks the effects of one type.
func effectsOf[T Effect](effects []Effect) (found []T) {
	for _, e := range effects {
		if x, ok := e.(T); ok {
			found = append(found, x)
		}
	}
	return found
}

// setOf is a set of these numbers below n.
func setOf(n int, numbers ...int) hashring.Set {
	s := hashring.NewSet(n)
	for _, i := range numbers {
		s.Add(i)
	}
	return s
}

// first is the lowest number of a set that is not empty.
func first(s hashring.Set) int {
	for i := range s.All() {
		return i
	}
	panic("an empty set has no first number")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
