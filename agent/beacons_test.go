package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// fakeLessee has the kernel arm whenever it asks.
type fakeLessee struct{}

func (fakeLessee) mayArm() (node.Time, time.Time, bool) { return 0, time.Now().Add(time.Hour), true }
func (fakeLessee) armed(node.Time, bool)                {}
func (fakeLessee) dropped()                             {}
func (fakeLessee) lapsed()                              {}
func (fakeLessee) looked(nft.BeaconCounters, error)     {}

// A lease that must go does not wait behind commits or anything else that is due.
func TestTheDropOfTheLeaseOvertakesEverything(t *testing.T) {
	for range 20 {
		f := newFakeFilter()
		l := &loop{queue: newQueue()}
		k := newKernel(f, slog.New(slog.DiscardHandler), l)
		k.lease = fakeLessee{}
		k.commits <- node.Commit{ID: 1}
		k.setPeers(nil)
		k.ask(k.arms)
		k.ask(k.drops)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.run(ctx) }()
		var done []string
		eventually(t, func() error {
			f.set(func(f *fakeFilter) { done = slices.Clone(f.done) })
			if len(done) < 3 {
				return fmt.Errorf("only %q was done", done)
			}
			return nil
		})
		cancel()
		must(t, within(t, "the end of the kernel goroutine", ended))
		if done[0] != "DropLease" {
			t.Fatalf("done: %q", done)
		}
	}
}

// The core takes a failed commit for one that has changed nothing. So one whose answer
// was lost is repeated until it is certain; if it never is, the lease is dropped.
func TestALostAnswerIsMadeCertain(t *testing.T) {
	for lost, want := range map[int][]string{ // and what was done
		0: {"Commit"}, 1: {"Commit"}, sureTries: {"Commit"}, sureTries + 1: {"DropLease"},
	} {
		f := newFakeFilter()
		f.lost = lost
		l := &loop{queue: newQueue()}
		k := newKernel(f, slog.New(slog.DiscardHandler), l)
		k.lease = fakeLessee{}
		err := k.commit(node.Commit{ID: 1})
		if !slices.Equal(f.done, want) || errors.Is(err, nft.ErrUncertain) != (lost > sureTries) {
			t.Errorf("%d answers lost: %q was done, %v", lost, f.done, err)
		}
	}
}

// The beacon thread lives and the core is deadlocked. Beacons end within
// 2 D, and with them the lease; when the core goes on, both come back.
func TestAStalledLoopEndsBeacons(t *testing.T) {
	t.Parallel()
	_, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	leased := func(want bool) func() error {
		return func() error {
			if a.filter.leased() != want {
				return fmt.Errorf("lease held: %t", !want)
			}
			return nil
		}
	}
	eventually(t, leased(true))
	stalled := make(chan struct{})
	a.loop.queue.put(func() { <-stalled })
	time.Sleep(2 * testDetect.Time())
	sent := a.line.beacons()
	time.Sleep(testDetect.Time())
	if n := a.line.beacons(); n > sent {
		t.Errorf("%d beacons left while the loop stood still", n-sent)
	}
	must(t, leased(false)())
	close(stalled)
	eventually(t, leased(true))
}

// What is no beacon of this cluster is counted by its fault, and nothing comes of it.
func TestBadBeaconsAreCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	other := node.Beacon{
		Incarnation: node.Incarnation{Name: "x", Nonce: 7}, Seq: 1, Phase: node.Active, Weight: 10,
	}
	good, err := node.NewBeaconCodec("web", nil).Append(nil, &other)
	must(t, err)
	foreign, err := node.NewBeaconCodec("else", nil).Append(nil, &other)
	must(t, err)
	forged := slices.Clone(good)
	forged[len(forged)-1] ^= 1
	version := slices.Clone(good)
	version[4], version[5] = 9, 9
	want := map[node.BeaconFault][]byte{
		node.BeaconOversize: make([]byte, link.MaxBeacon+1), node.BeaconTruncated: good[:20], node.BeaconForeign: []byte("hello"),
		node.BeaconVersion: version, node.BeaconCluster: foreign, node.BeaconSignature: forged,
	}
	for _, payload := range want {
		r.line.hear(payload, link.MediumWire)
	}
	eventually(t, func() error {
		var errs []error
		for fault := range want {
			if n := r.loop.beacons.faults[fault].Load(); n != 1 {
				errs = append(errs, fmt.Errorf("%d times %s", n, fault))
			}
		}
		return errors.Join(errs...)
	})
	r.line.hear(good, link.MediumWire)
	eventually(t, func() error {
		if n := r.loop.beacons.kinds[node.HeardChallenge].Load(); n != 1 {
			return fmt.Errorf("%d challenges", n)
		}
		return nil
	})
	for kind := range r.loop.beacons.kinds {
		if n := r.loop.beacons.kinds[kind].Load(); n > 0 && node.HearingKind(kind) != node.HeardChallenge {
			t.Errorf("%d times %s", n, node.HearingKind(kind))
		}
	}
}

// The kernel counts the beacons of members by their addresses, and those that come
// from this node's own: of these it must know before there is any member, or a node
// whose segment reflects its frames would be deaf to others that are not there.
func TestTheKernelKnowsTheMembersAddresses(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a")
	known := func(want ...netip.Addr) func() error {
		return func() error {
			var got []netip.Addr
			rigs[0].filter.set(func(f *fakeFilter) { got = f.peers })
			if !slices.Equal(got, want) {
				return fmt.Errorf("peers: %v, want %v", got, want)
			}
			return nil
		}
	}
	eventually(t, known(rigs[0].cfg.Address))
	b := newRig(t, "b", func(c *Config) { c.Address = netip.MustParseAddr("192.0.2.12") })
	s.add(b)
	b.start()
	eventually(t, known(rigs[0].cfg.Address, b.cfg.Address))
}
