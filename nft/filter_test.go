package nft

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// host is a namespace with an interface eth0 and nothing else.
func host(t testing.TB) *lab.Namespace {
	t.Helper()
	ns := namespace(t, "f")
	ip(t, ns, "link add eth0 type veth peer name eth1")
	return ns
}

// kernelStates reads back, from every map, the states that the kernel has.
func kernelStates(t testing.TB, f *Filter) []states {
	t.Helper()
	var all []states
	for _, table := range f.rules.tables {
		for _, m := range table.maps {
			elements, err := f.conn.GetSetElements(m.library(table.library()))
			if err != nil {
				t.Fatal(err)
			}
			found := make([]node.State, m.buckets)
			for _, e := range elements {
				for state, chain := range m.chains {
					if strings.Contains(string(e.Val)+"\x00", chain+"\x00") {
						found[binary.NativeEndian.Uint32(e.Key)] = state
					}
				}
			}
			all = append(all, states{found})
		}
	}
	return all
}

// Whatever the buckets' former states, a commit leaves both maps with what it
// was told, and the filter knowing it.
func TestCommitReachesEveryMapFromAnyState(t *testing.T) {
	f := installed(t, host(t), testSpec())
	rapid.Check(t, func(t *rapid.T) {
		changes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Change {
			return Change{
				Bucket: rapid.IntRange(0, 63).Draw(t, "bucket"),
				State:  node.State(rapid.IntRange(0, int(node.Linger)).Draw(t, "state")),
			}
		}), 0, 100).Draw(t, "changes")
		want := f.committed.after(nil)
		for _, c := range changes {
			want[0][c.Bucket] = c.State
		}
		if err := f.Commit(changes); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, f.committed); diff != "" {
			t.Fatalf("the filter holds for true (-want +got):\n%s", diff)
		}
		for b, state := range want[0] {
			if state == node.Linger { // not in the maps
				want[0][b] = node.None
			}
			if f.State(0, b) != f.committed[0][b] {
				t.Fatalf("State(0, %d) is %s", b, f.State(0, b))
			}
		}
	})
	want := f.committed.after(nil)
	for b, state := range want[0] {
		if !state.AcceptsNew() {
			want[0][b] = node.None
		}
	}
	for i, got := range kernelStates(t, f) {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("map %d in the kernel (-want +got):\n%s", i, diff)
		}
	}
}

func TestCommitRefusesWhatThereIsNot(t *testing.T) {
	f := installed(t, host(t), testSpec())
	commit(t, f, Change{Bucket: 1, State: node.Own})
	for want, change := range map[string]Change{
		"service other has no bucket 64":     {Bucket: 64, State: node.Own},
		"service other has no bucket -1":     {Bucket: -1, State: node.Own},
		"there is no service 1":              {Service: 1, State: node.Own},
		"bucket 0: there is no State(4)":     {State: 4},
		"committing 2 bucket changes: there": {Service: -1},
	} {
		err := f.Commit([]Change{{Bucket: 2, State: node.Own}, change})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if f.State(0, 1) != node.Own || f.State(0, 2) != node.None {
		t.Errorf("refused commits changed bucket 1 to %s, bucket 2 to %s", f.State(0, 1), f.State(0, 2))
	}
}

// The kernel takes a transaction whole or not at all.
func TestAFailedCommitChangesNothing(t *testing.T) {
	ns := host(t)
	f := installed(t, ns, testSpec())
	commit(t, f, Change{Bucket: 1, State: node.Own}, Change{Bucket: 2, State: node.Own})
	before := ruleset(t, ns)

	// The second map no longer has an element that the transaction will delete.
	inetMap := f.rules.tables[1].maps[0].library(f.rules.tables[1].library())
	if err := errors.Join(f.conn.SetDeleteElements(inetMap, []nftables.SetElement{bucketElement(2, "")}), f.conn.Flush()); err != nil {
		t.Fatal(err)
	}
	err := f.Commit([]Change{{Bucket: 1, State: node.None}, {Bucket: 2, State: node.None}, {Bucket: 3, State: node.Own}})
	if !errors.Is(err, unix.ENOENT) {
		t.Fatalf("error %v, want the kernel's refusal", err)
	}
	for b, want := range []node.State{node.None, node.Own, node.Own, node.None} {
		if got := f.State(0, b); got != want {
			t.Errorf("bucket %d is held to be %s, want %s", b, got, want)
		}
	}
	if err := errors.Join(f.conn.SetAddElements(inetMap, []nftables.SetElement{bucketElement(2, "own_other")}), f.conn.Flush()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, ruleset(t, ns)); diff != "" {
		t.Errorf("the failed commit changed the kernel:\n%s", diff)
	}
	commit(t, f, Change{Bucket: 1, State: node.None}, Change{Bucket: 3, State: node.Own})
}

// When the kernel's answer was lost, the next commit makes sure of every bucket.
func TestAfterALostAnswerTheNextCommitRewritesAll(t *testing.T) {
	f := installed(t, host(t), testSpec())
	commit(t, f, Change{Bucket: 1, State: node.Own}, Change{Bucket: 2, State: node.Adopt})
	// What the kernel may have after a lost answer: other elements than believed.
	m := f.rules.tables[0].maps[0].library(f.rules.tables[0].library())
	f.conn.FlushSet(m)
	if err := errors.Join(f.conn.SetAddElements(m, []nftables.SetElement{bucketElement(9, "own_other")}), f.conn.Flush()); err != nil {
		t.Fatal(err)
	}
	f.uncertain = true
	commit(t, f, Change{Bucket: 3, State: node.Own})
	want := states{make([]node.State, 64)}
	want[0][1], want[0][2], want[0][3] = node.Own, node.Adopt, node.Own
	for i, got := range kernelStates(t, f) {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("map %d in the kernel (-want +got):\n%s", i, diff)
		}
	}
}

// Elements deleted a moment ago may still count when the next transaction comes.
func TestAFullMapIsTriedAgain(t *testing.T) {
	ns := host(t)
	f := installed(t, ns, testSpec())
	run(t, ns, "nft add table inet small; add map inet small m { typeof numgen inc mod 64 : verdict; size 1; }; add chain inet small c")
	small := bucketMap{name: "m", buckets: 64}.library(&nftables.Table{Family: nftables.TableFamilyINet, Name: "small"})
	tries := 0
	err := f.transact(func() error {
		tries++
		elements := []nftables.SetElement{bucketElement(1, "c"), bucketElement(2, "c")}
		if tries == 3 {
			elements = elements[:1]
		}
		return f.conn.SetAddElements(small, elements)
	})
	if err != nil || tries != 3 {
		t.Errorf("after %d tries: %v", tries, err)
	}
	err = f.transact(func() error { return f.conn.SetAddElements(small, []nftables.SetElement{bucketElement(2, "c")}) })
	if !errors.Is(err, unix.ENFILE) || !strings.Contains(err.Error(), "not yet freed") {
		t.Errorf("a map that stays full: %v", err)
	}
}

func TestInstallAgainStartsFromNothing(t *testing.T) {
	ns := host(t)
	f := installed(t, ns, testSpec())
	commit(t, f, allBuckets(testSpec(), node.Own)...)
	s := testSpec()
	s.Layout.Buckets, s.VIPs = 32, append(s.VIPs, clientAddr(0))
	if err := f.Install(must(Compile(s))); err != nil {
		t.Fatal(err)
	}
	if got := ruleset(t, ns); strings.Contains(got, " : goto") || !strings.Contains(got, clientAddr(0).String()) {
		t.Errorf("the second installation has\n%s", got)
	}
	commit(t, f, allBuckets(s, node.Adopt)...)
	if f.State(0, 31) != node.Adopt {
		t.Errorf("bucket 31 is held to be %s", f.State(0, 31))
	}
}

func TestLargestCommit(t *testing.T) {
	s := testSpec()
	s.Layout.Buckets = hashring.MaxBuckets
	f := installed(t, host(t), s)
	// Deleted elements count until the kernel has freed them: again and again, at once.
	for i := range 6 {
		commit(t, f, allBuckets(s, []node.State{node.Own, node.Adopt, node.None}[i%3])...)
	}
	commit(t, f, allBuckets(s, node.Own)...)
	for i, got := range kernelStates(t, f) {
		for b, state := range got[0] {
			if state != node.Own {
				t.Fatalf("map %d, bucket %d: %s", i, b, state)
			}
		}
	}
}

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

func TestExplainTellsARefusalFromALostAnswer(t *testing.T) {
	for _, test := range []struct {
		err  error
		is   error
		isNo []error
	}{
		{&netlink.OpError{Op: "receive", Err: unix.EEXIST, Sequence: 7}, unix.EEXIST, []error{ErrUncertain, ErrGone}},
		{&netlink.OpError{Op: "receive", Err: os.NewSyscallError("recvmsg", unix.ENOBUFS)}, ErrUncertain, []error{ErrGone}},
		{&netlink.OpError{Op: "send", Err: os.NewSyscallError("sendmsg", unix.EMSGSIZE)}, unix.EMSGSIZE, []error{ErrUncertain, ErrGone}},
		{&netlink.OpError{Op: "send", Err: os.NewSyscallError("sendmsg", unix.EBADF)}, ErrGone, []error{ErrUncertain}},
		{&netlink.OpError{Op: "receive", Err: unix.ENFILE, Sequence: 7}, unix.ENFILE, []error{ErrUncertain, ErrGone}},
	} {
		got := explain(fmt.Errorf("receive: %w", test.err))
		if !errors.Is(got, test.is) {
			t.Errorf("%v is not %v", got, test.is)
		}
		for _, no := range test.isNo {
			if errors.Is(got, no) {
				t.Errorf("%v is %v", got, no)
			}
		}
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
