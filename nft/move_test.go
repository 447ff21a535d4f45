package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/peervip/peervip/node"
)

// newTalkingWire is a wire whose nodes also talk.
func newTalkingWire(t testing.TB, nodes int) *wire {
	w := newWire(t, nodes)
	for i, ns := range w.nodes {
		serveTalk(t, ns, fmt.Sprint(i))
	}
	return w
}

// third are the buckets that move in these tests, in the state.
func third(s Spec, state node.State) []Change {
	var changes []Change
	for b := 0; b < s.Layout.Buckets; b += 3 {
		changes = append(changes, Change{Bucket: b, State: state})
	}
	return changes
}

func moves(s Spec, client netip.Addr) bool { return s.Layout.Bucket(client)%3 == 0 }

// chatter has connections talk all the time until stop, which says what went wrong.
type chatter struct {
	done chan struct{}
	all  sync.WaitGroup
	mu   sync.Mutex
	errs []error
}

func (c *chatter) add(talker *talker, to string) {
	c.all.Go(func() {
		for {
			select {
			case <-c.done:
				return
			case <-time.After(2 * time.Millisecond):
			}
			who, err := talker.ask(soon)
			if err == nil && who != to {
				err = fmt.Errorf("%s: line %d is answered by %q, want %s", talker.LocalAddr(), talker.said, who, to)
			}
			if err != nil {
				c.mu.Lock()
				c.errs = append(c.errs, err)
				c.mu.Unlock()
				return
			}
		}
	})
}

func (c *chatter) stop() error {
	close(c.done)
	c.all.Wait()
	return errors.Join(c.errs...)
}

// A third of the buckets moves while connections talk: those stay, unreset; what
// is new goes to the new owner; datagrams and pings move at once, and no moment
// has two owners. Then the buckets come home while their new owner lingers too.
func TestAMoveBreaksNoConnectionAndNothingIsAnsweredTwice(t *testing.T) {
	for _, loose := range []string{"1", "0"} {
		t.Run("loose "+loose, func(t *testing.T) {
			s := testSpec()
			s.Services[0].Linger = LingerTCP
			w := newTalkingWire(t, 2)
			old, heir := installed(t, w.nodes[0], s), installed(t, w.nodes[1], s)
			for _, ns := range w.nodes {
				sysctl(t, ns, "netfilter/nf_conntrack_tcp_loose", loose)
			}
			commit(t, old, allBuckets(s, node.Own)...)
			chat := &chatter{done: make(chan struct{})}
			var sources []*datagrams
			for i := range 2 * clientAddrs {
				chat.add(must(w.talk("tcp4", clientAddr(i%clientAddrs))), "0")
			}
			for i := range clientAddrs {
				sources = append(sources, w.sendsDatagrams(clientAddr(i), 3*time.Millisecond))
			}
			owners := func(moved string) {
				t.Helper()
				seen := map[bool]bool{}
				for i := range clientAddrs {
					from, want := clientAddr(i), "0"
					if moves(s, from) {
						want = moved
					}
					seen[moves(s, from)] = true
					if got := w.connects(from, soon); got != want {
						t.Errorf("a new connection from %s: answers %q, want %s", from, got, want)
					}
					if got := sources[i].answeredBy(t); got != want {
						t.Errorf("datagrams from %s: answers %q, want %s", from, got, want)
					}
					if got := w.pings(from, soon); got != 1 {
						t.Errorf("ping from %s: %d answers", from, got)
					}
				}
				if len(seen) != 2 {
					t.Fatal("the test wants clients that move and clients that stay")
				}
			}
			owners("0")

			commit(t, old, third(s, node.Linger)...)
			commit(t, heir, third(s, node.Adopt)...)
			owners("1")
			for i := range clientAddrs {
				if moves(s, clientAddr(i)) {
					chat.add(must(w.talk("tcp4", clientAddr(i))), "1")
				}
			}
			if c := counters(t, heir); c.Services[0].Refused[node.Adopt].Packets == 0 || c.Services[0].Accepted[node.Adopt].Packets == 0 {
				t.Errorf("the new owner counted %+v", c.Services[0])
			}
			if c := counters(t, old); c.Services[0].Refused[node.Linger].Packets == 0 || c.Services[0].Accepted[node.Linger].Packets == 0 {
				t.Errorf("the old owner counted %+v", c.Services[0])
			}

			commit(t, heir, third(s, node.Linger)...)
			commit(t, old, third(s, node.Adopt)...)
			owners("0")

			if err := chat.stop(); err != nil {
				t.Errorf("connections broke: %v", err)
			}
			for i, source := range sources {
				if n := source.twice(); n != 0 {
					t.Errorf("%d of %d datagrams from %s were answered twice", n, source.sent, clientAddr(i))
				}
			}
			commit(t, heir, third(s, node.None)...)
			commit(t, old, third(s, node.Own)...)
			if got := w.connects(clientAddr(0), soon); got != "0" {
				t.Errorf("after the move: answers %q", got)
			}
		})
	}
}

// What a connection's new node does when it is not told that the bucket moves.
func TestAMoveWithoutTransitionResetsConnections(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerTCP
	w := newTalkingWire(t, 2)
	old, heir := installed(t, w.nodes[0], s), installed(t, w.nodes[1], s)
	commit(t, old, allBuckets(s, node.Own)...)
	c := must(w.talk("tcp4", clientAddr(0)))
	if who := asked(t, c); who != "0" {
		t.Fatal(who)
	}
	commit(t, old, allBuckets(s, node.None)...)
	commit(t, heir, allBuckets(s, node.Own)...)
	if _, err := c.ask(soon); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("error %v, want a reset", err)
	}
}

// A node drops the SYN ACK of handshakes until its buckets have moved. Then the
// client's second SYN is answered by the new owner while the old one repeats its
// answer: the client takes one, and what it sends next makes no sense to the other.
func TestHandshakesCaughtInAMoveComplete(t *testing.T) {
	const handshakes = 30
	for _, held := range []bool{true, false} {
		t.Run(fmt.Sprintf("resets held %t", held), func(t *testing.T) {
			s := testSpec()
			s.Services[0].Linger = LingerTCP
			w := newTalkingWire(t, 2)
			old, heir := installed(t, w.nodes[0], s), installed(t, w.nodes[1], s)
			commit(t, old, allBuckets(s, node.Own)...)
			run(t, w.nodes[0], "nft add table inet lossy")
			run(t, w.nodes[0], "nft add chain inet lossy c { type filter hook postrouting priority 0; }")
			run(t, w.nodes[0], fmt.Sprintf("nft add rule inet lossy c tcp sport %d tcp flags & (syn | ack) == syn | ack drop", talkPort))
			if !held {
				for _, f := range []*Filter{old, heir} {
					stack := f.rules.tables[1].native()
					f.conn.FlushChain(chain{name: "resets"}.native(stack))
					if err := f.conn.Flush(); err != nil {
						t.Fatal(err)
					}
				}
			}
			results := make(chan error, handshakes)
			for i := range handshakes {
				go func() {
					c, err := w.talk("tcp4", clientAddr(i%clientAddrs))
					if err == nil {
						_, err = c.ask(soon)
					}
					results <- err
				}()
			}
			eventually(t, "the old owner has all SYNs", func() bool {
				return counters(t, old).Services[0].Accepted[node.Own].Packets >= handshakes
			})
			commit(t, old, allBuckets(s, node.Linger)...)
			commit(t, heir, allBuckets(s, node.Adopt)...)
			run(t, w.nodes[0], "nft delete table inet lossy")
			failed := 0
			for range handshakes {
				if err := <-results; err != nil {
					failed++
					var timeout net.Error
					if held || !errors.Is(err, syscall.ECONNRESET) && !errors.As(err, &timeout) {
						t.Error(err)
					}
				}
			}
			n := counters(t, old).ResetsHeld.Packets + counters(t, heir).ResetsHeld.Packets
			t.Logf("%d of %d failed, %d resets held", failed, handshakes, n)
			if !held && failed == 0 {
				t.Error("no handshake failed: the test does not catch them in the move")
			}
		})
	}
}
