package hashring

import (
	"net/netip"
	"testing"
)

// What nft's jhash answered on Linux 6.18.
func TestBucketIsTheKernels(t *testing.T) {
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
			t.Errorf("%s seed %#x mod %d: bucket %d, want %d", c.client, c.seed, c.buckets, got, c.want)
		}
	}
}
