package node

import (
	"errors"
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
)

// theirs is a cluster of this node and the peers b and c, in which c holds every
// bucket and this node has asked it for its own.
func theirs(t *testing.T, configure ...func(*Config)) (d *desk, asked *Request) {
	d = activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": everything(16)}, configure...)
	for _, r := range d.core.requests {
		asked = &Request{ID: r.id, Slots: r.slots.Clone()}
	}
	if asked == nil || !asked.Slots.Equal(d.owned("a")) {
		t.Fatalf("asked c for %+v, this node should have %v", asked, d.owned("a"))
	}
	return d, asked
}

func everything(n int) hashring.Set {
	s := hashring.NewSet(n)
	for i := range n {
		s.Add(i)
	}
	return s
}

// TestGrantRepeatedWhileTheCommitIsOpen: the heir has taken the buckets, a slow
// commit is open, and it forgets the request: it gives everything up, or holds the
// holder dead for a moment. The grant is repeated. To decline would be to let the
// holder take back what this kernel is about to accept.
func TestGrantRepeatedWhileTheCommitIsOpen(t *testing.T) {
	d, asked := theirs(t)
	grant := Message{Grant: &Grant{ID: asked.ID, Version: 9, Slots: asked.Slots}}
	if got := d.tells("c", grant); len(effectsOf[Commit](got)) != 1 {
		t.Fatal("the grant was not taken")
	}
	d.step(WireChanged{Reason: "carrier lost"})
	if got := sent(d.tells("c", grant), "c", cancelOf); len(got) > 0 {
		t.Errorf("declined %v while a commit that takes them is open", got[0].Slots)
	}
	d.commits(nil) // taken after all, and released at once
	if got := sent(d.tells("c", grant), "c", cancelOf); len(got) > 0 {
		t.Errorf("declined %v while this kernel accepts them", got[0].Slots)
	}
	d.commits(nil)
	if got := sent(d.tells("c", grant), "c", cancelOf); len(got) != 1 || !got[0].Slots.Equal(asked.Slots) {
		t.Errorf("declined %v once they are released, want %v", got, asked.Slots)
	}
}

// TestGrantRepeatedAfterAFalseDeath: the heir held the holder dead for a moment
// and forgot the request, but has the buckets: it must say so, or the holder
// would repeat its grant for ever.
func TestGrantRepeatedAfterAFalseDeath(t *testing.T) {
	d, asked := theirs(t)
	grant := Message{Grant: &Grant{ID: asked.ID, Version: 9, Slots: asked.Slots}}
	d.tells("c", grant)
	d.step(PeerDead{Name: "c"})
	d.alive("c")
	if got := d.tells("c", grant); len(sent(got, "c", cancelOf))+len(sent(got, "c", confirmOf)) > 0 {
		t.Error("answered before the kernel did")
	}
	d.commits(nil)
	got := sent(d.tells("c", grant), "c", confirmOf)
	if len(got) != 1 || !got[0].Slots.Equal(asked.Slots) {
		t.Errorf("confirmed %v, want %v", got, asked.Slots)
	}
}

// TestRepeatedRequestAfterItsGrant: the holder gave the buckets, got them back
// later, and then a copy of the first request comes, and of its confirmation.
// If they were given again the confirmation would make them nobody's.
func TestRepeatedRequestAfterItsGrant(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.commits(nil)
	d.wait(time.Second)
	x := d.owned("a")
	request := Message{Request: &Request{ID: 7, Slots: x}}
	// b is fit and this node is not, so it gives.
	d.step(HealthChanged{Service: 0, Reason: "broken"})
	d.agrees("b")
	d.tells("b", request)
	if got := sent(d.commits(nil), "b", grantOf); len(got) != 1 || !got[0].Slots.Equal(x) {
		t.Fatalf("granted %v, want %v", got, x)
	}
	confirm := Message{Confirm: &Confirm{ID: 7, Slots: x}}
	d.says("b", func(s *Statement) { s.Claims.AddAll(x) })
	d.tells("b", confirm)
	// Fit again, this node asks for its own and gets it.
	d.wait(6 * time.Second)
	effects := d.step(HealthChanged{Service: 0, Fit: true})
	asked := sent(effects, "b", requestOf)
	if len(asked) != 1 {
		t.Fatalf("this node is fit again and asked for %v", asked)
	}
	d.says("b", func(s *Statement) { s.Claims.RemoveAll(x) })
	d.tells("b", Message{Grant: &Grant{ID: asked[0].ID, Version: d.said["b"].Version, Slots: x}})
	d.commits(nil)
	// Unfit once more: by its own judgement it would give to b again.
	d.wait(6 * time.Second)
	d.step(HealthChanged{Service: 0, Reason: "broken"})
	effects = d.tells("b", request)
	if d.core.open != nil {
		t.Error("granted a request for the second time")
	}
	if got := sent(effects, "b", refusalOf); len(got) != 1 || got[0].Reason != InMotion {
		t.Errorf("answered %v, want a refusal: in motion", got)
	}
}

// TestHeirWhoseKernelRefusesLeavesTheBucketsAlone: it refuses for as long as it is asked. Each try
// costs the clients a gap, so while the kernel takes nothing at all there is one try; and
// tries become rare when it takes only commits that change nothing.
func TestHeirWhoseKernelRefusesLeavesTheBucketsAlone(t *testing.T) {
	for probe, most := range map[error]int{errors.New("no memory"): 1, nil: 25} {
		d, asked := theirs(t)
		tries, probes := 0, 0
		for deadline := d.now + 60*time.Second; d.now < deadline; {
			effects := d.tells("c", Message{Grant: &Grant{ID: asked.ID, Version: d.said["c"].Version, Slots: asked.Slots}})
			if len(effectsOf[Commit](effects)) != 1 {
				t.Fatalf("at %v: a grant came and was not committed at once", d.now)
			}
			tries++
			effects = d.commits(errors.New("no memory"))
			if got := sent(effects, "c", cancelOf); len(got) != 1 || !got[0].Slots.Equal(asked.Slots) {
				t.Fatalf("declined %v, want %v", got, asked.Slots)
			}
			asked = nil
			// The holder's statement changes with all this, which invites to ask again.
			effects = d.says("c", func(*Statement) {})
			for asked == nil && d.now < deadline {
				if got := sent(effects, "c", requestOf); len(got) > 0 {
					asked = got[0]
					break
				}
				effects = d.wait(10 * ms)
				if d.core.open != nil {
					if !d.core.open.Probe {
						t.Fatalf("at %v: it commits %v", d.now, d.core.open.Changes)
					}
					probes++
					effects = d.commits(probe)
				}
			}
			if asked == nil {
				break
			}
		}
		if tries < min(3, most) || tries > most || probes < 3 || probes > 75 {
			t.Errorf("probes end with %v: %d probes and %d tries within a minute, want a few", probe, probes, tries)
		}
	}
}

// TestRefusedCommitLeavesNothingToSpinOn: what was to be taken is given back, so
// nothing is due any more, and nothing may ask to be woken for it.
func TestRefusedCommitLeavesNothingToSpinOn(t *testing.T) {
	d, asked := theirs(t)
	d.tells("c", Message{Grant: &Grant{ID: asked.ID, Version: 9, Slots: asked.Slots}})
	d.commits(errors.New("no memory"))
	d.says("c", func(s *Statement) { s.Claims = setOf(16) })
	d.says("b", func(s *Statement) { s.Claims = everything(16) })
	d.wait(10 * time.Second)
}

// TestStrangersAndPastLivesAreNotObeyed: a message must be from the incarnation
// that gossip holds alive, and, about buckets, to this very incarnation.
func TestStrangersAndPastLivesAreNotObeyed(t *testing.T) {
	for name, forge := range map[string]func(*Message){
		"a stranger":                 func(m *Message) { m.From = Incarnation{"x", 3} },
		"an earlier life of a peer":  func(m *Message) { m.From.Nonce-- },
		"to an earlier life of ours": func(m *Message) { m.To = 99 },
		"to nobody in particular":    func(m *Message) { m.To = 0 },
		"another layout":             func(m *Message) { m.Grant.Slots = setOf(17, m.Grant.Slots.Count()) },
	} {
		d, asked := theirs(t)
		m := Message{
			From: d.incarnation("c"), To: 1,
			Grant: &Grant{ID: asked.ID, Version: 9, Slots: asked.Slots},
		}
		forge(&m)
		d.step(Received{&m})
		if !d.core.want.Empty() || d.core.open != nil {
			t.Errorf("%s: the grant was taken", name)
		}
	}
}

// TestPromiseForgottenBeforeTheCommit: the holder held this node dead for a moment
// and shows its promise no more when the heir's kernel has come so far. Nothing
// must be left waiting for it.
func TestPromiseForgottenBeforeTheCommit(t *testing.T) {
	d, asked := theirs(t)
	d.says("c", func(s *Statement) {
		s.Claims.RemoveAll(asked.Slots)
		s.Granted = []Promise{{To: KeyOf(d.core.cfg.Incarnation), ID: asked.ID, Slots: asked.Slots}}
	})
	d.tells("c", Message{Grant: &Grant{ID: asked.ID, Version: d.said["c"].Version, Slots: asked.Slots}})
	d.says("c", func(s *Statement) { s.Granted = nil })
	d.commits(nil)
	if len(d.core.requests) > 0 {
		t.Errorf("%d requests are remembered", len(d.core.requests))
	}
}

// TestGrantRepeatedAfterAFalseDeathAndGivenOn: the heir held the holder dead for a
// moment, its confirmation was lost to that, and it has given the buckets on. The
// holder must not be told to take them back.
func TestGrantRepeatedAfterAFalseDeathAndGivenOn(t *testing.T) {
	d, asked := theirs(t)
	grant := Message{Grant: &Grant{ID: asked.ID, Version: 9, Slots: asked.Slots}}
	d.tells("c", grant)
	d.step(PeerDead{Name: "c"})
	d.commits(nil)
	d.step(HealthChanged{Service: 0, Reason: "broken"})
	d.tells("b", Message{Request: &Request{ID: 1, Slots: d.core.kernel.Clone()}})
	d.commits(nil)
	if !d.core.kernel.Empty() {
		t.Fatalf("still accepts %v", d.core.kernel)
	}
	d.alive("c")
	effects := d.tells("c", grant)
	if got := sent(effects, "c", cancelOf); len(got) > 0 {
		t.Errorf("declined %v", got[0].Slots)
	}
	if got := sent(effects, "c", confirmOf); len(got) != 1 || !got[0].Slots.Equal(asked.Slots) {
		t.Errorf("confirmed %v, want %v", got, asked.Slots)
	}
}

// TestGrantOvertakesTheStatementsThatShowIt: what the holder says it claims is old
// news until then, and no double claim.
func TestGrantOvertakesTheStatementsThatShowIt(t *testing.T) {
	d, asked := theirs(t)
	d.tells("c", Message{Grant: &Grant{ID: asked.ID, Version: d.said["c"].Version + 2, Slots: asked.Slots}})
	for range 2 {
		if d.core.doubles.open() || d.core.claimed().Intersects(asked.Slots) {
			t.Errorf("c is believed to claim %v", d.core.claimed())
		}
		d.says("c", func(*Statement) {})
	}
	// The statement that should show it does not: then it is true.
	if !d.core.claimed().Intersects(asked.Slots) {
		t.Error("c is never believed again")
	}
}

// TestHeirDiesWithTheGrant: what was released for it is nobody's now, to be taken in
// agreement, as the others take it; what was not is kept.
func TestHeirDiesWithTheGrant(t *testing.T) {
	for name, released := range map[string]bool{"released": true, "not released": false} {
		d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": setOf(16)})
		d.commits(nil)
		d.step(HealthChanged{Service: 0, Reason: "broken"})
		d.agrees("b")
		d.agrees("c")
		x := d.core.kernel.Clone()
		d.tells("b", Message{Request: &Request{ID: 1, Slots: x}})
		if released {
			d.commits(nil)
		}
		d.step(PeerDead{Name: "b"})
		if kept := x.Equal(d.core.want); kept == released || !kept && !d.core.want.Empty() {
			t.Errorf("%s: %v is wanted, of %v", name, d.core.want, x)
		}
	}
}

// TestOpenCommitIsNotDeclined: while the kernel may be about to accept buckets,
// nothing that happens may tell their holder that they are free.
func TestOpenCommitIsNotDeclined(t *testing.T) {
	silence := func(c *Config) { c.DropUnhealthy = true }
	for name, happens := range map[string]func(*desk){
		"nobody is fit any more": func(d *desk) {
			d.step(HealthChanged{Service: 0, Reason: "broken"})
			for _, name := range []string{"b", "c"} {
				d.says(name, func(s *Statement) { s.Unfit = []int{0} })
			}
		},
		"another claims them too": func(d *desk) {
			d.step(Wished{Wish: Wish{Node: "a", Want: WantDrain}})
			d.says("b", func(s *Statement) { s.Claims = everything(16) })
			d.agrees("b")
			d.agrees("c")
			d.wait(time.Second)
		},
	} {
		d, asked := theirs(t, silence)
		d.tells("c", Message{Grant: &Grant{ID: asked.ID, Version: 9, Slots: asked.Slots}})
		happens(d)
		cancelled := false
		for _, r := range d.core.requests {
			cancelled = cancelled || !r.taken.Equal(asked.Slots)
		}
		if cancelled || len(d.core.requests) == 0 || !asked.Slots.Equal(d.core.openSlots) {
			t.Errorf("%s: the request is forgotten before its commit", name)
		}
	}
}

// TestPromiseForgottenBeforeTheRefusal: part of a request is granted and confirmed,
// the refusal of the rest comes last. Then nothing is left to remember.
func TestPromiseForgottenBeforeTheRefusal(t *testing.T) {
	d, asked := theirs(t)
	rest := setOf(16, first(asked.Slots))
	given := asked.Slots.Clone()
	given.RemoveAll(rest)
	d.says("c", func(s *Statement) {
		s.Claims.RemoveAll(given)
		s.Granted = []Promise{{To: KeyOf(d.core.cfg.Incarnation), ID: asked.ID, Slots: given}}
	})
	d.tells("c", Message{Grant: &Grant{ID: asked.ID, Version: d.said["c"].Version, Slots: given}})
	d.commits(nil)
	d.says("c", func(s *Statement) { s.Granted = nil })
	d.tells("c", Message{Refusal: &Refusal{ID: asked.ID, Reason: NotYours, Slots: rest}})
	if len(d.core.requests) > 0 {
		t.Errorf("%d requests are remembered", len(d.core.requests))
	}
}

// TestRefusalAfterTheStatementThatLiftsIt: the request came before the statement that
// shows whose the buckets are now, and was refused; the holder's next statement comes
// before its refusal. There is nothing more to wait for.
func TestRefusalAfterTheStatementThatLiftsIt(t *testing.T) {
	d, asked := theirs(t)
	refusal := Refusal{ID: asked.ID, Reason: NotYours, Slots: asked.Slots}
	old := d.said["c"].Version
	d.says("c", func(*Statement) {})
	got := sent(d.tells("c", Message{Said: old, Refusal: &refusal}), "c", requestOf)
	if len(got) != 1 || !got[0].Slots.Equal(asked.Slots) {
		t.Fatalf("after a refusal that is older than the holder's statement it asked for %v", got)
	}
	// Refused as of that statement, it waits for the next one, or for long.
	refusal.ID = got[0].ID
	effects := d.tells("c", Message{Refusal: &refusal})
	if effects = append(effects, d.wait(100*ms)...); len(sent(effects, "c", requestOf)) > 0 {
		t.Error("asked again, and nothing has changed")
	}
	if got := sent(d.says("c", func(*Statement) {}), "c", requestOf); len(got) != 1 {
		t.Errorf("after the holder's next statement it asked for %v", got)
	}
}
