package nft

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/node"
)

// The kernel's table fills, and what finds no place in it is counted. The limit is
// the machine's, and not for a test to change: so many flows there are.
func TestConntrackFills(t *testing.T) {
	s := testSpec()
	w := newWire(t, 1)
	ns := w.nodes[0]
	commit(t, installed(t, ns, s), allBuckets(s, node.Own)...)
	read := func() (c Conntrack) {
		t.Helper()
		if err := ns.Do(func() (err error) { c, err = ReadConntrack(); return err }); err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := read()
	if before.Max == 0 || before.Count > 10 || before.Dropped != 0 || before.Liberal {
		t.Errorf("at first %+v", before)
	}
	if err := ns.Do(func() error { return os.WriteFile(liberalFile, []byte("1"), 0) }); err != nil {
		t.Fatal(err)
	}
	const many = 1 << 19
	enough := min(before.Max, many) + 1000
	began := time.Now()
	openFlows(t, ns, enough)
	after := read()
	t.Logf("%d flows in %v: %+v", enough, time.Since(began), after)
	if !after.Liberal {
		t.Error("be_liberal is not seen")
	}
	if full := before.Max < many; after.Max != before.Max || after.Count < min(before.Max, many)*9/10 || full && after.Dropped == 0 {
		t.Errorf("after %d flows %+v", enough, after)
	}
}

// openFlows sends so many datagrams of different flows over lo.
func openFlows(t *testing.T, ns *lab.Namespace, flows int) {
	t.Helper()
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := netip.MustParseAddr("127.1.0.1")
		for i := range flows {
			port := i % 60000
			if port == 0 {
				to = to.Next()
			}
			// Nobody listens: the answer to an earlier one may be this one's error.
			_ = unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: port + 1, Addr: to.As4()})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
