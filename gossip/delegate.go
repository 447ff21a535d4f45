package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/hashicorp/memberlist"
)

// ErrNameTaken says that another living node has this node's name.
var ErrNameTaken = errors.New("this node's name is taken")

// delegate takes memberlist's callbacks. Those about nodes come under its node
// lock, the others from many goroutines; none may block or call memberlist.
// What they are given may be reused, so it is copied.
type delegate struct{ g *Gossip }

var (
	_ memberlist.Delegate         = delegate{}
	_ memberlist.EventDelegate    = delegate{}
	_ memberlist.ConflictDelegate = delegate{}
	_ memberlist.MergeDelegate    = delegate{}
)

// NodeMeta never returns more than MaxMeta, on which memberlist panics.
func (d delegate) NodeMeta(int) []byte { return *d.g.meta.Load() }

func (d delegate) NotifyMsg(b []byte) {
	kind, parts, err := parseFrame(b)
	if err != nil {
		d.g.counts.malformed.Add(1)
		d.g.log.limited(slog.LevelWarn, "a gossip message was not understood: do all nodes run the same version?", "error", err)
		return
	}
	switch kind {
	case framePayloads:
		for _, part := range parts {
			d.g.table.event(Message{Payload: bytes.Clone(part)})
		}
	case frameGoodbye:
		d.g.table.goodbye(string(parts[0]), parts[1:]...)
	}
}

// GetBroadcasts has nothing: payloads go to one peer each.
func (d delegate) GetBroadcasts(int, int) [][]byte { return nil }

func (d delegate) LocalState(join bool) []byte { return d.g.handler.LocalState(join) }

func (d delegate) MergeRemoteState(b []byte, join bool) {
	d.g.table.event(State{Payload: bytes.Clone(b), Join: join})
}

func (d delegate) NotifyJoin(n *memberlist.Node)   { d.g.table.joined(memberOf(n)) }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.g.table.joined(memberOf(n)) }
func (d delegate) NotifyLeave(n *memberlist.Node)  { d.g.table.gone(n.Name) }

func (d delegate) NotifyConflict(known, other *memberlist.Node) {
	d.conflict(known.Name, addrOf(known), addrOf(other))
}

// NotifyMerge refuses a join with those who know this node's name as somebody
// else's: memberlist would ignore this node there without a word to it, and this
// node would think itself a member.
func (d delegate) NotifyMerge(nodes []*memberlist.Node) error {
	for _, n := range nodes {
		lives := n.State == memberlist.StateAlive || n.State == memberlist.StateSuspect
		if n.Name == d.g.cfg.Name && lives && addrOf(n) != d.g.cfg.Bind {
			d.conflict(n.Name, d.g.cfg.Bind, addrOf(n))
			return fmt.Errorf("%w by the node at %s", ErrNameTaken, addrOf(n))
		}
	}
	return nil
}

func (d delegate) conflict(name string, known, other netip.AddrPort) {
	d.g.counts.conflicts.Add(1)
	d.g.table.event(Conflict{Name: name, Known: known, Other: other})
}

func memberOf(n *memberlist.Node) Member {
	return Member{Name: n.Name, Addr: addrOf(n), Meta: bytes.Clone(n.Meta)}
}

// addrOf is the node's address, invalid if it announced none.
func addrOf(n *memberlist.Node) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(addr.Unmap(), n.Port)
}
