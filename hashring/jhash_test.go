package hashring

import (
	"math"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The vectors that Bob Jenkins' lookup3.c prints for hashlittle(), which the
// kernel's jhash is.
func TestJhashIsLookup3(t *testing.T) {
	for _, c := range []struct {
		key  string
		seed uint32
		want uint32
	}{
		{"", 0, 0xdeadbeef},
		{"", 0xdeadbeef, 0xbd5b7dde},
		{"Four score and seven years ago", 0, 0x17770551},
		{"Four score and seven years ago", 1, 0xcd628161},
	} {
		if got := Jhash([]byte(c.key), c.seed); got != c.want {
			t.Errorf("Jhash(%q, %#x) = %#x, want %#x", c.key, c.seed, got, c.want)
		}
	}
}

// What nft's jhash answered on Linux 6.18.
func TestBucketsThatTheKernelNamed(t *testing.T) {
	for _, c := range []struct {
		client  string
		seed    uint32
		buckets int
		want    int
	}{
		{"10.9.0.1", 0x1234abcd, 64, 15},
		{"10.9.0.2", 0x1234abcd, 64, 10},
		{"10.9.0.7", 0x1234abcd, 64, 50},
		{"10.77.0.101", 0x1234567, 4096, 481},
		{"10.77.0.102", 0x1234567, 4096, 2780},
		{"10.77.0.103", 0x1234567, 4096, 2895},
		{"10.77.0.104", 0x1234567, 4096, 1295},
	} {
		l := Layout{Buckets: c.buckets, Seed: c.seed}
		if got := l.Bucket(netip.MustParseAddr(c.client)); got != c.want {
			t.Errorf("%s, seed %#x, mod %d: bucket %d, want %d", c.client, c.seed, c.buckets, got, c.want)
		}
	}
}

func TestScaleCoversTheRangeInOrder(t *testing.T) {
	for _, n := range []int{1, 16, 1000, 16384} {
		if got := Scale(0, n); got != 0 {
			t.Errorf("Scale(0, %d) = %d", n, got)
		}
		if got := Scale(math.MaxUint32, n); got != n-1 {
			t.Errorf("Scale(max, %d) = %d, want %d", n, got, n-1)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 1<<20).Draw(t, "n")
		a, b := rapid.Uint32().Draw(t, "a"), rapid.Uint32().Draw(t, "b")
		if (a < b) && Scale(a, n) > Scale(b, n) {
			t.Fatalf("Scale(%d, %d) = %d is above Scale(%d, %d) = %d", a, n, Scale(a, n), b, n, Scale(b, n))
		}
	})
}

func BenchmarkJhash(b *testing.B) {
	for _, c := range []struct{ name, key string }{
		{"4 bytes", "\x0a\x09\x00\x01"},
		{"16 bytes", strings.Repeat("\x20\x01", 8)},
	} {
		b.Run(c.name, func(b *testing.B) {
			key := []byte(c.key)
			for b.Loop() {
				Jhash(key, 0x1234abcd)
			}
		})
	}
}
