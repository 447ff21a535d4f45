package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

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
			elements, err := f.conn.GetSetElements(m.native(table.native()))
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
		"bucket 0: there is no State(6)":     {State: 6},
		"cannot be in yield":                 {State: node.Yield},
		"cannot be in wary":                  {State: node.Wary},
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
	inetMap := f.rules.tables[1].maps[0].native(f.rules.tables[1].native())
	if err := errors.Join(f.conn.SetDeleteElements(inetMap, []nftables.SetElement{bucketMap{}.element(2, "")}), f.conn.Flush()); err != nil {
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
	if err := errors.Join(f.conn.SetAddElements(inetMap, []nftables.SetElement{bucketMap{}.element(2, "own_other")}), f.conn.Flush()); err != nil {
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
	m := f.rules.tables[0].maps[0].native(f.rules.tables[0].native())
	f.conn.FlushSet(m)
	if err := errors.Join(f.conn.SetAddElements(m, []nftables.SetElement{bucketMap{}.element(9, "own_other")}), f.conn.Flush()); err != nil {
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
	small := bucketMap{name: "m", buckets: 64}.native(&nftables.Table{Family: nftables.TableFamilyINet, Name: "small"})
	tries := 0
	err := f.transact(func() error {
		tries++
		elements := []nftables.SetElement{bucketMap{}.element(1, "c"), bucketMap{}.element(2, "c")}
		if tries == 3 {
			elements = elements[:1]
		}
		return f.conn.SetAddElements(small, elements)
	})
	if err != nil || tries != 3 {
		t.Errorf("after %d tries: %v", tries, err)
	}
	err = f.transact(func() error { return f.conn.SetAddElements(small, []nftables.SetElement{bucketMap{}.element(2, "c")}) })
	if !errors.Is(err, ErrBusy) || !errors.Is(err, unix.ENFILE) || !strings.Contains(err.Error(), "not yet freed") {
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

// Rewrite is a probe of the kernel: everything is written, and nothing changes.
func TestRewriteWritesEverythingAsItIs(t *testing.T) {
	f := installed(t, host(t), testSpec())
	commit(t, f, Change{Bucket: 1, State: node.Own}, Change{Bucket: 2, State: node.Adopt}, Change{Bucket: 4, State: node.Linger})
	before := kernelStates(t, f)
	generation, err := f.generation()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(Transaction{Rewrite: true}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, kernelStates(t, f)); diff != "" {
		t.Errorf("the buckets have changed (-before +after):\n%s", diff)
	}
	if now, err := f.generation(); err != nil || now == generation {
		t.Errorf("the kernel was not asked: generation %d before, %d after (%v)", generation, now, err)
	}
}
