package link

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// lone is a node without peers: sockets, and an interface that leads nowhere.
func lone(t testing.TB, interval time.Duration, log *slog.Logger) *Beacons {
	t.Helper()
	ns, err := lab.NewNamespace(lab.UniquePrefix() + "n")
	if err != nil {
		t.Fatal(err)
	}
	var b *Beacons
	err = ns.Do(func() error {
		for _, command := range []string{
			"link add eth0 type veth peer name p1",
			"link set eth0 addrgenmode none", "link set p1 addrgenmode none",
			"link set eth0 up", "link set p1 up",
			"addr add 192.0.2.11/24 dev eth0",
		} {
			if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w: %s", command, err, out)
			}
		}
		mac, err := ParseClusterMAC("multicast", []netip.Addr{vip})
		if err != nil {
			return err
		}
		l, err := Open(Config{Interface: "eth0", VIPs: []netip.Addr{vip}, MAC: mac, Log: log})
		if err != nil {
			return err
		}
		b, err = l.OpenBeacons(BeaconConfig{Port: beaconPort, Interval: interval, Mark: leaseMark, Now: testClock})
		return err
	})
	t.Cleanup(func() {
		if b != nil {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Send ends with its context, also one that is cancelled already, and may begin again.
func TestSendEndsWithItsContextAndBeginsAgain(t *testing.T) {
	b := lone(t, time.Hour, nil)
	for i := range uint64(50) {
		if err := b.Send(done(), says("x", false)); err != nil {
			t.Fatal(err)
		}
		before := b.Status().Wire.Sent
		stop := background(t, func(ctx context.Context) error { return b.Send(ctx, says("x", false)) })
		eventually(t, "the first beacon leaves at once", func() bool { return b.Status().Wire.Sent > before })
		if i%2 == 0 {
			b.Kick()
		}
		stop()
	}
}

// Kicks of many at once, while Send begins and ends: the race detector watches.
func TestKickAtAnyTime(t *testing.T) {
	b := lone(t, 4*time.Millisecond, nil)
	var kickers sync.WaitGroup
	over := make(chan struct{})
	for range 4 {
		kickers.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					b.Kick()
				}
			}
		})
	}
	for range 5 {
		before := b.Status().Extra
		stop := background(t, func(ctx context.Context) error { return b.Send(ctx, says("x", true)) })
		eventually(t, "extra beacons", func() bool { return b.Status().Extra > before+5 })
		stop()
	}
	close(over)
	kickers.Wait()
}

// Lateness of more than the interval is a line in the log, with its amount.
func TestLatenessIsLogged(t *testing.T) {
	var lines lineWriter
	b := lone(t, 10*time.Millisecond, slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug})))
	var once atomic.Bool
	background(t, func(ctx context.Context) error {
		return b.Send(ctx, func(now time.Duration, buf []byte) ([]byte, bool, []netip.AddrPort, bool) {
			if !once.Swap(true) {
				time.Sleep(100 * time.Millisecond)
			}
			return append(buf, 'x'), true, nil, true
		})
	})
	eventually(t, "a line", func() bool { return strings.Contains(lines.text(), "beacons were late by more than their interval") })
	late := b.Status().Lateness
	if late.Skipped == 0 || late.Max < 80*time.Millisecond || late.LastSkipAt == 0 || b.TakeMaxLateness() < 80*time.Millisecond {
		t.Errorf("%+v", late)
	}
	for _, part := range []string{"level=DEBUG", "times=", "last_late=", "interval=10ms", "class="} {
		if !strings.Contains(lines.text(), part) {
			t.Errorf("%q does not say %s", lines.text(), part)
		}
	}
}

type lineWriter struct {
	mu      sync.Mutex
	written strings.Builder
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written.Write(p)
}

func (w *lineWriter) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written.String()
}
