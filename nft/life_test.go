package nft

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peervip/peervip/node"
)

func TestCloseLeavesTheHostAsFound(t *testing.T) {
	ns := host(t)
	run(t, ns, "nft add table inet foreign")
	before := ruleset(t, ns)
	f := installed(t, ns, testSpec())
	commit(t, f, Change{Bucket: 1, State: node.Own})
	if err := f.Withdraw(); err != nil {
		t.Fatal(err)
	}
	if got := ruleset(t, ns); !strings.Contains(got, guardName) || strings.Contains(got, "netdev") {
		t.Errorf("after Withdraw the guard alone should be left:\n%s", got)
	}
	if err := f.Commit(nil); !errors.Is(err, ErrGone) {
		t.Errorf("Commit after Withdraw: %v", err)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, ruleset(t, ns)); diff != "" {
		t.Errorf("Close left something:\n%s", diff)
	}
	for name, call := range map[string]func() error{
		"Install":     func() error { return f.Install(Ruleset{}) },
		"Commit":      func() error { return f.Commit(nil) },
		"Counters":    func() error { _, err := f.Counters(); return err },
		"EnsureGuard": func() error { _, err := f.EnsureGuard(); return err },
		"Withdraw":    f.Withdraw,
	} {
		if err := call(); !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

// An agent that is to be started again leaves the guard, and the next one takes it
// over.
func TestAbandonLeavesTheGuard(t *testing.T) {
	ns := host(t)
	before := ruleset(t, ns)
	f := installed(t, ns, testSpec())
	commit(t, f, Change{Bucket: 1, State: node.Own})
	for range 2 {
		if err := f.Abandon(); err != nil {
			t.Fatal(err)
		}
	}
	if got := ruleset(t, ns); !strings.Contains(got, guardName) || strings.Contains(got, "flags owner") {
		t.Errorf("the guard alone should be left:\n%s", got)
	}
	if err := f.Commit(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Commit after Abandon: %v", err)
	}
	if err := installed(t, ns, testSpec()).Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, ruleset(t, ns)); diff != "" {
		t.Errorf("the next life left something:\n%s", diff)
	}
}

func TestBeforeInstallThereIsNothingToUse(t *testing.T) {
	f := openFilter(t, host(t))
	_, countersErr := f.Counters()
	_, guardErr := f.EnsureGuard()
	for _, err := range []error{f.Commit(nil), f.Reinstall(), countersErr, guardErr} {
		if !errors.Is(err, ErrGone) {
			t.Errorf("error %v, want ErrGone", err)
		}
	}
}

// A connection that dies takes the owner tables with it.
func TestCommitSaysThatTheTablesAreGone(t *testing.T) {
	ns := host(t)
	f := must(openIn(ns))
	t.Cleanup(func() { run(t, ns, "nft flush ruleset") })
	if err := f.Install(must(Compile(testSpec()))); err != nil {
		t.Fatal(err)
	}
	if err := f.conn.CloseLasting(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kernel has removed the tables", func() bool { return !strings.Contains(ruleset(t, ns), "flags owner") })
	// The library now opens a connection for each transaction, here in the namespace.
	err := ns.Do(func() error { return f.Commit([]Change{{State: node.Own}}) })
	if !errors.Is(err, ErrGone) {
		t.Errorf("Commit without tables: %v", err)
	}
	if f.State(0, 0) != node.None {
		t.Errorf("bucket 0 is held to be %s", f.State(0, 0))
	}
}

func TestTheSecondAgentIsRefused(t *testing.T) {
	ns := host(t)
	f := installed(t, ns, testSpec())
	commit(t, f, Change{Bucket: 1, State: node.Own})
	before := ruleset(t, ns)
	second := openFilter(t, ns)
	s := testSpec()
	s.VIPs = s.VIPs[:1:1]
	err := second.Install(must(Compile(s)))
	if want := fmt.Sprintf("another peervip agent runs on this host: netlink port %d ", f.port); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, ruleset(t, ns)); diff != "" {
		t.Errorf("the second agent changed the first one's rules:\n%s", diff)
	}
}

// A new agent starts while the kernel still removes the dead one's tables.
func TestInstallWaitsForADeadAgentsTables(t *testing.T) {
	ns := host(t)
	f := installed(t, ns, testSpec())
	second := openFilter(t, ns)
	gone := make(chan error, 1)
	time.AfterFunc(100*time.Millisecond, func() {
		err := f.conn.CloseLasting()
		f.conn = nil
		gone <- err
	})
	if err := second.Install(must(Compile(testSpec()))); err != nil {
		t.Error(err)
	}
	if err := <-gone; err != nil {
		t.Error(err)
	}
	commit(t, second, Change{Bucket: 1, State: node.Own})
}

// Tables of our name that nobody owns, as somebody's `nft -f` of a listing
// leaves them, are replaced.
func TestInstallReplacesTablesWithoutAnOwner(t *testing.T) {
	ns := host(t)
	file := t.TempDir() + "/rules.nft"
	if err := os.WriteFile(file, []byte(must(Compile(testSpec())).String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, ns, "nft -f "+file)
	run(t, ns, "nft add element netdev peervip buckets_other { 5 : goto own_other }")
	f := installed(t, ns, testSpec())
	commit(t, f, Change{Bucket: 5, State: node.Own})
	if got := run(t, ns, "nft list table netdev peervip"); !strings.Contains(got, "flags owner") {
		t.Errorf("the table has no owner:\n%s", got)
	}
}

func TestAForeignFlushLeavesTheRulesAndTheGuardComesBack(t *testing.T) {
	ns := host(t)
	f := installed(t, ns, testSpec())
	commit(t, f, Change{Bucket: 1, State: node.Own})
	before := ruleset(t, ns)
	for _, harm := range []string{
		"nft flush ruleset",
		"nft delete table inet peervip_guard",
		"nft flush chain inet peervip_guard prerouting",
		"nft flush table inet peervip_guard",
		"nft insert rule inet peervip_guard prerouting accept",
		"nft add table inet peervip_guard { flags dormant; }",
	} {
		if restored, err := f.EnsureGuard(); restored || err != nil {
			t.Errorf("before %q: restored %t, error %v", harm, restored, err)
		}
		run(t, ns, harm)
		if got := ruleset(t, ns); got == before || !strings.Contains(got, "1 : goto own_other") {
			t.Errorf("%q left\n%s", harm, got)
		}
		if _, err := f.Counters(); err != nil {
			t.Errorf("after %q: %v", harm, err)
		}
		if restored, err := f.EnsureGuard(); !restored || err != nil {
			t.Errorf("after %q: restored %t, error %v", harm, restored, err)
		}
		if diff := cmp.Diff(before, ruleset(t, ns)); diff != "" {
			t.Errorf("after %q and EnsureGuard:\n%s", harm, diff)
		}
	}
}

// The guard's set of VIPs needs no watching.
func TestTheKernelLetsNobodyChangeTheVIPs(t *testing.T) {
	ns := host(t)
	s := testSpec()
	s.VIPs = append(s.VIPs, clientAddr(0))
	f := installed(t, ns, s)
	for _, harm := range []string{"flush set inet %s %s", "delete set inet %s %s", "delete element inet %s %s { 10.77.0.100 }", "add element inet %s %s { 10.9.9.9 }"} {
		if out, err := ns.Run("nft", fmt.Sprintf(harm, guardName, vipSet)); err == nil {
			t.Errorf(harm+" is allowed: %s", guardName, vipSet, out)
		}
	}
	if restored, err := f.EnsureGuard(); restored || err != nil {
		t.Errorf("restored %t, error %v", restored, err)
	}
}

func TestReinstallAfterTheInterfaceCameBack(t *testing.T) {
	s := testSpec()
	w := newWire(t, 1)
	ns := w.nodes[0]
	f := installed(t, ns, s)
	from := clientAddr(0)
	commit(t, f, allBuckets(s, node.Own)...)
	commit(t, f, Change{Bucket: s.Layout.Bucket(clientAddr(1)), State: node.None})

	ip(t, ns, "link del eth0")
	w.connect(0)
	if err := f.Reinstall(); err != nil {
		t.Fatal(err)
	}
	if got := w.answers(from, 100, soon); got != "0" {
		t.Errorf("after the interface came back the answer is %q", got)
	}
	if got := w.answers(clientAddr(1), 100, never); got != "" {
		t.Errorf("a bucket that is not owned answers %q", got)
	}
	if c := counters(t, f); c.Services[0].Accepted[node.Own].Packets != 1 || c.Services[0].Dropped.Packets != 1 {
		t.Errorf("counted %+v", c.Services[0])
	}
}

// A killed agent takes its tables with it, and the guard then keeps this node
// from answering what others now answer.
func TestAKilledAgentLeavesASilentNode(t *testing.T) {
	w := newWire(t, 1)
	ns := w.nodes[0]
	from := clientAddr(0)
	if got := w.answers(from, 100, soon); got != "0" {
		t.Fatalf("without rules every node answers UDP, this one %q", got) // what the guard is for
	}
	cmd := child("owner")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "serving\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	if udp, tcp, pings := w.answers(from, 100, soon), w.connects(from, soon), w.pings(from, soon); udp != "0" || tcp != "0" || pings != 1 {
		t.Fatalf("a serving node answers UDP %q, TCP %q, %d pings", udp, tcp, pings)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	if err := cmd.Wait(); err == nil {
		t.Fatal("the child ended by itself")
	}
	eventually(t, "the owner tables are gone", func() bool {
		out := ruleset(t, ns)
		return !strings.Contains(out, "table netdev peervip") && !strings.Contains(out, "table inet peervip {")
	})
	t.Logf("the tables were gone %s after the kill", time.Since(killed).Round(time.Millisecond))
	if udp, tcp, pings := w.answers(from, 100, never), w.connects(from, never), w.pings(from, never); udp != "" || tcp != "" || pings != 0 {
		t.Errorf("the guard alone: UDP %q, TCP %q, %d pings answered", udp, tcp, pings)
	}
	if got := w.answers(from, 4000, never); got != "" {
		t.Errorf("the guard alone: a fragmented datagram is answered by %q", got)
	}
	// A restarted agent takes the guard over, and a clean stop removes it.
	f := installed(t, ns, testSpec())
	commit(t, f, allBuckets(testSpec(), node.Own)...)
	if got := w.answers(from, 100, soon); got != "0" {
		t.Errorf("the restarted agent's node answers %q", got)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if left := ruleset(t, ns); left != "" {
		t.Errorf("a clean stop left\n%s", left)
	}
}
