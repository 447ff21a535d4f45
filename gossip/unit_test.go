package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func TestFramesKeepWhatTheyCarry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.SliceOf(rapid.Byte()).Draw(t, "payload")
		kind, got, err := parseFrame(payloadFrame(payload))
		if err != nil || kind != framePayload || !bytes.Equal(got, payload) {
			t.Fatalf("payload %x: %v %x %v", payload, kind, got, err)
		}
		name := rapid.StringN(0, 255, 255).Draw(t, "name")
		kind, got, err = parseFrame(append(goodbyeFrame(name), payload...))
		if err != nil || kind != frameGoodbye || string(got) != name {
			t.Fatalf("goodbye of %q: %v %q %v", name, kind, got, err)
		}
	})
}

func TestBadFramesAreErrors(t *testing.T) {
	for _, b := range [][]byte{nil, {2}, {255, 1, 2}, {1}, {1, 2, 'x'}, {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}} {
		if kind, rest, err := parseFrame(b); err == nil {
			t.Errorf("%x was read as %d %q", b, kind, rest)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(payloadFrame([]byte("x")))
	f.Add(goodbyeFrame("web-1"))
	f.Add([]byte{1, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, rest, err := parseFrame(b)
		if err == nil && kind == framePayload && !bytes.Equal(payloadFrame(rest), b) {
			t.Errorf("%x was read as the payload %x", b, rest)
		}
		if len(rest) > len(b) {
			t.Errorf("%d bytes came from %d", len(rest), len(b))
		}
	})
}

func TestTimingFollowsFromDetection(t *testing.T) {
	want := timing{probe: 100 * time.Millisecond, probeTimeout: 40 * time.Millisecond, gossip: 20 * time.Millisecond}
	if got := timingFor(DefaultDetection); got != want {
		t.Errorf("timing is %+v, want the measured %+v", got, want)
	}
	for _, d := range []time.Duration{minDetection, maxDetection} {
		got := timingFor(d)
		if got.gossip <= 0 || got.probeTimeout >= got.probe {
			t.Errorf("%s: %+v: the timeout must be below the interval", d, got)
		}
	}
}

func TestMemberlistsLogIsClassified(t *testing.T) {
	for _, test := range []struct {
		line string
		want trouble
		text string
	}{
		{"[ERR] memberlist: failed to receive: no installed keys could decrypt the message from=192.0.2.1:5\n", otherKey,
			"failed to receive: no installed keys could decrypt the message from=192.0.2.1:5"},
		{"[ERR] memberlist: failed to receive: encryption is configured but remote state is not encrypted from=192.0.2.1:5\n", otherKey,
			"failed to receive: encryption is configured but remote state is not encrypted from=192.0.2.1:5"},
		{"[ERR] memberlist: failed to receive: remote state is encrypted and encryption is not configured from=192.0.2.1:5\n", otherKey,
			"failed to receive: remote state is encrypted and encryption is not configured from=192.0.2.1:5"},
		{"[ERR] memberlist: Decrypt packet failed: unsupported encryption version 7 from=192.0.2.1:5\n", otherKey,
			"Decrypt packet failed: unsupported encryption version 7 from=192.0.2.1:5"},
		{"[DEBUG] memberlist: failed to join 192.0.2.1:7946: no installed keys could decrypt the message\n", noTrouble,
			"failed to join 192.0.2.1:7946: no installed keys could decrypt the message"},
		{"[ERR] memberlist: discarding packet with unacceptable label \"web\": from=192.0.2.1:5\n", otherCluster,
			"discarding packet with unacceptable label \"web\": from=192.0.2.1:5"},
		{"[WARN] memberlist: Was able to connect to n2 over TCP but UDP probes failed, network may be misconfigured\n", onlyStreams,
			"Was able to connect to n2 over TCP but UDP probes failed, network may be misconfigured"},
		{"[WARN] memberlist: handler queue full, dropping message (8) from=192.0.2.1:5\n", queueFull,
			"handler queue full, dropping message (8) from=192.0.2.1:5"},
		{"[INFO] memberlist: Suspect n2 has failed, no acks received\n", noTrouble, "Suspect n2 has failed, no acks received"},
		{"Err: Could not set the deadline: x", noTrouble, "Err: Could not set the deadline: x"},
		{"", noTrouble, ""},
		{"[", noTrouble, "["},
	} {
		if got, text := classify(test.line); got != test.want || text != test.text {
			t.Errorf("%q is %d %q, want %d %q", test.line, got, text, test.want, test.text)
		}
	}
}

func TestRepeatedTroubleIsOneLineAMinute(t *testing.T) {
	var out logBuffer
	now := time.Unix(1000, 0)
	l := newLimitedLog(slog.New(slog.NewTextHandler(&out, nil)))
	l.now = func() time.Time { return now }
	for range 5 {
		l.limited(slog.LevelWarn, "trouble")
		l.limited(slog.LevelWarn, "other trouble")
		now = now.Add(time.Second)
	}
	if a, b := out.lines(`msg=trouble`), out.lines(`msg="other trouble"`); len(a) != 1 || len(b) != 1 {
		t.Errorf("logged %q and %q, want one line each", a, b)
	}
	now = now.Add(logEvery)
	l.limited(slog.LevelWarn, "trouble")
	if got := out.lines("and_before=4"); len(got) != 1 {
		t.Errorf("the second line does not count the silent ones: %q", out.lines("msg=trouble"))
	}
}

// tableTest is a table whose clock the test moves.
type tableTest struct {
	*table
	*recorder
	clock time.Time
}

func newTableTest(known ...Peer) *tableTest {
	tt := &tableTest{recorder: &recorder{}, clock: time.Unix(1000, 0)}
	tt.table = newTable("self", known, tt.recorder.Event)
	tt.now = func() time.Time { return tt.clock }
	return tt
}

func at(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 7946)
}

func TestAGoodbyeMakesALeave(t *testing.T) {
	a := Member{Name: "a", Addr: at(1)}
	for _, test := range []struct {
		name string
		do   func(*tableTest)
		want []Event
	}{
		{"before the end", func(tt *tableTest) { tt.goodbye("a"); tt.gone("a") }, []Event{Alive{a}, Dead{"a", true}}},
		{"after the end", func(tt *tableTest) { tt.gone("a"); tt.goodbye("a") }, []Event{Alive{a}, Dead{"a", false}, Dead{"a", true}}},
		{"twice", func(tt *tableTest) { tt.goodbye("a"); tt.gone("a"); tt.goodbye("a") }, []Event{Alive{a}, Dead{"a", true}}},
		{"none", func(tt *tableTest) { tt.gone("a"); tt.gone("a") }, []Event{Alive{a}, Dead{"a", false}}},
		{"of an earlier life", func(tt *tableTest) { tt.goodbye("a"); tt.joined(a); tt.gone("a") }, []Event{Alive{a}, Alive{a}, Dead{"a", false}}},
		{"long ago", func(tt *tableTest) {
			tt.goodbye("a")
			tt.clock = tt.clock.Add(goodbyeCounts)
			tt.gone("a")
		}, []Event{Alive{a}, Dead{"a", false}}},
		{"of a stranger", func(tt *tableTest) { tt.goodbye("b"); tt.gone("b") }, []Event{Alive{a}}},
		{"after the close", func(tt *tableTest) { tt.table.close(); tt.gone("a"); tt.goodbye("a") }, []Event{Alive{a}}},
	} {
		tt := newTableTest()
		tt.joined(a)
		test.do(tt)
		if diff := cmp.Diff(test.want, tt.all(), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestTheTableKnowsWhomToTryAgain(t *testing.T) {
	tt := newTableTest(Peer{"self", at(9)}, Peer{"old", at(1)}, Peer{"broken", netip.AddrPort{}}, Peer{"renamed", at(2)})
	tt.joined(Member{Name: "self", Addr: at(9)})
	tt.joined(Member{Name: "new", Addr: at(2)}) // which was renamed's address
	tt.joined(Member{Name: "left", Addr: at(3)})
	tt.joined(Member{Name: "died", Addr: at(4)})
	tt.goodbye("left")
	tt.gone("left")
	tt.gone("died")
	equal := cmpopts.EquateComparable(netip.AddrPort{})
	if diff := cmp.Diff([]Peer{{"died", at(4)}, {"old", at(1)}}, tt.lost(), equal); diff != "" {
		t.Errorf("lost (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Peer{{"died", at(4)}, {"new", at(2)}, {"old", at(1)}}, tt.known(), equal); diff != "" {
		t.Errorf("known (-want +got):\n%s", diff)
	}
	if tt.alone() || len(tt.lonely) != 0 {
		t.Error("alone with a member")
	}
	tt.gone("new")
	if !tt.alone() || len(tt.lonely) != 1 {
		t.Error("not alone without members")
	}
	tt.joined(Member{Name: "died", Addr: at(5)})
	if diff := cmp.Diff([]Peer{{"new", at(2)}, {"old", at(1)}}, tt.lost(), equal); diff != "" {
		t.Errorf("lost after the dead one came back (-want +got):\n%s", diff)
	}
}

func TestTheLongestLostAreForgotten(t *testing.T) {
	tt := newTableTest(Peer{"oldest", at(1)})
	for i := range maxKnown {
		name := fmt.Sprint(i)
		tt.joined(Member{Name: name, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)})
		tt.clock = tt.clock.Add(time.Second)
		tt.gone(name)
	}
	lost := tt.lost()
	if len(lost) != maxKnown {
		t.Errorf("%d are remembered, want %d", len(lost), maxKnown)
	}
	for _, p := range lost {
		if p.Name == "oldest" {
			t.Error("the longest lost is remembered, so another is not")
		}
	}
}

// postbox takes what senders deliver; one peer's deliveries can be held up.
type postbox struct {
	held map[string]chan struct{}
	mu   sync.Mutex
	got  map[string][]string
}

func (p *postbox) deliver(to string, l letter) {
	if wait := p.held[to]; wait != nil {
		<-wait
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got[to] = append(p.got[to], string(l.frame))
	if l.done != nil {
		close(l.done)
	}
}

func (p *postbox) of(to string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got[to]
}

func TestSendersKeepOrderAndDropTheOldest(t *testing.T) {
	checkLeaks(t)
	hold := make(chan struct{})
	box := &postbox{held: map[string]chan struct{}{"slow": hold}, got: make(map[string][]string)}
	s := newSenders(box.deliver)
	send := func(to string, i int) bool { return s.put(to, letter{frame: []byte(fmt.Sprint(i))}) }

	send("slow", 0)
	eventually(t, "the first is under way", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.queues["slow"]) == 0
	})
	const extra = 3
	for i := 1; i <= queueLength+extra; i++ {
		if dropped := send("slow", i); dropped != (i > queueLength) {
			t.Errorf("letter %d: dropped = %v", i, dropped)
		}
	}
	// The one that is held up delays nobody.
	for i := range 10 {
		send("fast", i)
	}
	eventually(t, "the other peer gets all", func() bool { return len(box.of("fast")) == 10 })
	if len(box.of("slow")) != 0 {
		t.Error("the held peer got something")
	}
	done := make(chan struct{})
	s.put("slow", letter{frame: []byte("bye"), done: done})
	close(hold)
	<-done
	want := []string{"0"}
	for i := extra + 2; i <= queueLength+extra; i++ { // one more went for the goodbye
		want = append(want, fmt.Sprint(i))
	}
	if diff := cmp.Diff(append(want, "bye"), box.of("slow")); diff != "" {
		t.Errorf("the slow peer got (-want +got):\n%s", diff)
	}
	s.close()
	if send("fast", 1); len(s.queues) != 0 {
		t.Errorf("queues after close: %v", s.queues)
	}
	late := make(chan struct{})
	s.put("fast", letter{done: late})
	<-late // a goodbye after close does not wait for ever
}

func TestSeedsAreRead(t *testing.T) {
	for _, test := range []struct {
		seed, host string
		port       uint16
	}{
		{"192.0.2.1", "192.0.2.1", 7946},
		{"192.0.2.1:80", "192.0.2.1", 80},
		{"web-2", "web-2", 7946},
		{"web-2.example.com:7947", "web-2.example.com", 7947},
		{"2001:db8::1", "2001:db8::1", 7946},
		{"[2001:db8::1]", "2001:db8::1", 7946},
		{"[2001:db8::1]:80", "2001:db8::1", 80},
	} {
		host, port, err := splitSeed(test.seed, 7946)
		if err != nil || host != test.host || port != test.port {
			t.Errorf("%q is %q %d %v, want %q %d", test.seed, host, port, err, test.host, test.port)
		}
	}
	for _, bad := range []string{"", ":", ":80", "web:", "web:0", "web:65536", "web:http", "a:b:c", "[::1", "[web]", "[192.0.2.1]", "x/192.0.2.1", "two words"} {
		if host, port, err := splitSeed(bad, 7946); err == nil {
			t.Errorf("%q was read as %q %d", bad, host, port)
		}
	}
}

func TestSeedErrorsAreOneLineAndMatch(t *testing.T) {
	err := error(SeedErrors{
		{"web-2", fmt.Errorf("%w (x)", ErrWrongKey)},
		{"web-3", errors.New("nothing listens there")},
	})
	if got, want := err.Error(), "web-2: the node there has another cluster key (x); web-3: nothing listens there"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !errors.Is(err, ErrWrongKey) || errors.Is(err, ErrNameTaken) {
		t.Error("does not match as it should")
	}
	var one *SeedError
	if !errors.As(err, &one) || !strings.HasPrefix(one.Seed, "web-") {
		t.Errorf("no SeedError inside: %v", one)
	}
}
