package gossip

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestFramesKeepWhatTheyCarry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payloads := rapid.SliceOfN(rapid.SliceOf(rapid.Byte()), 1, 5).Draw(t, "payloads")
		kind, got, err := parseFrame(payloadsFrame(payloads...))
		if err != nil || kind != framePayloads || !slices.EqualFunc(got, payloads, bytes.Equal) {
			t.Fatalf("payloads %x: %v %x %v", payloads, kind, got, err)
		}
		name := rapid.StringN(0, 255, 255).Draw(t, "name")
		kind, got, err = parseFrame(append(goodbyeFrame(name, payloads[0]), payloads[0]...))
		if err != nil || kind != frameGoodbye || len(got) != 2 || string(got[0]) != name || !bytes.Equal(got[1], payloads[0]) {
			t.Fatalf("goodbye of %q: %v %q %v", name, kind, got, err)
		}
	})
}

// TestGoodbyeOfAnEarlierVersion has no Meta.
func TestGoodbyeOfAnEarlierVersion(t *testing.T) {
	kind, parts, err := parseFrame([]byte("\x01\x05web-1"))
	if err != nil || kind != frameGoodbye || len(parts) != 1 || string(parts[0]) != "web-1" {
		t.Errorf("%v %q %v", kind, parts, err)
	}
}

func TestBadFramesAreErrors(t *testing.T) {
	for _, b := range [][]byte{
		nil, {0}, {3}, {255, 1, 2}, {1}, {1, 2, 'x'}, {1, 1, 'x', 1}, {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		{2}, {2, 1}, {2, 2, 'x'}, {2, 1, 'x', 0xff}, {2, 0, 0x80},
	} {
		if kind, parts, err := parseFrame(b); err == nil {
			t.Errorf("%x was read as %d %q", b, kind, parts)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(payloadsFrame([]byte("x")))
	f.Add(payloadsFrame([]byte("x"), nil, []byte("yz")))
	f.Add(goodbyeFrame("web-1", []byte("life")))
	f.Add([]byte("\x01\x05web-1"))
	f.Add([]byte{1, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, parts, err := parseFrame(b)
		// A length may be written in more bytes than it needs.
		if err == nil && kind == framePayloads {
			if _, again, err := parseFrame(payloadsFrame(parts...)); err != nil || !slices.EqualFunc(again, parts, bytes.Equal) {
				t.Errorf("%x was read as the payloads %x, and those as %x, %v", b, parts, again, err)
			}
		}
		total := 0
		for _, p := range parts {
			total += len(p) + 1
		}
		if total > len(b) {
			t.Errorf("%d bytes came from %d", total, len(b))
		}
	})
}
