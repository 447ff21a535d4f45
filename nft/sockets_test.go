package nft

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/node"
)

// liveFlows are the clients with a live flow.
func liveFlows(t testing.TB, ns *lab.Namespace) map[netip.Addr]bool {
	t.Helper()
	live := map[netip.Addr]bool{}
	err := ns.Do(func() error {
		for f, err := range LiveFlows([]netip.Addr{vip}) {
			if err != nil {
				return err
			}
			if f.Live {
				live[f.Client.Addr()] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return live
}

// unansweredBy is for how long the client has left the server unanswered, and whether
// there is a socket.
func unansweredBy(t testing.TB, ns *lab.Namespace, client netip.Addr) (d time.Duration, found bool) {
	t.Helper()
	err := ns.Do(func() error {
		socket, err := openNetlink(unix.NETLINK_SOCK_DIAG)
		if err != nil {
			return err
		}
		defer socket.close()
		return socket.connections(unix.AF_INET, vip, func(c connection) bool {
			if c.client.Addr() == client {
				d, found = c.unanswered, true
			}
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return d, found
}

// A connection whose socket is gone is not live; one that is idle is, and one whose
// server is elsewhere, and one whose client has been silent for a moment.
func TestDeadFlows(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerTCP
	w := newWire(t, 1)
	ns := w.nodes[0]
	w.container(0)
	f := installed(t, ns, s)
	commit(t, f, allBuckets(s, node.Own)...)
	holder(t, ns, "tcp4", "0.0.0.0:5000")
	holder(t, ns, "tcp", "[::]:5001")
	var listener net.Listener
	err := ns.Do(func() (err error) {
		listener, err = net.Listen("tcp4", "0.0.0.0:5002")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	idle, dual, gone, forwarded, silent := clientAddr(0), clientAddr(1), clientAddr(2), clientAddr(3), clientAddr(4)
	all := []netip.Addr{idle, dual, gone, forwarded, silent}
	open := func(from netip.Addr, port int) {
		opens(t, w.client, from.String(), fmt.Sprintf("%s:%d", vip, port))
	}
	open(idle, 5000)
	open(dual, 5001)
	open(gone, 5000)
	open(forwarded, natPort)
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			conn.Write([]byte("hello\n"))
			accepted <- conn
		}
	}()
	open(silent, 5002)
	server := <-accepted
	defer server.Close()
	watch := NewWatch(s)
	var buckets []int
	for _, client := range all {
		buckets = append(buckets, s.Layout.Bucket(client))
	}
	check := func(when string, dead ...netip.Addr) {
		t.Helper()
		live, want := liveFlows(t, ns), map[netip.Addr]bool{}
		watched := map[int]bool{}
		for _, slot := range watchedBuckets(t, ns, watch, s, buckets) {
			watched[slot] = true
		}
		for _, client := range all {
			want[client] = true
		}
		for _, client := range dead {
			want[client] = false
		}
		for _, client := range all {
			if slot := s.Layout.Bucket(client); live[client] != want[client] || watched[slot] != want[client] {
				t.Errorf("%s: %s is live: %t, its bucket %t, want %t", when, client, live[client], watched[slot], want[client])
			}
		}
	}
	check("open")

	// The server's socket goes, and nobody hears of it: neither client nor conntrack.
	run(t, ns, "nft add table ip lost")
	run(t, ns, "nft add chain ip lost out { type filter hook output priority -300; }")
	run(t, ns, fmt.Sprintf("nft add rule ip lost out ip daddr %s tcp flags & rst == rst drop", gone))
	run(t, w.client, "nft add table ip lost")
	run(t, w.client, "nft add chain ip lost in { type filter hook prerouting priority -300; }")
	run(t, w.client, fmt.Sprintf("nft add rule ip lost in ip daddr %s drop", silent))
	err = ns.Do(func() error {
		_, err := destroySockets([]netip.Addr{vip}, func(f Flow) bool { return f.Client.Addr() == gone })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write([]byte("anybody there?")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is sent to a silent client is seen to be unanswered", func() bool {
		d, found := unansweredBy(t, ns, silent)
		return found && d > time.Second
	})
	if d, found := unansweredBy(t, ns, idle); !found || d != 0 {
		t.Errorf("an idle client leaves its server unanswered for %v (found %t)", d, found)
	}
	check("without its socket", gone)

	run(t, w.client, "nft delete table ip lost")
	eventually(t, "the client answers", func() bool {
		d, found := unansweredBy(t, ns, silent)
		return found && d == 0
	})
	check("answered again", gone)
}

func watchedBuckets(t testing.TB, ns *lab.Namespace, w *Watch, s Spec, buckets []int) []int {
	t.Helper()
	return watched(t, ns, w, slots(s, buckets...))
}

// The rule for a client that has vanished, on what the kernel tells.
func TestUnanswered(t *testing.T) {
	const s = 1000
	for _, c := range []struct {
		name                                     string
		backoff                                  byte
		timeout, unacked, lastData, lastAck, cut int
		want                                     time.Duration
	}{
		{"idle for a day", 0, 204, 0, 86400 * s, 86400 * s, 0, 0},
		{"sent once", 0, 204, 1, 86400 * s, 86400 * s, 0, 0},
		{"a day of silence, and sent again twice", 2, 816, 1, 86400 * s, 86400 * s, 0, 408 * time.Millisecond},
		{"seven times, for 25 s", 7, 26112, 1, 86400 * s, 86400 * s, 0, 25704 * time.Millisecond},
		{"nine times", 9, 104448, 1, 86400 * s, 86400 * s, 0, 104040 * time.Millisecond},
		{"answered a moment ago", 9, 104448, 1, 86400 * s, 1 * s, 0, time.Second},
		{"spoke a moment ago", 9, 104448, 1, 2 * s, 86400 * s, 0, 2 * time.Second},
		{"at the longest timeout", 12, 120 * s, 3, 300 * s, 300 * s, 0, 120*time.Second - 120*time.Second>>11},
		{"a kernel that tells less", 9, 104448, 1, 86400 * s, 86400 * s, 1, 0},
	} {
		info := make([]byte, 60)
		info[4] = c.backoff
		binary.NativeEndian.PutUint32(info[8:], uint32(c.timeout*1000))
		binary.NativeEndian.PutUint32(info[24:], uint32(c.unacked))
		binary.NativeEndian.PutUint32(info[52:], uint32(c.lastData))
		binary.NativeEndian.PutUint32(info[56:], uint32(c.lastAck))
		if got := unanswered(info[:len(info)-c.cut]); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
