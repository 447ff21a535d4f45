package agent

import (
	"bytes"
	"errors"
	"testing"
)

func lettersOf(t testing.TB, cluster string, keys ...byte) *letters {
	t.Helper()
	var ring Keyring
	for _, k := range keys {
		ring = append(ring, bytes.Repeat([]byte{k}, 32))
	}
	l, err := newLetters(cluster, ring)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLetterIsOpenedUnderEveryKey(t *testing.T) {
	message := []byte("a request")
	for name, c := range map[string]struct {
		from, to *letters
		opens    bool
	}{
		"one key":               {lettersOf(t, "web", 1), lettersOf(t, "web", 1), true},
		"the keys are changing": {lettersOf(t, "web", 2, 1), lettersOf(t, "web", 1, 2), true},
		"another key":           {lettersOf(t, "web", 1), lettersOf(t, "web", 2), false},
		"another cluster":       {lettersOf(t, "web", 1), lettersOf(t, "db", 1), false},
		"insecure":              {lettersOf(t, "web"), lettersOf(t, "web"), true},
		"insecure and not":      {lettersOf(t, "web"), lettersOf(t, "web", 1), false},
	} {
		got, err := c.to.open(c.from.seal(message))
		if (err == nil) != c.opens || c.opens && !bytes.Equal(got, message) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestLetterIsWhole(t *testing.T) {
	l := lettersOf(t, "web", 1)
	letter := l.seal([]byte("a request"))
	for i := range letter {
		forged := bytes.Clone(letter)
		forged[i] ^= 1
		if _, err := l.open(forged); err == nil {
			t.Errorf("a letter whose byte %d was changed is opened", i)
		}
		if _, err := l.open(letter[:i]); err == nil {
			t.Errorf("a letter that was cut after %d bytes is opened", i)
		}
	}
	if _, err := l.open([]byte("pvub...")); !errors.Is(err, errNoLetter) {
		t.Errorf("a beacon: %v", err)
	}
}

func FuzzLetter(f *testing.F) {
	l := lettersOf(f, "web", 1)
	f.Add(l.seal([]byte("{}")))
	f.Add([]byte(letterMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		message, err := l.open(b)
		if err == nil && len(message)+letterHead+16 != len(b) {
			t.Errorf("%d bytes of %d", len(message), len(b))
		}
	})
}

// BenchmarkForeignLetter is one that somebody without the key has made.
func BenchmarkForeignLetter(b *testing.B) {
	l, letter := lettersOf(b, "web", 1), lettersOf(b, "web", 2).seal(make([]byte, 180))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.open(letter); err == nil {
			b.Fatal("it was opened")
		}
	}
}
