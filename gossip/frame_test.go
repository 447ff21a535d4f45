package gossip

import (
	"bytes"
	"testing"

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
