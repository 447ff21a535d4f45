package lab

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCommitsOfBucketsAreRecorded(t *testing.T) {
	l, err := New(t.Context(), Config{Nodes: 2, Sources: 1})
	must(t, err)
	defer func() { must(t, l.Close()) }()
	r, err := l.RecordCommits()
	must(t, err)
	ns := l.Nodes[1].NS
	nft(t, ns, `table netdev peervip {
 chain own_other { accept; }
 chain adopt_other { accept; }
 chain linger_other { drop; }
 map buckets_other { type mark : verdict; elements = { 1 : goto own_other, 2 : goto own_other } }
 map buckets_web { type mark : verdict; elements = { 3 : goto own_other } }
}
table inet peervip {
 chain own_other { accept; }
 map buckets_other { type mark : verdict; elements = { 4 : goto own_other } }
}`)
	nft(t, ns, `delete element netdev peervip buckets_other { 1, 2 }
add element netdev peervip buckets_other { 2 : goto linger_other, 9 : goto adopt_other }`)
	whole := Window{0, time.Hour}
	want := []BucketCommit{
		{By: 2, Bucket: 1, Is: "own"}, {By: 2, Bucket: 2, Is: "own"},
		{By: 2, Bucket: 1, Was: "own"}, {By: 2, Bucket: 2, Was: "own", Is: "linger"}, {By: 2, Bucket: 9, Is: "adopt"},
	}
	var got []BucketCommit
	must(t, Poll(patience(t), func() error {
		if got, err = r.Commits(whole); err != nil {
			return Final(err)
		}
		if len(got) < len(want) {
			return fmt.Errorf("%d commits", len(got))
		}
		return nil
	}))
	r.Stop()
	if got[0].At != got[1].At || got[1].At >= got[2].At || got[2].At != got[4].At || got[4].At > l.Now() {
		t.Errorf("two transactions, at %v", got)
	}
	slices.SortStableFunc(got, func(a, b BucketCommit) int {
		if a.At != b.At {
			return int(a.At - b.At)
		}
		return a.Bucket - b.Bucket
	})
	for i := range got {
		got[i].At = 0
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("commits (-want +got):\n%s", diff)
	}
	if after, err := r.Commits(Window{l.Now(), time.Hour}); err != nil || len(after) > 0 {
		t.Errorf("outside of the window: %v, %v", after, err)
	}
}

func TestHandoffOfCommits(t *testing.T) {
	const word = time.Second
	at := func(d time.Duration, by NodeID, bucket int, was, is string) BucketCommit {
		return BucketCommit{word + d, by, bucket, was, is}
	}
	got := handoffOf([]BucketCommit{
		at(2*ms, 1, 7, "own", "linger"), at(2*ms, 1, 8, "own", ""),
		at(3*ms, 2, 7, "", "adopt"),
		at(4*ms, 1, 9, "own", "linger"), at(4*ms, 3, 5, "linger", ""), // nobody's move
		at(6*ms, 3, 8, "linger", "own"),
		at(9*ms, 2, 7, "adopt", "own"), // no move any more
	}, word)
	want := Handoff{Moved: 2, Released: 2 * ms, Taken: 6 * ms, Gaps: []time.Duration{ms, 4 * ms}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("handoff (-want +got):\n%s", diff)
	}
	if got := handoffOf(nil, word); got.Moved != 0 || got.Gaps != nil {
		t.Errorf("of nothing: %+v", got)
	}
}
