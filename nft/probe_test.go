package nft

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProbeFindsEverythingAndLeavesNothing(t *testing.T) {
	ns := namespace(t, "p")
	if err := ns.Do(Probe); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error {
		if !SeesRoutes() {
			return errors.New("the rules cannot ask which addresses are the host's")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if left := ruleset(t, ns); left != "" {
		t.Errorf("the probe left\n%s", left)
	}
}

func TestProbeBesideARunningFilter(t *testing.T) {
	ns := namespace(t, "p")
	ip(t, ns, "link add eth0 type veth peer name eth1")
	installed(t, ns, testSpec())
	before := ruleset(t, ns)
	if err := ns.Do(Probe); err != nil {
		t.Fatal(err)
	}
	if after := ruleset(t, ns); after != before {
		t.Errorf("the probe changed\n%s\nto\n%s", before, after)
	}
}

func TestProbeWithoutTheCapabilitySaysSo(t *testing.T) {
	ns := namespace(t, "p")
	cmd := child("probe")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != ErrNotPermitted.Error() {
		t.Errorf("without a capability: %q, want %q", got, ErrNotPermitted)
	}
}

// A feature that the kernel refuses is named, with the kernel that has it.
func TestProbeNamesAMissingFeature(t *testing.T) {
	ns := namespace(t, "p")
	refused := features[len(features)-1]
	refused.use = probeChain(chain{"c", &hook{forward, 0, "lo"}, nil}) // no such hook in this family
	err := refused.probe(openFilter(t, ns).conn)
	if err == nil {
		t.Fatal("a hook that does not exist is taken")
	}
	err = refused.missing(err)
	var missing *MissingFeature
	if !errors.As(err, &missing) || missing.Kernel != "5.16" || !errors.Is(err, missing.Err) {
		t.Errorf("error %#v", err)
	}
	if left := ruleset(t, ns); left != "" {
		t.Errorf("the probe left\n%s", left)
	}
}

func TestProbeMessages(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{features[len(features)-1].missing(unix.EOPNOTSUPP),
			"the kernel lacks nftables' egress hook: it needs Linux 5.16 or later, built with CONFIG_NF_TABLES_NETDEV and CONFIG_NETFILTER_EGRESS: use a newer or fuller kernel (it answered: operation not supported)"},
		{unusable(unix.EPROTONOSUPPORT),
			"the kernel lacks nftables: it needs Linux 3.13 or later, built with CONFIG_NF_TABLES: use a newer or fuller kernel (it answered: protocol not supported)"},
		{unusable(unix.EPERM), ErrNotPermitted.Error()},
		{features[0].missing(unix.EPERM), ErrNotPermitted.Error()},
	} {
		if got := test.err.Error(); got != test.want {
			t.Errorf("message\n%s, want\n%s", got, test.want)
		}
	}
}
