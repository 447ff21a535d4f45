package nft

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// TestMain also lets the test binary be the process that a test kills, or that
// lacks a capability.
func TestMain(m *testing.M) {
	switch os.Getenv("PEERVIP_NFT_CHILD") {
	case "owner":
		childOwner()
	case "probe":
		fmt.Println(Probe())
	default:
		goleak.VerifyTestMain(m)
	}
}

// childOwner holds an installed filter that owns every bucket until it is killed.
func childOwner() {
	filter, err := Open()
	if err == nil {
		err = filter.Install(must(Compile(testSpec())))
	}
	if err == nil {
		err = filter.Commit(allBuckets(testSpec(), node.Own))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("serving")
	select {}
}

// child is the test binary in a role of TestMain's.
func child(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "PEERVIP_NFT_CHILD="+role)
	return cmd
}

var (
	vip    = netip.MustParseAddr("10.77.0.100")
	vipMAC = net.HardwareAddr{0x01, 0x00, 0x5e, 0x7f, 0x00, 0x64}
)

const (
	otherMAC   = "01:00:5e:7f:00:65"
	gossipPort = 7946
	beaconPort = 7947
	leaseMark  = 0x7076
)

func testSpec() Spec {
	return Spec{
		Interface:  "eth0",
		ClusterMAC: slices.Clone(vipMAC),
		VIPs:       []netip.Addr{vip},
		Layout:     hashring.Layout{Buckets: 64, Seed: 0x1234abcd},
		Services:   []Service{{Name: "other"}},
		GossipPort: gossipPort,
	}
}

// withEverything has all that a spec can have: lingering, beacons, a lease.
func withEverything(s *Spec) {
	s.ARP = true
	s.Services[0].Linger = LingerAll
	s.BeaconPort, s.Lease, s.LeaseMark = beaconPort, 120*time.Millisecond, leaseMark
}

// clientIn returns an address whose bucket it is.
func clientIn(s Spec, bucket int) netip.Addr {
	for a := clientAddr(0); ; a = a.Next() {
		if s.Layout.Bucket(a) == bucket {
			return a
		}
	}
}

func allBuckets(s Spec, state node.State) []Change {
	changes := make([]Change, s.Layout.Buckets)
	for b := range changes {
		changes[b] = Change{Bucket: b, State: state}
	}
	return changes
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// namespace returns a network namespace of the test's own.
func namespace(t testing.TB, suffix string) *lab.Namespace {
	t.Helper()
	ns, err := lab.NewNamespace(lab.UniquePrefix() + suffix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// run runs a command line, split at spaces, in the namespace.
func run(t testing.TB, ns *lab.Namespace, line string) string {
	t.Helper()
	fields := strings.Fields(line)
	out, err := ns.Run(fields[0], fields[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ip runs each line of an ip batch in the namespace.
func ip(t testing.TB, ns *lab.Namespace, lines ...string) {
	t.Helper()
	for _, line := range lines {
		run(t, ns, "ip "+line)
	}
}

func openIn(ns *lab.Namespace) (f *Filter, err error) {
	err = ns.Do(func() error {
		f, err = Open()
		return err
	})
	return f, err
}

// openFilter returns a filter in the namespace, closed at the test's end.
func openFilter(t testing.TB, ns *lab.Namespace) *Filter {
	t.Helper()
	f, err := openIn(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// installed returns a filter in the namespace with the spec's rules.
func installed(t testing.TB, ns *lab.Namespace, s Spec) *Filter {
	t.Helper()
	rules, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	f := openFilter(t, ns)
	if err := f.Install(rules); err != nil {
		t.Fatal(err)
	}
	return f
}

func commit(t testing.TB, f *Filter, changes ...Change) {
	t.Helper()
	if err := f.Commit(changes); err != nil {
		t.Fatal(err)
	}
}

func counters(t testing.TB, f *Filter) Counters {
	t.Helper()
	c, err := f.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ruleset lists what the kernel of the namespace has.
func ruleset(t testing.TB, ns *lab.Namespace) string {
	t.Helper()
	return run(t, ns, "nft --stateless list ruleset")
}

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}
