package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/peervip/peervip/node/health"
)

var compareAddr = cmpopts.EquateComparable(netip.Addr{})

func exampleSpec() Spec {
	return Spec{
		Revision: 3, VIPs: []netip.Addr{netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("192.0.2.101")},
		MAC: "multicast", Buckets: 1024, Seed: 7, Detect: Detect{Interval: 20 * time.Millisecond, Misses: 10},
		DrainTimeout: 5 * time.Minute, WhenNoneHealthy: ServeAnyway,
		Services: []Service{{Name: OtherService, Affinity: AffinityClient, Mode: ModeShared, Linger: LingerTCP,
			Health: []health.Check{{Type: health.TCP, Target: "127.0.0.1:80"}}}},
	}
}

// The text goes through a hash to the peers: it must not change by accident, nor by a field
// that a later version adds and that nobody sets.
func TestSpecCanonical(t *testing.T) {
	want := `spec.vips: "[192.0.2.100 192.0.2.101]"
spec.seed: "7"
`
	s := exampleSpec()
	if diff := cmp.Diff(want, s.Canonical()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	s.MAC, s.Buckets, s.Seed, s.Detect, s.WhenNoneHealthy = "unicast", 64, 8, Detect{Interval: time.Second, Misses: 9}, DropAll
	s.Services = []Service{{Name: "web", Affinity: "port", Mode: ModeSingle, Preempt: true, Linger: LingerNone}, s.Services[0]}
	want = `spec.vips: "[192.0.2.100 192.0.2.101]"
spec.mac: "unicast"
spec.buckets: "64"
spec.seed: "8"
spec.detect.interval: "1s"
spec.detect.misses: "9"
spec.when_none_healthy: "drop"
spec.services: "[other web]"
spec.services[web].affinity: "port"
spec.services[web].mode: "single"
spec.services[web].preempt: "true"
spec.services[web].linger: "none"
`
	if diff := cmp.Diff(want, s.Canonical()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if digest := s.Digest(); len(digest) != 16 || strings.Trim(digest, "0123456789abcdef") != "" {
		t.Errorf("digest %q", digest)
	}
}

func TestSpecDiff(t *testing.T) {
	web := Service{Name: "web", Affinity: AffinityClient, Mode: ModeShared, Linger: LingerTCP}
	for _, test := range []struct {
		name   string
		change func(*Spec)
		want   []string
	}{
		{"the same", func(s *Spec) {}, nil},
		{"another revision is not another spec", func(s *Spec) { s.Revision++ }, nil},
		{"drain_timeout is each node's own", func(s *Spec) { s.DrainTimeout = 0 }, nil},
		{"health checks are each node's own", func(s *Spec) { s.Services[0].Health = nil }, nil},
		{"vips", func(s *Spec) { s.VIPs = s.VIPs[:1] }, []string{"spec.vips: [192.0.2.100 192.0.2.101] here, [192.0.2.100] there"}},
		{"the first VIP is special", func(s *Spec) { slices.Reverse(s.VIPs) }, []string{"spec.vips: [192.0.2.100 192.0.2.101] here, [192.0.2.101 192.0.2.100] there"}},
		{"mac", func(s *Spec) { s.MAC = "unicast" }, []string{"spec.mac: multicast here, unicast there"}},
		{"buckets and seed", func(s *Spec) { s.Buckets, s.Seed = 512, 0 }, []string{"spec.buckets: 1024 here, 512 there", "spec.seed: 7 here, 0 there"}},
		{"detect", func(s *Spec) { s.Detect = Detect{50 * time.Millisecond, 8} }, []string{"spec.detect.interval: 20ms here, 50ms there", "spec.detect.misses: 10 here, 8 there"}},
		{"when_none_healthy", func(s *Spec) { s.WhenNoneHealthy = DropAll }, []string{"spec.when_none_healthy: serve here, drop there"}},
		{"linger", func(s *Spec) { s.Services[0].Linger = LingerNone }, []string{"spec.services[other].linger: tcp here, none there"}},
		{"another service: its name is enough", func(s *Spec) { s.Services = append(s.Services, web) }, []string{"spec.services: [other] here, [other web] there"}},
		{"nothing at all", func(s *Spec) { *s = Spec{} }, []string{
			"spec.vips: [192.0.2.100 192.0.2.101] here, [] there", "spec.mac: multicast here,  there", "spec.buckets: 1024 here, 0 there",
			"spec.seed: 7 here, 0 there", "spec.detect.interval: 20ms here, 0s there", "spec.detect.misses: 10 here, 0 there",
			"spec.when_none_healthy: serve here,  there", "spec.services: [other] here, [] there"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			here, there := exampleSpec(), exampleSpec()
			test.change(&there)
			if diff := cmp.Diff(test.want, here.Diff(there)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if same := here.Digest() == there.Digest(); same != (test.want == nil) {
				t.Errorf("same digest: %v", same)
			}
		})
	}
	a, b := exampleSpec(), exampleSpec()
	a.Services = append(a.Services, web)
	b.Services = append([]Service{web}, b.Services...)
	if diff := a.Diff(b); diff != nil || a.Digest() != b.Digest() {
		t.Errorf("the order of services matters: %v", diff)
	}
}

func genSpec() *rapid.Generator[Spec] {
	return rapid.Custom(func(t *rapid.T) Spec {
		s := Spec{
			Revision: rapid.IntRange(1, 3).Draw(t, "revision"),
			MAC:      rapid.SampledFrom([]string{"multicast", "unicast", "02:bf:01:02:03:04"}).Draw(t, "mac"),
			Buckets:  rapid.SampledFrom([]int{16, 1024, 16384}).Draw(t, "buckets"),
			Seed:     rapid.SampledFrom([]uint32{0, 1, 1<<32 - 1}).Draw(t, "seed"),
			Detect: Detect{Interval: time.Duration(rapid.IntRange(5, 6).Draw(t, "interval")) * time.Millisecond,
				Misses: rapid.IntRange(8, 9).Draw(t, "misses")},
			DrainTimeout:    time.Duration(rapid.Int64Range(0, 1<<60).Draw(t, "drain")),
			WhenNoneHealthy: rapid.SampledFrom([]NoneHealthy{ServeAnyway, DropAll}).Draw(t, "none"),
		}
		for range rapid.IntRange(1, 3).Draw(t, "vips") {
			s.VIPs = append(s.VIPs, netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "vip")}))
		}
		for _, name := range []string{OtherService, "web", "dns"}[:rapid.IntRange(1, 3).Draw(t, "services")] {
			s.Services = append(s.Services, Service{Name: name, Affinity: AffinityClient, Mode: ModeShared,
				Linger: rapid.SampledFrom([]Linger{LingerTCP, LingerAll, LingerNone}).Draw(t, "linger")})
		}
		return s
	})
}

func TestSpecTravelsAsJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSpec().Draw(t, "spec")
		s.Services[0].Health = []health.Check{{Type: health.TCP, Target: "secret.example.org:1"}}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "secret") {
			t.Fatalf("a health check travels: %s", text)
		}
		var back Spec
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, back, compareAddr, cmpopts.IgnoreFields(Service{}, "Health")); diff != "" {
			t.Fatalf("(-sent +received)\n%s", diff)
		}
		if s.Digest() != back.Digest() {
			t.Fatal("another digest after the journey")
		}
	})
}

func TestSpecsAgreeInTextDigestAndDiffAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genSpec().Draw(t, "a"), genSpec().Draw(t, "b")
		same := a.Canonical() == b.Canonical()
		if d := a.Diff(b); (d == nil) != same {
			t.Fatalf("canonical text equal: %v, but diff %v", same, d)
		}
		if (a.Digest() == b.Digest()) != same {
			t.Fatalf("canonical text equal: %v, digests %s and %s", same, a.Digest(), b.Digest())
		}
		if (b.Diff(a) == nil) != same {
			t.Fatal("diff is not symmetric")
		}
	})
}

func TestDetectValidate(t *testing.T) {
	ms := time.Millisecond
	for _, test := range []struct {
		detect Detect
		tick   time.Duration
		want   string
	}{
		{Detect{20 * ms, 10}, 10 * ms, ""},
		{Detect{50 * ms, 8}, 10 * ms, ""},
		{Detect{5 * ms, 12}, 10 * ms, ""},
		{Detect{6 * ms, 10}, 10 * ms, ""},
		{Detect{8 * ms, 8}, 10 * ms, ""},
		{Detect{5 * ms, 8}, 4 * ms, ""},
		{Detect{5 * ms, 8}, 1 * ms, ""},
		{Detect{10 * time.Second, 1000}, 10 * ms, ""},
		{Detect{5 * ms, 11}, 10 * ms, "misses: 11 of 5ms make a lease of 33ms: want at least 35ms, the interval and 3 ticks of this kernel's clock of 10ms, or the lease runs out between two beacons: raise misses to 12, or interval"},
		{Detect{7 * ms, 8}, 10 * ms, "misses: 8 of 7ms make a lease of 33.6ms: want at least 37ms, the interval and 3 ticks of this kernel's clock of 10ms, or the lease runs out between two beacons: raise misses to 9, or interval"},
		{Detect{4 * ms, 100}, 10 * ms, "interval: 4ms: want 5ms to 10s"},
		{Detect{11 * time.Second, 10}, 10 * ms, "interval: 11s: want 5ms to 10s"},
		{Detect{20 * ms, 7}, 10 * ms, "misses: 7: want 8 to 1000 (with fewer, a few lost beacons pause a node or pass for its death)"},
		{Detect{20 * ms, 1001}, 10 * ms, "misses: 1001: want 8 to 1000 (with fewer, a few lost beacons pause a node or pass for its death)"},
		{Detect{}, 10 * ms, "interval: 0s: want 5ms to 10s\nmisses: 0: want 8 to 1000 (with fewer, a few lost beacons pause a node or pass for its death)"},
		{Detect{-20 * ms, 10}, 10 * ms, "interval: -20ms: want 5ms to 10s"},
	} {
		got := ""
		if err := test.detect.Validate(test.tick); err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%+v (-want +got)\n%s", test.detect, diff)
		}
	}
}

// Section "lease": a lease is gone before the peers may take over, and lives from
// one beacon to the next although the kernel cuts it to whole ticks. The cure
// that an error names is the smallest that works.
func TestDetectLeavesRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Detect{time.Duration(rapid.Int64Range(int64(4*time.Millisecond), int64(12*time.Second)).Draw(t, "interval")), rapid.IntRange(7, 1001).Draw(t, "misses")}
		tick := time.Duration(rapid.SampledFrom([]int64{1, 4, 10}).Draw(t, "tick")) * time.Millisecond
		err := d.Validate(tick)
		if err == nil {
			if left := d.Time() - d.AckAge() - d.Lease(); left < d.Time()/10 || left < 4*time.Millisecond {
				t.Fatalf("A %v + L %v leave %v of D %v", d.AckAge(), d.Lease(), left, d.Time())
			}
			if d.Lease() < d.Interval+3*tick {
				t.Fatalf("lease %v with an interval of %v", d.Lease(), d.Interval)
			}
			return
		}
		if _, cure, ok := strings.Cut(err.Error(), "raise misses to "); ok {
			cured := d
			if _, err := fmt.Sscanf(cure, "%d", &cured.Misses); err != nil {
				t.Fatal(err)
			}
			if cured.Misses <= d.Misses || cured.Validate(tick) != nil {
				t.Fatalf("%+v: the cure %d does not cure: %v", d, cured.Misses, cured.Validate(tick))
			}
			cured.Misses--
			if cured.Validate(tick) == nil {
				t.Fatalf("%+v: %d would have been enough", d, cured.Misses)
			}
		}
	})
}

func TestKeysDoNotPrint(t *testing.T) {
	c := Config{Keys: Keyring{[]byte(strings.Repeat("S", 32)), []byte(strings.Repeat("T", 32))}}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{fmt.Sprint(c), fmt.Sprintf("%v", c), fmt.Sprintf("%+v", c), fmt.Sprint(c.Keys), string(text)} {
		if strings.Contains(printed, "83 83") || strings.Contains(printed, "SSSS") || strings.Contains(printed, "U1NT") {
			t.Errorf("the key is in %s", printed)
		}
		if !strings.Contains(printed, "2 keys") {
			t.Errorf("%s does not tell the number of keys", printed)
		}
	}
}

// The tick is what a timer of the kernel shows, one of the few that kernels are
// built with.
func TestKernelTick(t *testing.T) {
	tick, err := KernelTick()
	if err != nil {
		t.Fatal(err)
	}
	hz := time.Second / tick
	if hz < 100 || hz > 1000 {
		t.Errorf("tick %v: %d Hz", tick, hz)
	}
}
