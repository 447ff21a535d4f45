package link

import (
	"net/netip"
	"testing"
	"time"
)

func TestEvidenceThatTheWireForwards(t *testing.T) {
	s := newSegment(t)
	node, user := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24")
	asked := captureARP(user, "eth0")
	evidence := func(t *testing.T, isolated bool, route string, targets ...netip.Addr) {
		if isolated { // a port that has a carrier and forwards nothing
			s.ip("link set p1 nomaster")
			defer s.ip("link set p1 master br0")
		}
		if route != "" {
			node.ip("route add " + route)
			defer node.ip("route del " + route)
		}
		l := mustOpen(node, nil)
		l.lookEvery = 20 * time.Millisecond
		before := len(asked.about(l.Address()))
		seen, stop := run(node, l)
		defer stop()
		seen.await(t, "")
		l.Ask(targets)
		if !isolated {
			eventually(t, "an answer", l.Heard)
			time.Sleep(5 * l.lookEvery) // what was under way has come
			enough := len(asked.about(l.Address()))
			time.Sleep(20 * l.lookEvery)
			if got := len(asked.about(l.Address())); got != enough {
				t.Errorf("%d more requests after the answer", got-enough)
			}
			return
		}
		time.Sleep(20 * l.lookEvery) // time for many requests
		if l.Heard() {
			t.Error("an answer was heard on an isolated port")
		}
		if got := len(asked.about(l.Address())); got != before {
			t.Errorf("the port was to be isolated, but %d requests came through", got-before)
		}
		s.ip("link set p1 master br0")
		eventually(t, "an answer when the wire forwards", l.Heard)
	}
	t.Run("a seed answers", func(t *testing.T) { evidence(t, false, "", netip.MustParseAddr("192.0.2.77"), client) })
	t.Run("the gateway answers", func(t *testing.T) { evidence(t, false, "default via 192.0.2.1") })
	t.Run("one of several gateways answers", func(t *testing.T) {
		evidence(t, false, "default nexthop via 192.0.2.78 dev eth0 nexthop via 192.0.2.1 dev eth0")
	})
	t.Run("isolated port", func(t *testing.T) { evidence(t, true, "", client) })
	t.Run("nobody asked", func(t *testing.T) {
		l := mustOpen(node, nil)
		l.lookEvery = 10 * time.Millisecond
		seen, stop := run(node, l)
		defer stop()
		seen.await(t, "")
		before := len(asked.about(l.Address()))
		time.Sleep(20 * l.lookEvery)
		if l.Heard() || len(asked.about(l.Address())) != before {
			t.Error("requests were sent though nobody asked for evidence")
		}
	})
	t.Run("own addresses prove nothing", func(t *testing.T) {
		l := mustOpen(node, nil)
		l.lookEvery = 10 * time.Millisecond
		seen, stop := run(node, l)
		defer stop()
		seen.await(t, "")
		l.Ask(append(addrs("2001:db8::1"), l.Address(), vip))
		time.Sleep(20 * l.lookEvery)
		if l.Heard() {
			t.Error("heard")
		}
	})
}

func TestHeardIsForgottenWithTheCarrier(t *testing.T) {
	s := newSegment(t)
	node := s.join("n", "192.0.2.11/24")
	s.join("c", "192.0.2.1/24")
	l := mustOpen(node, nil)
	l.lookEvery = 20 * time.Millisecond
	seen, _ := run(node, l)
	seen.await(t, "")
	l.Ask([]netip.Addr{client})
	eventually(t, "an answer", l.Heard)
	s.ip("link set p1 down")
	eventually(t, "the answer is forgotten", func() bool { return !l.Heard() })
	s.ip("link set p1 up")
	eventually(t, "an answer after the carrier is back", l.Heard)
}
