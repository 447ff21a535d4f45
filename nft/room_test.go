package nft

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"

	"github.com/peervip/peervip/node"
)

// sent is how many bytes the transaction takes that build queues.
func sent(t *testing.T, build func(*nftables.Conn) error) int {
	t.Helper()
	bytes := 0
	c := must(nftables.New(nftables.WithTestDial(func(m []netlink.Message) ([]netlink.Message, error) {
		bytes += messageBytes(m)
		return nil, nil
	})))
	if err := errors.Join(build(c), c.Flush()); err != nil {
		t.Fatal(err)
	}
	return bytes
}

// Whatever moves, it is no more than what the start has made sure that there is room for.
func TestNoChangeIsLargerThanTheLargest(t *testing.T) {
	for _, linger := range []Linger{LingerNone, LingerTCP, LingerAll} {
		s := testSpec()
		s.Layout.Buckets, s.Services[0].Linger = 1024, linger
		rules := must(Compile(s))
		bound := must(rules.largest(s.Layout.Buckets))
		for _, from := range append(s.Services[0].states(), node.None) {
			for _, to := range append(s.Services[0].states(), node.None) {
				for _, share := range []int{1, 3, 4} { // of four quarters
					var moves []move
					after := make([]node.State, s.Layout.Buckets)
					for b := range after {
						if after[b] = from; b%4 < share && from != to {
							after[b] = to
							moves = append(moves, move{bucket: b, from: from, to: to})
						}
					}
					bytes := sent(t, func(c *nftables.Conn) error {
						for _, table := range rules.tables {
							for _, m := range table.maps {
								if err := m.move(c, table.native(), moves, after); err != nil {
									return err
								}
							}
						}
						return nil
					})
					if bytes > bound {
						t.Errorf("linger %s, %d quarters from %s to %s: %d bytes, the largest is said to be %d", linger, share, from, to, bytes, bound)
					}
				}
			}
		}
	}
}

// What bytesOf says is what the library sends.
func TestBytesOfElements(t *testing.T) {
	s := testSpec()
	m := must(Compile(s)).tables[0].maps[0]
	one := []nftables.SetElement{m.element(1, "linger_other")}
	two := append(one, m.element(2, "linger_other"))
	size := func(all []nftables.SetElement) int {
		return sent(t, func(c *nftables.Conn) error { return c.SetAddElements(m.native(&nftables.Table{Name: "peervip"}), all) })
	}
	if got, want := size(two)-size(one), bytesOf(two)-bytesOf(one); got != want {
		t.Errorf("an element takes %d bytes, counted as %d", got, want)
	}
}

// In an unprivileged container a transaction is bound by net.core.wmem_max: what might
// not fit is refused at the start, with what would.
func TestBucketsThatDoNotFitAreRefusedAtTheStart(t *testing.T) {
	const buffer = 2 * 212992 // the default of net.core.wmem_max, as the kernel counts it
	s := testSpec()
	s.Services[0].Linger = LingerTCP
	s.Layout.Buckets = 16384
	f := openFilter(t, host(t))
	f.room = buffer
	var refused *RoomError
	if err := f.InstallGuard(must(Compile(s))); !errors.As(err, &refused) {
		t.Fatalf("16384 buckets: error %v", err)
	}
	t.Log(refused)
	if refused.Fit < 3000 || refused.Fit >= 16384 || !strings.Contains(refused.Error(), "sysctl net.core.wmem_max=") {
		t.Errorf("%d would fit: %v", refused.Fit, refused)
	}
	for buckets, fits := range map[int]bool{refused.Fit: true, refused.Fit + 1: false} {
		s.Layout.Buckets = buckets
		if err := must(Compile(s)).fits(buffer); (err == nil) != fits {
			t.Errorf("%d buckets: error %v", buckets, err)
		}
	}
	s.Layout.Buckets = 16384
	if err := must(Compile(s)).fits(2 * ((refused.Need + sendOverhead + 1) / 2)); err != nil {
		t.Errorf("with the sysctl as it was told: %v", err)
	}
	s.Layout.Buckets, s.Services[0].Linger = 16, LingerAll
	if err := must(Compile(s)).fits(buffer); !errors.As(err, &refused) || refused.Fit != 0 || !strings.Contains(err.Error(), "linger: all") {
		t.Errorf("lists that do not fit: %v", err)
	}
}
