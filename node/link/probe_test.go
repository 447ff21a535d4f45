package link

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// probeFrom probes on a fresh link of the host.
func probeFrom(h host) error {
	h.t.Helper()
	l := mustOpen(h, nil)
	return h.Do(func() error { return l.Probe(h.t.Context()) })
}

func TestProbeOfAFreeVIP(t *testing.T) {
	s := newSegment(t)
	node := s.join("n", "192.0.2.11/24")
	s.join("c", "192.0.2.1/24")
	start := time.Now()
	if err := probeFrom(node); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took < probes*probeEvery {
		t.Errorf("took %v: nobody had the time to answer", took)
	}
}

func TestProbeSeesAForeignMAC(t *testing.T) {
	s := newSegment(t)
	node, other := s.join("n", "192.0.2.11/24"), s.join("o", "192.0.2.100/24")
	err := probeFrom(node)
	var conflict *ConflictError
	if !errors.As(err, &conflict) {
		t.Fatalf("error %v, want a conflict", err)
	}
	if conflict.VIP != vip || hwAddr(conflict.MAC) != other.mac("eth0") {
		t.Errorf("conflict about %s with %s, want %s with %s", conflict.VIP, conflict.MAC, vip, other.mac("eth0"))
	}
	for _, part := range []string{"on eth0", "192.0.2.100", other.mac("eth0").String(), "01:00:5e:7f:02:64"} {
		if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %q does not say %q in one line", err, part)
		}
	}
}

func TestProbeAcceptsTheOtherNodes(t *testing.T) {
	s := newSegment(t)
	first, second, third := s.join("n1", "192.0.2.11/24"), s.join("n2", "192.0.2.12/24"), s.join("n3", "192.0.2.13/24")
	serve(first, mustOpen(first, nil))
	serve(second, mustOpen(second, nil))
	heard := captureARP(third, "eth0")
	if err := probeFrom(third); err != nil {
		t.Error(err)
	}
	if len(heard.replies(vip)) == 0 {
		t.Error("nobody answered: the test is pointless")
	}
	t.Run("but sees a foreign MAC among their answers", func(t *testing.T) {
		s.join("o", "192.0.2.100/24")
		var conflict *ConflictError
		if err := probeFrom(third); !errors.As(err, &conflict) {
			t.Errorf("error %v, want a conflict", err)
		}
	})
}

// A node with another spec.mac is a conflict, and the error says what to do.
func TestProbeSeesANodeWithAnotherClusterMAC(t *testing.T) {
	s := newSegment(t)
	first, second := s.join("n1", "192.0.2.11/24"), s.join("n2", "192.0.2.12/24")
	unicast := clusterMAC(t, "unicast")
	serve(first, mustOpen(first, func(c *Config) { c.MAC = unicast }))
	err := probeFrom(second)
	var conflict *ConflictError
	if !errors.As(err, &conflict) || hwAddr(conflict.MAC) != unicast.addr || !strings.Contains(err.Error(), "same spec.mac") {
		t.Errorf("error %v, want a conflict with %s", err, unicast)
	}
}

func TestProbeHearsOthersAnnounce(t *testing.T) {
	s := newSegment(t)
	node, other := s.join("n", "192.0.2.11/24"), s.join("o", "192.0.2.1/24")
	result := make(chan error, 1)
	go func() { result <- probeFrom(node) }()
	for {
		inject(other, "eth0", request(other.mac("eth0"), vip, vip))
		select {
		case err := <-result:
			var conflict *ConflictError
			if !errors.As(err, &conflict) || hwAddr(conflict.MAC) != other.mac("eth0") {
				t.Errorf("error %v, want a conflict", err)
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	node := newSegment(t).join("n", "192.0.2.11/24")
	l := mustOpen(node, nil)
	for _, before := range []time.Duration{0, probeEvery / 2} {
		ctx, cancel := context.WithTimeout(t.Context(), before)
		err := node.Do(func() error { return l.Probe(ctx) })
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled after %v: %v", before, err)
		}
	}
}

func TestProbeNeedsTheInterface(t *testing.T) {
	s := newSegment(t)
	node := s.join("n", "192.0.2.11/24")
	l := mustOpen(node, nil)
	s.ip("link set p1 down")
	eventually(t, "the carrier is gone", func() bool { return strings.Contains(node.ip("link show eth0"), "NO-CARRIER") })
	err := node.Do(func() error { return l.Probe(t.Context()) })
	if err == nil || err.Error() != "probing for the VIPs on eth0: interface eth0 has no carrier" {
		t.Errorf("error %v", err)
	}
}
