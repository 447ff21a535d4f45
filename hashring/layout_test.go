package hashring

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNumberOfBucketsIsBounded(t *testing.T) {
	for _, buckets := range []int{MinBuckets, 17, 1000, 1024, MaxBuckets} {
		if l, err := NewLayout("web", 7, buckets); err != nil || l != (Layout{buckets, 7}) {
			t.Errorf("%d buckets: %v, %v", buckets, l, err)
		}
	}
	for _, buckets := range []int{-1, 0, 15, 16385, 1 << 30} {
		_, err := NewLayout("web", 7, buckets)
		if err == nil {
			t.Errorf("%d buckets: no error", buckets)
			continue
		}
		for _, word := range []string{"spec.buckets", fmt.Sprint(buckets), "16", "16384"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%d buckets: error %q does not say %q", buckets, err, word)
			}
		}
	}
}

func TestSeedComesFromTheClusterNameAndIsNever0(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Draw(t, "name")
		a, errA := NewLayout(name, 0, 1024)
		b, errB := NewLayout(name, 0, 64)
		if errA != nil || errB != nil || a.Seed == 0 || a.Seed != b.Seed {
			t.Fatalf("seeds %#x and %#x, errors %v, %v", a.Seed, b.Seed, errA, errB)
		}
	})
	// Two agents of different builds must agree: these never change.
	for name, want := range map[string]uint32{"web": 0x7c51590c, "": 0x51d8e999} {
		if l, err := NewLayout(name, 0, 1024); err != nil || l.Seed != want {
			t.Errorf("cluster %q: seed %#x (%v), want %#x", name, l.Seed, err, want)
		}
	}
}

func TestIPv4InIPv6CountsAsIPv4(t *testing.T) {
	l := Layout{Buckets: 16384, Seed: 0x1234abcd}
	v4 := netip.MustParseAddr("10.9.0.1")
	if a, b := l.Bucket(v4), l.Bucket(netip.AddrFrom16(v4.As16())); a != b {
		t.Errorf("bucket %d as IPv4, %d inside IPv6", a, b)
	}
}

func BenchmarkBucket(b *testing.B) {
	l := Layout{Buckets: 1024, Seed: 0x1234abcd}
	client := netip.MustParseAddr("10.9.0.1")
	b.ReportAllocs()
	for b.Loop() {
		l.Bucket(client)
	}
}

// TestServicesTimesBucketsIsBounded: the error names both numbers, and the cure.
func TestServicesTimesBucketsIsBounded(t *testing.T) {
	for _, c := range []struct {
		services, buckets int
		want              string
	}{
		{1, 16384, ""}, {16, 1024, ""}, {1024, 16, ""},
		{2, 16384, "spec.services: 2 services (with the default one) of 16384 buckets each (spec.buckets) make 32768, and all together may have at most 16384: set spec.buckets to 8192 or less, on all nodes"},
		{17, 1024, "spec.services: 17 services (with the default one) of 1024 buckets each (spec.buckets) make 17408, and all together may have at most 16384: set spec.buckets to 963 or less, on all nodes"},
		{1025, 16, "spec.services: 1025 services (with the default one) of 16 buckets each (spec.buckets) make 16400, and all together may have at most 16384: name fewer services, at most 1024"},
	} {
		got := ""
		if err := CheckSlots(c.services, c.buckets); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%d services of %d buckets: %q, want %q", c.services, c.buckets, got, c.want)
		}
	}
}
