package agent

import (
	"testing"
	"time"

	"github.com/peervip/peervip/node"
)

// Gossip is asked at once for whom beacons show alive and it does not have, then
// ever less often, and no more when it has them or they are dead.
func TestStrays(t *testing.T) {
	const s = node.Time(time.Second)
	inc := node.Incarnation{Name: "b", Nonce: 7}
	m := newStrays()
	asked := func(now node.Time, want bool) {
		t.Helper()
		if got := m.due(now); got != want {
			t.Errorf("at %v: %t", now, got)
		}
	}
	asked(1*s, false)
	m.standing(node.PeerStanding{Incarnation: inc, Standing: node.Alive})
	asked(2*s, true)
	for _, at := range []node.Time{3, 5, 9, 17, 32, 47, 62} {
		asked(at*s-1, false)
		asked(at*s, true)
	}
	m.member("b", 6) // an earlier life
	asked(77*s, true)
	m.member("b", 7)
	asked(100*s, false)
	m.member("b", 0)
	asked(101*s, true)
	asked(101*s+1, false)
	m.standing(node.PeerStanding{Incarnation: inc, Standing: node.Dead})
	asked(200*s, false)
}
