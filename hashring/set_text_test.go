package hashring

import (
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func setOf(n int, in ...int) Set {
	s := NewSet(n)
	for _, i := range in {
		s.Add(i)
	}
	return s
}

func TestSetTextIsCanonicalAndRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, _ := drawSet(t, "a")
		b, _ := drawSet(t, "b")
		textA, err := a.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		textB, err := b.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if same := a.Equal(b) && a.Cap() == b.Cap(); same != (string(textA) == string(textB)) {
			t.Fatalf("same sets: %v, texts %s and %s", same, textA, textB)
		}
		got := b.Clone() // whatever was there before goes
		if err := got.UnmarshalText(textA); err != nil {
			t.Fatal(err)
		}
		if got.Cap() != a.Cap() || !got.Equal(a) {
			t.Fatalf("%v of %d became %v of %d", a, a.Cap(), got, got.Cap())
		}
	})
}

// The text travels between nodes of different builds: it never changes.
func TestSetTextIsPinned(t *testing.T) {
	for want, s := range map[string]Set{
		b64(0, 0):                               {},
		b64(16, 0):                              NewSet(16),
		b64(16, 1, 0b10000010):                  setOf(16, 9, 15),
		b64(20, 0, 0x01, 0x00, 0x8):             setOf(20, 0, 19),
		b64(0x80, 0x08, 9, 1):                   setOf(1024, 72),
		b64(0x80, 0x80, 0x01, 0xff, 0x0f, 0x80): setOf(MaxSetCap, MaxSetCap-1),
	} {
		if text, err := s.MarshalText(); err != nil || string(text) != want {
			t.Errorf("%v of %d: text %s (%v), want %s", s, s.Cap(), text, err, want)
		}
	}
}

// A sparse set is written by its runs, and full ones too.
func TestShortSetTextIsPinned(t *testing.T) {
	everything := NewSet(1024)
	everything.addRange(0, 1024)
	far := setOf(1024, 3, 100, 101, 102, 600, 1023)
	for want, s := range map[string]Set{
		"~" + b64(0x80, 0x08, 1, 0x0a, 0b00111111, 0b11110000): everything,
		"~gAgEgAGMGvFUwA": far,
	} {
		text, err := s.MarshalText()
		if err != nil || string(text) != want {
			t.Errorf("%v of %d: text %s (%v), want %s", s, s.Cap(), text, err, want)
		}
		old := setEncoding.AppendEncode(nil, s.appendBits(nil))
		if len(text) >= len(old) {
			t.Errorf("%v of %d: %s is no shorter than %s", s, s.Cap(), text, old)
		}
		for _, text := range [][]byte{text, old} { // both are read
			var got Set
			if err := got.UnmarshalText(text); err != nil || got.Cap() != s.Cap() || !got.Equal(s) {
				t.Errorf("%s is read as %v of %d (%v)", text, got, got.Cap(), err)
			}
		}
	}
}

// What a node of many has of all buckets fits many times into a datagram of gossip.
func TestSetTextIsShort(t *testing.T) {
	for _, c := range []struct{ buckets, nodes, most int }{
		{1024, 2, 180}, {1024, 4, 180}, {1024, 16, 90}, {1024, 64, 35}, {16384, 16, 1100}, {16384, 64, 380},
	} {
		s := NewSet(c.buckets)
		for s.Count() < c.buckets/c.nodes {
			s.Add(rand.IntN(c.buckets))
		}
		text, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if t.Logf("%d of %d: %d characters", s.Count(), c.buckets, len(text)); len(text) > c.most {
			t.Errorf("%d of %d take %d characters, want at most %d", s.Count(), c.buckets, len(text), c.most)
		}
	}
}

func b64(raw ...byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

func TestSetTextThatIsNotOneIsRefused(t *testing.T) {
	for what, text := range map[string]string{
		"nothing":                       "",
		"no offset":                     b64(16),
		"capacity cut short":            b64(0x80),
		"offset cut short":              b64(16, 0x80),
		"padded base64":                 b64(16, 0) + "=",
		"a line break":                  "EA\nA",
		"not base64":                    "!!!!",
		"loose bits at the end":         "EAB",
		"capacity above the largest":    b64(0x81, 0x80, 0x01, 0),
		"capacity of 64 bits":           b64(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0),
		"capacity beyond 64 bits":       b64(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0),
		"offset of 64 bits":             b64(16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1),
		"long form of the capacity":     b64(0x90, 0, 0),
		"long form of the offset":       b64(16, 0x80, 0),
		"empty, with an offset":         b64(16, 1),
		"bytes beyond the capacity":     b64(16, 1, 1, 1),
		"a bit at the capacity":         b64(20, 2, 0b00010000),
		"a bit in a set of capacity 0":  b64(0, 0, 1),
		"a bit beyond, at a word's end": b64(63, 7, 0x80),
		"first byte 0":                  b64(16, 0, 0, 1),
		"last byte 0":                   b64(16, 0, 1, 0),
		"runs, and nothing":             "~",
		"runs without a capacity":       "~" + b64(0x80),
		"runs without a number":         "~" + b64(16),
		"runs without parameters":       "~" + b64(0x80, 0x08, 1),
		"runs cut short":                "~" + b64(0x80, 0x08, 1, 0x0a, 0b00111111),
		"runs, and more":                "~" + b64(0x80, 0x08, 1, 0x0a, 0b00111111, 0b11110000, 0),
		"runs, and bits":                "~" + b64(0x80, 0x08, 1, 0x0a, 0b00111111, 0b11110001),
		"runs with other parameters":    "~" + b64(0x80, 0x08, 1, 0x09, 0b01011111, 0b11110000),
		"a run beyond the capacity":     "~" + b64(0x80, 0x08, 1, 0x0a, 0b11111111, 0b11100000),
		"more runs than numbers":        "~" + b64(16, 17, 0, 0, 0, 0, 0, 0),
		"no run":                        "~" + b64(0x80, 0x08, 0, 0),
		"runs that are no shorter":      "~" + b64(16, 1, 0x40, 0b01001000),
		"runs in padded base64":         "~gAgEgAGMGvFUwA=",
		"longer than the largest set":   strings.Repeat("A", 200000),
	} {
		s := setOf(16, 3)
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%s: taken for %v of %d", what, s, s.Cap())
		}
		if s.Cap() != 16 || !slices.Equal(numbers(s), []int{3}) {
			t.Errorf("%s: the refused text left %v of %d", what, s, s.Cap())
		}
	}
}

func TestLargestSetRoundTrips(t *testing.T) {
	s := NewSet(MaxSetCap)
	for i := range MaxSetCap {
		if rand.IntN(2) == 0 {
			s.Add(i)
		}
	}
	s.Add(0)
	s.Add(MaxSetCap - 1)
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var got Set
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if !got.Equal(s) || got.Cap() != s.Cap() {
		t.Error("the largest set changed on the way")
	}
}

func FuzzSetUnmarshalText(f *testing.F) {
	for _, s := range []Set{{}, setOf(16, 3), setOf(1000, 0, 999), setOf(MaxSetCap, MaxSetCap-1)} {
		text, err := s.MarshalText()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(b64(63, 7, 0x80)))
	f.Add([]byte("~gAgEgAGMGvFUwA"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s Set
		if err := s.UnmarshalText(text); err != nil {
			if s.Cap() != 0 {
				t.Fatalf("refused (%v), but the set has capacity %d", err, s.Cap())
			}
			return
		}
		again, err := s.MarshalText()
		bits := setEncoding.AppendEncode(nil, s.appendBits(nil))
		if err != nil || string(again) != string(text) && string(bits) != string(text) {
			t.Fatalf("%q came back as %q (%v)", text, again, err)
		}
		if s.Cap() < 0 || s.Cap() > MaxSetCap || s.CountRange(0, s.Cap()) != s.Count() {
			t.Fatalf("capacity %d, %d numbers, %d of them within", s.Cap(), s.Count(), s.CountRange(0, s.Cap()))
		}
		rebuilt := NewSet(s.Cap())
		for i := range s.All() {
			rebuilt.Add(i)
		}
		if !rebuilt.Equal(s) {
			t.Fatal("numbers beyond the capacity")
		}
	})
}
