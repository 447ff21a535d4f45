package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node/link"
)

// host is a network namespace with eth0, 10.77.0.1/24, and a neighbour on its wire.
func host(t *testing.T) (ns, neighbour *lab.Namespace) {
	t.Helper()
	prefix := lab.UniquePrefix()
	make := func(suffix string) *lab.Namespace {
		ns, err := lab.NewNamespace(prefix + suffix)
		must(t, err)
		t.Cleanup(func() {
			if err := ns.Close(); err != nil {
				t.Error(err)
			}
		})
		return ns
	}
	ns, neighbour = make("a"), make("b")
	ip(t, ns, "link add eth0 type veth peer name eth0 netns "+neighbour.Name)
	for ns, addr := range map[*lab.Namespace]string{ns: "10.77.0.1/24", neighbour: "10.77.0.2/24"} {
		ip(t, ns, "addr add "+addr+" dev eth0")
		ip(t, ns, "link set eth0 up")
	}
	return ns, neighbour
}

func ip(t *testing.T, ns *lab.Namespace, line string) {
	t.Helper()
	_, err := ns.Run("ip", strings.Fields(line)...)
	must(t, err)
}

// dropCapabilities is for the calling thread, which nobody uses afterwards.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// Each thing that keeps an agent from running is one line that says what, where
// and the cure, and leaves the host as it was.
func TestRunRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		// prepare makes the fault; it runs in the namespace of the host. What it
		// returns is taken back.
		prepare func(t *testing.T, cfg *Config, ns, neighbour *lab.Namespace) (undo func() error, err error)
		want    string // in the error
	}{
		{"the VIP is the host's own", func(t *testing.T, cfg *Config, ns, _ *lab.Namespace) (func() error, error) {
			ip(t, ns, "addr add 10.77.0.100/24 dev eth0")
			return nil, nil
		}, "spec.vips: 10.77.0.100 is already an address of this host, on eth0: if it is the server's own, share another one; if not, remove it there"},
		{"no capabilities", func(*testing.T, *Config, *lab.Namespace, *lab.Namespace) (func() error, error) {
			return nil, dropCapabilities()
		}, "missing CAP_NET_ADMIN and CAP_NET_RAW: run as root"},
		{"the gossip port is taken", func(_ *testing.T, cfg *Config, _, _ *lab.Namespace) (func() error, error) {
			l, err := net.Listen("tcp", "10.77.0.1:7946")
			if err != nil {
				return nil, err
			}
			return l.Close, nil
		}, "gossip's TCP port 7946 on 10.77.0.1 is taken by another program, perhaps another agent"},
		{"the socket is taken", func(_ *testing.T, cfg *Config, _, _ *lab.Namespace) (func() error, error) {
			s, err := listen(cfg.Socket)
			if err != nil {
				return nil, err
			}
			return s.Close, nil
		}, "control.socket: another agent listens at "},
		{"another agent has the state directory", func(t *testing.T, cfg *Config, _, _ *lab.Namespace) (func() error, error) {
			return lockState(t.Context(), cfg.StateDir)
		}, "is in use by another agent"},
		{"another agent has the packet filter", func(_ *testing.T, cfg *Config, _, _ *lab.Namespace) (func() error, error) {
			f, err := installed(filterSpec(*cfg, must1(hashring.NewLayout(cfg.Cluster, cfg.Spec.Seed, cfg.Spec.Buckets)), must1(link.ParseClusterMAC("multicast", cfg.Spec.VIPs)).HardwareAddr()))
			if err != nil {
				return nil, err
			}
			return f.Close, nil
		}, "another peervip agent runs on this host"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ns, neighbour := host(t)
			cfg := testConfig(t, "a")
			cfg.Address = netip.Addr{}
			cfg.Spec.VIPs = []netip.Addr{netip.MustParseAddr("10.77.0.100")}
			log := &logText{}
			before := ""
			err := ns.Do(func() error {
				undo, err := test.prepare(t, &cfg, ns, neighbour)
				if err != nil {
					t.Error(err)
					return nil
				}
				before = traces(t, ns)
				err = Run(t.Context(), cfg, Options{Log: log.logger()})
				if after := traces(t, ns); after != before {
					t.Errorf("left behind:\n%s\nbefore it was:\n%s", after, before)
				}
				if undo != nil {
					if err := undo(); err != nil {
						t.Error(err)
					}
				}
				return err
			})
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v\nwant one line with: %s", err, test.want)
			}
			missing(t, cfg.Socket)
		})
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// traces is everything that an agent changes on its host.
func traces(t *testing.T, ns *lab.Namespace) string {
	t.Helper()
	var all strings.Builder
	for _, line := range []string{
		"nft list tables", "ip -4 -o addr", "ip -4 maddr show dev eth0",
		"sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.arp_announce net.ipv4.conf.eth0.arp_ignore net.ipv4.conf.eth0.arp_announce",
	} {
		fields := strings.Fields(line)
		out, err := ns.Run(fields[0], fields[1:]...)
		must(t, err)
		fmt.Fprintln(&all, out)
	}
	return all.String()
}

// A second signal while the agent is still starting is no failure.
func TestRunCancelledAtItsStart(t *testing.T) {
	ns, _ := host(t)
	cfg := testConfig(t, "a")
	// It waits for an interface: what a life in the cluster runs beside Run's own goroutine
	// is not in the namespace, and would bring the address up on this host.
	cfg.Interface, cfg.Address = "eth7", netip.Addr{}
	cfg.Spec.VIPs = []netip.Addr{netip.MustParseAddr("10.77.0.100")}
	ctx, cancel := context.WithCancel(t.Context())
	before := traces(t, ns)
	if err := ns.Do(func() error { return Run(ctx, cfg, Options{Log: (&logText{}).logger(), Ready: cancel}) }); err != nil {
		t.Errorf("ended with %v", err)
	}
	if after := traces(t, ns); after != before {
		t.Errorf("left behind:\n%s\nbefore it was:\n%s", after, before)
	}
	missing(t, cfg.Socket)
}

// scriptedWire answers each Probe with the next error.
type scriptedWire struct {
	probes []error
	ups    int
}

func (w *scriptedWire) Probe(context.Context) error {
	err := w.probes[0]
	w.probes = w.probes[1:]
	return err
}

func (w *scriptedWire) Up() error { w.ups++; return nil }

// An address that could not be probed at the start, for the want of a carrier, is
// not brought up before it was; afterwards nobody asks again.
func TestAttachProbesFirst(t *testing.T) {
	w := &scriptedWire{probes: []error{errFake, nil}}
	attach := attaching(w, false)
	if err := attach(t.Context()); !errors.Is(err, errFake) || w.ups != 0 {
		t.Errorf("%v, brought up %d times", err, w.ups)
	}
	for range 2 {
		must(t, attach(t.Context()))
	}
	if w.ups != 2 || len(w.probes) != 0 {
		t.Errorf("brought up %d times, %d probes left", w.ups, len(w.probes))
	}
	w = &scriptedWire{}
	must(t, attaching(w, true)(t.Context()))
}

// installed is the filter as Run installs it.
func installed(spec nft.Spec) (*nft.Filter, error) {
	f, err := guarded(spec)
	if err == nil {
		err = install(f, spec)
	}
	if err != nil && f != nil {
		err = errors.Join(err, f.Close())
	}
	return f, err
}

// The filter that Run installs is the one that the configuration says.
func TestInstall(t *testing.T) {
	ns, _ := host(t)
	cfg := testConfig(t, "a")
	must(t, ns.Do(func() error {
		f, err := installed(filterSpec(cfg, must1(hashring.NewLayout(cfg.Cluster, cfg.Spec.Seed, cfg.Spec.Buckets)), must1(link.ParseClusterMAC("unicast", cfg.Spec.VIPs)).HardwareAddr()))
		if err != nil {
			return err
		}
		if err := f.Commit([]nft.Change{{Bucket: buckets - 1}}); err != nil {
			t.Error(err)
		}
		if err := f.Commit([]nft.Change{{Bucket: buckets}}); err == nil {
			t.Errorf("more than %d buckets", buckets)
		}
		return f.Close()
	}))
	if _, err := installed(filterSpec(cfg, hashring.Layout{Buckets: hashring.MaxBuckets + 1, Seed: 1}, nil)); err == nil {
		t.Error("too many buckets")
	}
}
