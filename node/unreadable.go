package node

import (
	"fmt"
	"maps"
	"slices"
)

// Members that this program does not understand: gossip lists them, and the formats of
// their messages or beacons are none that it reads. What they claim cannot be known, nor can
// they be asked for it, so a node does not begin to serve beside one that serves. Whether
// one serves the head of its beacons says, which can be read in all formats. One that does not
// serve stops nobody who hears a peer that does: else a single node with a program that
// is too new would keep all others from restarting.

// unreadMember is such a member.
type unreadMember struct {
	PeerUnreadable
	since Time
}

// peerUnreadable takes note of a member. What was known of an earlier life of it ends.
func (c *Core) peerUnreadable(ev PeerUnreadable) {
	c.peerDead(PeerDead{Name: ev.Name})
	if c.outside.unread == nil {
		c.outside.unread = map[string]unreadMember{}
	}
	m, known := c.outside.unread[ev.Name]
	if !known {
		m.since = c.now
	}
	m.PeerUnreadable = ev
	c.outside.unread[ev.Name] = m
}

// unreadableForbid says why such members keep this node from serving; "": they do not.
func (c *Core) unreadableForbid() string {
	served := false // by a peer that is understood
	for p := range c.alivePeers() {
		served = served || c.authenticated(p) && p.serves()
	}
	for _, name := range slices.Sorted(maps.Keys(c.outside.unread)) {
		m := c.outside.unread[name]
		if c.outside.despite[m.Address] {
			continue
		}
		heard := slices.IndexFunc(c.outside.list, func(s Stranger) bool { return s.Unreadable() && s.Address == m.Address })
		switch {
		case heard >= 0 && c.outside.list[heard].Serves:
			return fmt.Sprintf("%s serves, and this program does not understand it: %s", name, m.Why)
		case !served:
			return fmt.Sprintf("%s is a member, and this program does not understand it: %s", name, m.Why)
		case heard < 0 && c.now < m.since+c.cfg.Timing.Alone:
			return fmt.Sprintf("whether %s serves is not known yet, and this program does not understand it: %s", name, m.Why)
		}
	}
	return ""
}
