package node

import (
	"fmt"
	"testing"
	"time"
)

// briefPair are two nodes that speak format 2 to each other through the codec, each with a
// clock of its own.
type briefPair struct {
	t      *testing.T
	codec  *BeaconCodec
	now    Time
	a, b   *briefVoice
	detect Detect
}

type briefVoice struct {
	*Liveness
	origin Time
	number Seq
}

func newBriefPair(t *testing.T, detect Detect) *briefPair {
	return &briefPair{
		t: t, codec: NewBeaconCodec("web", nil), now: time.Hour, detect: detect,
		a: &briefVoice{Liveness: NewLiveness(Incarnation{"a", 1}, detect), origin: 1234567 * time.Millisecond},
		b: &briefVoice{Liveness: NewLiveness(Incarnation{"b", 2}, detect), origin: -7 * time.Minute},
	}
}

// say returns the voice's next beacon.
func (p *briefPair) say(v *briefVoice) []byte {
	p.t.Helper()
	now := p.now + v.origin
	b := &Beacon{Incarnation: v.self, Format: 2, Unit: p.detect.unit(), Seq: p.detect.numberAt(now, v.number), Phase: Active, Weight: 10, Peers: v.AppendAcks(nil, now)}
	v.condense(now, b)
	v.number = b.Seq
	v.sent.add(b.Seq)
	datagram, err := p.codec.Append(nil, b)
	if err != nil {
		p.t.Fatal(err)
	}
	return datagram
}

func (p *briefPair) read(datagram []byte) *Beacon {
	p.t.Helper()
	var b Beacon
	if err := p.codec.Decode(&b, datagram); err != nil {
		p.t.Fatal(err)
	}
	return &b
}

func (p *briefPair) hear(v *briefVoice, datagram []byte) HearingKind {
	return v.Hear(p.now+v.origin, Wire, p.read(datagram)).Kind
}

// round has both speak and hear each other, and an interval pass. It returns what b said.
func (p *briefPair) round() (ofB []byte) {
	ofA := p.say(p.a)
	p.hear(p.b, ofA)
	p.now += p.detect.Interval / 2
	ofB = p.say(p.b)
	p.hear(p.a, ofB)
	p.now += p.detect.Interval / 2
	return ofB
}

// TestWholeUntilBothKnow: at a first meeting entries are whole, then short, but for one in turn.
func TestWholeUntilBothKnow(t *testing.T) {
	for _, detect := range []Detect{NewDetect(20*mil, 10), NewDetect(5*mil, 8), NewDetect(10*time.Second, 1000), NewDetect(time.Second, 20)} {
		p := newBriefPair(t, detect)
		var kinds []string
		for i := range 12 {
			b := p.read(p.round())
			if i > 4 && len(b.Peers)+len(b.Brief) != 1 {
				t.Fatalf("entries: %+v", b)
			}
			kinds = append(kinds, fmt.Sprint(len(b.Peers)))
		}
		if p.detect.D > window(p.detect.unit())/8 {
			t.Errorf("%v x %v: a window is %v", detect.Interval, detect.D, window(p.detect.unit()))
		}
		if p.a.MarkUntil(p.now+p.a.origin) <= p.now+p.a.origin || !p.a.Alive(p.b.self) {
			t.Errorf("%v: not proven; whole entries of b: %v", detect.Interval, kinds)
		}
	}
}

// short has the pair speak until a beacon of b has the entry of a in short.
func (p *briefPair) short() []byte {
	p.t.Helper()
	p.a.Know(p.now+p.a.origin, Incarnation{"c", 3})
	p.b.Know(p.now+p.b.origin, Incarnation{"c", 3})
	c := &Beacon{Incarnation: Incarnation{"c", 3}, Phase: Active, Weight: 10}
	for range 20 {
		// Somebody else takes the turn of the whole entry now and then.
		c.Seq = SeqAt(p.now)
		p.a.Hear(p.now+p.a.origin, Wire, c)
		p.b.Hear(p.now+p.b.origin, Wire, c)
		datagram := p.round()
		if b := p.read(datagram); len(b.Brief) > 0 && b.Brief[0].Key == p.a.key.Brief() {
			return datagram
		}
	}
	p.t.Fatal("b never writes the entry of a in short")
	return nil
}

// TestShortNumbersAreExact: what a short entry says is what a whole one would.
func TestShortNumbersAreExact(t *testing.T) {
	p := newBriefPair(t, NewDetect(20*mil, 10))
	for range 3000 { // a minute, so that short numbers begin anew
		p.round()
		n := p.a.find(p.b.self)
		if n.acked != p.a.number && p.now > time.Hour+100*mil {
			t.Fatalf("b has heard %d, and a takes it for %d", p.a.number, n.acked)
		}
	}
}

// A node may not be deceived by a short number that means another beacon of it than the one
// that was heard: those of recordings, of beacons that were held up, and of machines that
// stood still with their clocks are worth nothing.
func TestARecordedShortNumberProvesNothing(t *testing.T) {
	detect := NewDetect(20*mil, 10)
	w := window(detect.unit())
	for name, gap := range map[string]Time{"a window": w, "two windows": 2 * w, "half a window": w / 2, "a little less": w - 30*mil, "a third": w / 3} {
		t.Run(name, func(t *testing.T) {
			p := newBriefPair(t, detect)
			p.a.Know(p.now+p.a.origin, p.b.self) // so that it is not forgotten
			p.short()
			kept := p.say(p.b) // a does not get it
			for len(p.read(kept).Brief) == 0 || p.read(kept).Brief[0].Key != p.a.key.Brief() {
				kept = p.say(p.b)
			}
			p.b.origin -= gap // nor does b know that time passes
			steps := int(gap / detect.Interval)
			for i := range steps { // a stays awake, and alone
				p.now += gap / Time(steps)
				if i%3 == 0 {
					p.a.Changes(p.now + p.a.origin)
					p.a.sent.add(SeqAt(p.now + p.a.origin))
				}
				p.a.wake(p.now + p.a.origin)
			}
			if kind := p.hear(p.a, kept); kind == HeardFresh || kind == HeardRestarted {
				t.Errorf("a recording counts as %v", kind)
			}
			if until := p.a.proofUntil(p.now+p.a.origin, detect.D); until > p.now+p.a.origin && p.a.find(p.b.self).proven.Time() > p.now+p.a.origin-detect.A {
				t.Error("a recording proves that b has heard a")
			}
			for range 100 { // they come together again all the same
				p.round()
			}
			if !p.a.Alive(p.b.self) || p.a.find(p.b.self).acked != p.a.number {
				t.Error("a does not hear b any more")
			}
		})
	}
}

// TestEqualShortKeys: two whose short keys are equal have whole entries, and a third who
// knows both takes a short one for neither.
func TestEqualShortKeys(t *testing.T) {
	twins := map[BriefKey]Incarnation{}
	var one, other Incarnation
	for nonce := uint64(1); other.Nonce == 0; nonce++ {
		inc := Incarnation{"n", nonce}
		if before, ok := twins[KeyOf(inc).Brief()]; ok {
			one, other = before, inc
		}
		twins[KeyOf(inc).Brief()] = inc
	}
	one.Name, other.Name = "n", "n"
	now := Time(time.Hour)
	l := NewLiveness(Incarnation{"me", 1}, liveDetect)
	for _, inc := range []Incarnation{one, other} {
		l.Know(now, inc)
	}
	l.Hear(now, Wire, &Beacon{Incarnation: one, Seq: SeqAt(now), Phase: Active, Weight: 10, Peers: []PeerAck{{Key: l.key, Seq: SeqAt(now), Flags: AckHeard}}})
	third := Incarnation{"third", 9}
	brief := &Beacon{Incarnation: third, Format: 2, Unit: liveDetect.unit(), Seq: SeqAt(now), Phase: Active, Weight: 10,
		Peers: []PeerAck{{Key: l.key, Seq: SeqAt(now), Flags: AckHeard | AckAlive}},
		Brief: []BriefAck{{Key: KeyOf(one).Brief(), Number: 99, Flags: AckHeard | AckAlive | AckServing}},
	}
	if kind := l.Hear(now, Wire, brief).Kind; kind != HeardFresh {
		t.Fatal(kind)
	}
	if l.Alive(other) || len(l.hearOthers(now)) > 0 {
		t.Errorf("%+v", l.Status(now))
	}
	for range 10 {
		now += 20 * mil
		b := &Beacon{Incarnation: l.self, Format: 2, Unit: liveDetect.unit(), Seq: SeqAt(now), Weight: 10, Peers: l.AppendAcks(nil, now)}
		l.condense(now, b)
		for _, p := range b.Brief {
			if p.Key == KeyOf(one).Brief() {
				t.Fatalf("one of the two is short: %+v", b)
			}
		}
		if _, err := NewBeaconCodec("web", nil).Append(nil, b); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMyShortKeyIsAnothersToo: a short entry with this node's short key is of neither.
func TestMyShortKeyIsAnothersToo(t *testing.T) {
	mine := KeyOf(Incarnation{"me", 1}).Brief()
	twin := Incarnation{Name: "twin", Nonce: 1}
	for KeyOf(twin).Brief() != mine {
		twin.Nonce++
	}
	p := newBriefPair(t, liveDetect)
	p.a = &briefVoice{Liveness: NewLiveness(Incarnation{"me", 1}, liveDetect)}
	for range 10 {
		p.round()
	}
	p.a.Know(p.now+p.a.origin, twin)
	n := p.a.find(p.b.self)
	before := n.acked
	b := &Beacon{Incarnation: p.b.self, Format: 2, Unit: liveDetect.unit(), Seq: p.detect.numberAt(p.now+p.b.origin, p.b.number), Phase: Active, Weight: 10,
		Brief: []BriefAck{{Key: mine, Number: uint16(SeqAt(p.now+p.a.origin) >> liveDetect.unit()), Flags: AckHeard | AckDead}}}
	h := p.a.Hear(p.now+p.a.origin, Wire, b)
	if h.Yield || n.acked != before || n.me != 0 {
		t.Errorf("%+v, acknowledged %d after %d", h, n.acked, before)
	}
}

// TestNumbersNeverShareAUnit: of beacons that leave closely together too, and none is of the
// future.
func TestNumbersNeverShareAUnit(t *testing.T) {
	d := NewDetect(20*mil, 10)
	last, now := Seq(0), Time(time.Millisecond)
	for i := range 5000 {
		seq := d.numberAt(now, last)
		if seq.Time() > now || seq < last || seq == last && i%4 < 3 && now > 10*mil {
			t.Fatalf("at %v %d after %d", now, seq, last)
		}
		if late := now - seq.Time(); now > 10*mil && late > d.Interval/5 {
			t.Fatalf("at %v it is %v old", now, late)
		}
		last = seq
		if i%4 == 3 {
			now += 19*mil + Time(i)*time.Microsecond
		} else {
			now += 5 * time.Microsecond
		}
	}
}

// TestAcknowledgedUpTo: what was acknowledged reaches to right before the next beacon.
func TestAcknowledgedUpTo(t *testing.T) {
	var s sentNumbers
	for i := range 50 {
		s.add(Seq(1000 * (i + 1)))
	}
	for acked, want := range map[Seq]Seq{0: 0, 50000: 50999, 49000: 49999, 19000: 19999, 18000: 18000, 49500: 49500} {
		if got := s.until(acked, 51000); got != want {
			t.Errorf("%d: up to %d, want %d", acked, got, want)
		}
	}
}

// TestManyMeetAtOnce: where more want whole entries than a beacon has, they take turns, and
// all know each other soon.
func TestManyMeetAtOnce(t *testing.T) {
	w := newLiveWorld(1, maxWhole+8, NewDetect(20*mil, 10), 2)
	w.run(1500 * mil)
	if err := w.healthy(); err != nil {
		t.Error(err)
	}
	if w.doubles > 0 || w.falseDeaths > 0 {
		t.Errorf("%d verdicts over a lease, %d false deaths", w.doubles, w.falseDeaths)
	}
	for _, n := range w.nodes {
		if whole := len(n.got.Peers); whole > 1 { // of the last beacon that it heard
			t.Errorf("a beacon of %s still has %d whole entries", n.got.Name, whole)
		}
	}
	w.forget()
	w.lossy(0.3, nil)
	w.run(4 * time.Second)
	if w.doubles > 0 || w.falseDeaths > 0 || w.pauses > 3*len(w.nodes) {
		t.Errorf("where 30 %% is lost: %d verdicts over a lease, %d false deaths, %d pauses", w.doubles, w.falseDeaths, w.pauses)
	}
	t.Logf("%d pauses in 2.5 s at 30 %% loss", w.pauses)
}
