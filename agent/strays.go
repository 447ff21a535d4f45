package agent

import (
	"time"

	"github.com/peervip/peervip/node"
)

const (
	// rejoinFirst is how soon gossip tries again to reach whom beacons show alive;
	// each further time takes twice as long, up to gossip's own period.
	rejoinFirst = time.Second
	rejoinLast  = 15 * time.Second
)

// strays are those whom beacons show alive and gossip does not have: after the heal
// of a partition, or when only gossip is cut. It belongs to the loop.
type strays struct {
	members map[string]uint64 // by gossip: the nonce of each
	alive   map[node.Incarnation]bool
	next    node.Time // when gossip is asked again
	wait    time.Duration
}

func newStrays() strays {
	return strays{members: map[string]uint64{}, alive: map[node.Incarnation]bool{}, wait: rejoinFirst}
}

// member takes gossip's word that a node is a member; nonce 0: no more.
func (m *strays) member(name string, nonce uint64) {
	if m.members[name] = nonce; nonce == 0 {
		delete(m.members, name)
	}
	m.wait = rejoinFirst
}

// standing takes what beacons say.
func (m *strays) standing(ev node.PeerStanding) {
	if delete(m.alive, ev.Incarnation); ev.Standing == node.Alive {
		m.alive[ev.Incarnation] = true
		m.wait = rejoinFirst
	}
}

// due reports whether gossip should try to reach somebody now.
func (m *strays) due(now node.Time) bool {
	for inc := range m.alive {
		if m.members[inc.Name] == inc.Nonce {
			continue
		}
		if now < m.next {
			return false
		}
		m.next, m.wait = now+m.wait, min(2*m.wait, rejoinLast)
		return true
	}
	return false
}
