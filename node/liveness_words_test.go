package node

import "testing"

// wordsRig are nodes whose beacons all pass, and of which it can be said which have whose
// newest statement.
type wordsRig struct {
	now     Time
	heralds map[string]*Herald
	order   []string
	version map[string]uint64
}

func newWordsRig(names ...string) *wordsRig {
	r := &wordsRig{now: 1e9, heralds: map[string]*Herald{}, order: names, version: map[string]uint64{}}
	for _, name := range names {
		r.heralds[name] = NewHerald(Incarnation{name, uint64(name[0])}, simDetect, simTick)
		r.version[name] = 1
	}
	return r
}

// run lets time pass; passes says which statements arrive.
func (r *wordsRig) run(span Time, passes func(from, to string) bool) (last map[string]Heralded) {
	last = map[string]Heralded{}
	for end := r.now + span; r.now < end; r.now += simDetect.Interval {
		for _, from := range r.order {
			h := r.heralds[from]
			h.Say(r.now, Bulletin{Phase: Active, Weight: 10, Claims: r.version[from]})
			h.Attend(r.now, true)
			var b Beacon
			if _, ok := h.Beacon(r.now, &b); !ok {
				continue
			}
			for _, to := range r.order {
				if to == from {
					continue
				}
				r.heralds[to].Hear(r.now, Wire, &b)
				if passes(from, to) {
					r.heralds[to].Have(b.Incarnation, b.Claims)
				}
			}
		}
		for _, name := range r.order {
			for _, ev := range r.heralds[name].Events(r.now) {
				if now, ok := ev.(Heralded); ok {
					last[name] = now
				}
			}
		}
	}
	for _, name := range r.order {
		last[name] = r.heralds[name].heralded
	}
	return last
}

// TestWhoseWordsPass: a node finds out by beacons that its statements reach nobody, or that
// it gets none, if the others' pass, and only when there was something to say.
func TestWhoseWordsPass(t *testing.T) {
	all := func(_, _ string) bool { return true }
	for name, c := range map[string]struct {
		passes               func(from, to string) bool
		changed              []string // who has something new to say
		unheeded, uninformed bool     // a
	}{
		"all is well":                 {all, []string{"a", "b", "c"}, false, false},
		"nothing of a, and no news":   {func(from, _ string) bool { return from != "a" }, nil, false, false},
		"nothing of a":                {func(from, _ string) bool { return from != "a" }, []string{"a", "b", "c"}, true, false},
		"nothing of a, to one of two": {func(from, to string) bool { return from != "a" || to == "b" }, []string{"a", "b", "c"}, false, false},
		"nothing to a":                {func(_, to string) bool { return to != "a" }, []string{"a", "b", "c"}, false, true},
		"nothing to a, of one of two": {func(from, to string) bool { return to != "a" || from == "b" }, []string{"a", "b", "c"}, false, false},
		"nothing at all":              {func(_, _ string) bool { return false }, []string{"a", "b", "c"}, false, false},
		"nothing at all, news of a":   {func(_, _ string) bool { return false }, []string{"a"}, false, false},
		"nothing of a nor to it":      {func(from, to string) bool { return from != "a" && to != "a" }, []string{"a", "b", "c"}, true, true},
	} {
		r := newWordsRig("a", "b", "c")
		r.run(5e9, all)
		for _, who := range c.changed {
			r.version[who]++
		}
		got := r.run(wordsLast(simDetect.D)-simDetect.D, c.passes)["a"]
		if got.Unheeded || got.Uninformed {
			t.Errorf("%s: at once: %+v", name, got)
		}
		got = r.run(1e9, c.passes)["a"]
		if got.Unheeded != c.unheeded || got.Uninformed != c.uninformed {
			t.Errorf("%s: unheeded %t, uninformed %t", name, got.Unheeded, got.Uninformed)
		}
		for _, other := range []string{"b", "c"} {
			if now := r.heralds[other].heralded; now.Unheeded || now.Uninformed {
				t.Errorf("%s: %s thinks so of itself: %+v", name, other, now)
			}
		}
		got = r.run(1e9, all)["a"]
		if got.Unheeded || got.Uninformed {
			t.Errorf("%s: all passes again, and %+v", name, got)
		}
	}
	// Of two nobody knows whose fault it is.
	r := newWordsRig("a", "b")
	r.run(5e9, all)
	r.version["a"]++
	r.version["b"]++
	if got := r.run(10e9, func(from, _ string) bool { return from != "a" })["a"]; got.Unheeded || got.Uninformed {
		t.Errorf("of two: %+v", got)
	}
}

// TestDeafnessIsForgottenWithTheNode: of nodes that came and went nothing stays behind in what
// is known of who does not hear whom.
func TestDeafnessIsForgottenWithTheNode(t *testing.T) {
	l := NewLiveness(Incarnation{"a", 1}, simDetect)
	b := Incarnation{"b", 2}
	l.Know(1e9, b)
	for nonce := range uint64(100) {
		c := Incarnation{"c", nonce + 1}
		l.Know(1e9, c)
		l.deafTowards(l.find(b), &PeerAck{Key: KeyOf(c), Flags: AckAlive}, 1e9)
		if n := len(l.find(b).deaf); n != 1 {
			t.Fatalf("after %d lives of c, b is deaf to %d nodes", nonce+1, n)
		}
		l.Forget(c, true)
		l.drop(c)
	}
}
