package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bucketRules are a node's maps, as an agent makes them, with elements as given.
func bucketRules(t *testing.T, n *Node, elements string) {
	t.Helper()
	nft(t, n.NS, fmt.Sprintf(`table netdev peervip {
 chain own_other { accept; }
 chain adopt_other { accept; }
 chain linger_other { drop; }
 map buckets_other { type mark : verdict; elements = { %s } }
 map buckets_web { type mark : verdict; elements = { 3 : goto own_other } }
}
table inet peervip {
 chain own_other { accept; }
 map buckets_other { type mark : verdict; elements = { 4 : goto own_other } }
}`, elements))
}

func TestHandoffsAreWatchedInTheKernel(t *testing.T) {
	l, err := New(t.Context(), Config{Nodes: 2, Sources: 1})
	must(t, err)
	defer func() { must(t, l.Close()) }()
	old, heir := l.Nodes[0], l.Nodes[1]
	bucketRules(t, old, "1 : goto own_other, 2 : goto adopt_other, 7 : goto own_other")
	bucketRules(t, heir, "5 : goto own_other, 2 : goto linger_other")
	m := l.NewHandoffMeter()
	before, err := m.owners()
	must(t, err)
	if diff := cmp.Diff(map[int]int{1: 0, 2: 0, 7: 0, 5: 1}, before); diff != "" {
		t.Fatalf("owners (-want +got):\n%s", diff)
	}

	must(t, Poll(patience(t), func() error {
		err := watchAPassage(t, m)
		if err != nil { // other work may keep a thread waiting longer than that; once it does not
			moveBucket(t, heir, "linger_other")
			moveBucket(t, old, "own_other")
		}
		return err
	}))
	after, err := m.owners()
	must(t, err)
	if diff := cmp.Diff(map[route][]int{{0, 1}: {2}}, routesOf(before, after), cmp.AllowUnexported(route{})); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}

	nft(t, heir.NS, "add element netdev peervip buckets_other { 7 : goto adopt_other }")
	if owners, err := m.owners(); err == nil {
		t.Errorf("bucket 7 has two owners, and %v are told", owners)
	}
}

// watchAPassage has bucket 2 pass from the first node to the second. What the watching
// says must be true; it returns an error if it was not exact.
func watchAPassage(t *testing.T, m *HandoffMeter) error {
	l := m.lab
	old, heir := l.Nodes[0], l.Nodes[1]
	p, err := m.passageOn(route{0, 1}, []int{2})
	must(t, err)
	defer func() { must(t, p.close()) }()
	watched := make(chan error, 1)
	go func() { watched <- m.watch(patience(t), []*passage{p}) }()
	nap(20 * ms)
	asking := l.Now()
	must(t, heir.NS.Do(func() error {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(old.Addr, GossipPort)))
		if err == nil {
			_, err = conn.Write([]byte("please"))
			err = errors.Join(err, conn.Close())
		}
		return err
	}))
	nap(20 * ms)
	releasing := l.Now()
	moveBucket(t, old, "linger_other")
	nap(20 * ms)
	taking := l.Now()
	moveBucket(t, heir, "own_other")
	must(t, <-watched)
	told := fmt.Errorf("asked at %v, released at %v and taken at %v; it was done from %v, %v and %v on", p.asked, p.released, p.taken, asking, releasing, taking)
	if p.asked == 0 || p.asked > p.released || p.released < releasing || p.released > p.taken || p.taken < taking {
		t.Fatal(told)
	}
	if p.asked < asking-10*ms || p.asked > releasing || p.released > taking {
		return told
	}
	return nil
}

// moveBucket changes the state of bucket 2.
func moveBucket(t *testing.T, n *Node, to string) {
	t.Helper()
	nft(t, n.NS, `delete element netdev peervip buckets_other { 2 }
add element netdev peervip buckets_other { 2 : goto `+to+` }`)
}

func TestHandoffOfPassages(t *testing.T) {
	const word = time.Second
	passages := []*passage{
		{buckets: 3, asked: word + ms, released: word + 4*ms, taken: word + 6*ms},
		{buckets: 1, asked: word - ms, released: word + 2*ms, taken: word + 3*ms},
	}
	want := Handoff{Moved: 4, Released: 2 * ms, Taken: 6 * ms, Gaps: []time.Duration{ms, 2 * ms, 2 * ms, 2 * ms}}
	if diff := cmp.Diff(want, handoffOf(passages, word)); diff != "" {
		t.Errorf("handoff (-want +got):\n%s", diff)
	}
}
