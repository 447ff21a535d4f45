package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// fakeAsker is a segment where every address has a MAC, and somebody answers for the VIP,
// unless it cannot be asked.
type fakeAsker struct{ err error }

var answeringMAC = net.HardwareAddr{2, 0, 0, 0, 0, 99}

func (f fakeAsker) AskVIP(context.Context) (net.HardwareAddr, error) {
	if f.err != nil {
		return nil, f.err
	}
	return answeringMAC, nil
}

func (fakeAsker) Resolve(_ context.Context, targets []netip.Addr) (map[netip.Addr]net.HardwareAddr, error) {
	found := map[netip.Addr]net.HardwareAddr{}
	for _, a := range targets {
		found[a] = net.HardwareAddr{2, 0, 0, 0, 0, a.As4()[3]}
	}
	return found, nil
}

// stranger sends beacons of another key to a rig, each 20 ms, until it is stopped.
type stranger struct {
	address string
	cluster string
	key     byte
	phase   node.Phase
	far     bool // it is behind a router
}

func (s stranger) beside(t *testing.T, r *rig) (stop func()) {
	t.Helper()
	codec := node.NewBeaconCodec(s.cluster, []node.BeaconKey{node.BeaconKey(bytes.Repeat([]byte{s.key}, 32))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		began := time.Now()
		for {
			b := node.Beacon{Incarnation: node.Incarnation{Name: "x", Nonce: 77}, Seq: node.SeqAt(time.Hour + time.Since(began)), Phase: s.phase, Weight: 10}
			payload, err := codec.Append(nil, &b)
			if err != nil {
				panic(err)
			}
			select {
			case r.line.incoming <- link.Received{Payload: payload, Source: netip.MustParseAddrPort(s.address + ":7947"), TTL: 255, Near: !s.far}:
			case <-ctx.Done():
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// TestAStrangerThatServesKeepsANodeFromServing and says why, until it ends or the
// operator decides.
func TestAStrangerThatServesKeepsANodeFromServing(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]func(r *rig, stop func()) error{
		"it ends": func(_ *rig, stop func()) error { stop(); return nil },
		"the operator decides": func(r *rig, _ func()) error {
			_, err := r.client.Serve(t.Context(), ServeRequest{Despite: []string{"192.0.2.14"}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "a").start()
			stop := stranger{address: "192.0.2.14", cluster: "web", key: 9, phase: node.Active}.beside(t, r)
			r.loop.Event(gossip.Attempt{})
			r.problem(t, true, "not serving yet: this cluster's address is served already, by nodes that are none of this cluster: 192.0.2.14 (another key); compare cluster.key_file here and there")
			r.problem(t, true, "it is proved: 02:00:00:00:00:63 has answered an echo request to the address; to serve all the same: `peervip serve --despite 192.0.2.14`")
			s := r.status(t)
			if len(s.Strangers) != 1 || fmt.Sprint(s.Strangers[0]) != "{192.0.2.14 02:00:00:00:00:0e [key] true 1}" || s.Phase != "joining" {
				t.Errorf("%s: %+v", s.Phase, s.Strangers)
			}
			must(t, ends(r, stop))
			r.phase(t, node.Active)
		})
	}
}

// TestWhoServesGoesOnBesideAStranger, and is not well: the log says when it begins and
// ends, with the address.
func TestWhoServesGoesOnBesideAStranger(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	r.loop.Event(gossip.Attempt{})
	r.phase(t, node.Active)
	stop := stranger{address: "192.0.2.14", cluster: "wbe", phase: node.Joining}.beside(t, r)
	const text = "a node that is none of this cluster is on the wire: 192.0.2.14 (02:00:00:00:00:0e, another cluster.name with this cluster's key); compare cluster.name here and there"
	r.problem(t, true, text)
	if s := r.status(t); s.Alert != "strangers on the wire" || s.Phase != "active" {
		t.Errorf("%s, alert %q", s.Phase, s.Alert)
	}
	r.logs(t, "level=WARN msg=\""+text)
	stop()
	r.problem(t, false, "192.0.2.14") // nor is what it sent first called noise
	r.logs(t, "level=INFO msg=\"over: "+text)
	if s := r.status(t); s.Alert != "" || len(s.Strangers) > 0 {
		t.Errorf("alert %q, strangers %v", s.Alert, s.Strangers)
	}
}

// logs waits until the log has the words.
func (r *rig) logs(t *testing.T, words string) {
	t.Helper()
	eventually(t, func() error {
		if !strings.Contains(r.log.String(), words) {
			return fmt.Errorf("the log has no %q", words)
		}
		return nil
	})
}

// TestNoiseIsNoStranger: who is behind a router, or sends now and then, keeps nobody from
// serving; it is said from where it comes, and that it may be forged.
func TestNoiseIsNoStranger(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	stop := stranger{address: "198.51.100.7", cluster: "web", key: 9, phase: node.Active, far: true}.beside(t, r)
	r.loop.Event(gossip.Attempt{})
	r.phase(t, node.Active)
	r.problem(t, true, "datagrams come to the beacon port that no node of this cluster has made (they differ by key), the last from 198.51.100.7, ")
	if s := r.status(t); len(s.Strangers) > 0 || s.Alert != "" {
		t.Errorf("alert %q, strangers %v", s.Alert, s.Strangers)
	}
	stop()
}

// TestServeDespiteNobody says so, and is kept for who comes.
func TestServeDespiteNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	reply, err := r.client.Serve(t.Context(), ServeRequest{Despite: []string{"192.0.2.14"}})
	if err != nil || reply.Note != "no stranger at 192.0.2.14 is heard now; one that comes will not keep a from serving" {
		t.Errorf("%+v, %v", reply, err)
	}
	for _, despite := range [][]string{nil, {"web-1"}} {
		if _, err := r.client.Serve(t.Context(), ServeRequest{Despite: despite}); err == nil {
			t.Errorf("%q was taken", despite)
		}
	}
	stranger{address: "192.0.2.14", cluster: "web", key: 9, phase: node.Active}.beside(t, r)
	r.loop.Event(gossip.Attempt{})
	r.phase(t, node.Active)
	// It holds until the next start, and this one may have several lives.
	r.loop.queue.put(func() { r.loop.fatal = errMoved })
	if err := r.end(t); !errors.Is(err, errMoved) {
		t.Fatal(err)
	}
	next := newRig(t, "a")
	next.loop.despite = r.loop.despite
	next.start()
	stranger{address: "192.0.2.14", cluster: "web", key: 9, phase: node.Active}.beside(t, next)
	next.loop.Event(gossip.Attempt{})
	next.phase(t, node.Active)
}

// TestServeDespiteNoStranger: an address that no stranger can have is refused in a line.
func TestServeDespiteNoStranger(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	for addr, why := range map[string]string{
		"::1":             "beacons come from IPv4 addresses",
		"fe80::1%eth0":    "beacons come from IPv4 addresses",
		"192.0.2.11":      "it is this node's own address",
		"192.0.2.100":     "it is the address that is shared",
		"127.0.0.1":       "no other host sends from there",
		"0.0.0.0":         "no other host sends from there",
		"224.0.0.1":       "no other host sends from there",
		"255.255.255.255": "no other host sends from there",
	} {
		_, err := r.client.Serve(t.Context(), ServeRequest{Despite: []string{"192.0.2.14", addr}})
		want := addr + " cannot be a stranger's address (" + why + "): `peervip status` has those of the strangers"
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := r.client.Serve(t.Context(), ServeRequest{Despite: []string{"::ffff:192.0.2.14"}}); err != nil {
		t.Errorf("an IPv4 address as IPv6 writes it: %v", err)
	}
}

// TestAnAddressThatCannotBeAsked: what went wrong is said, and not that nobody answers.
func TestAnAddressThatCannotBeAsked(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a")
	r.agent.asker = fakeAsker{err: errFake}
	r.start()
	stranger{address: "192.0.2.14", cluster: "web", key: 9, phase: node.Active}.beside(t, r)
	r.loop.Event(gossip.Attempt{})
	r.problem(t, true, fmt.Sprintf("it may be forged: the address could not be asked (%v); to serve all the same", errFake))
}
