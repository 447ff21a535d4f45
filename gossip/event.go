package gossip

import "net/netip"

// Member is another node of the cluster, as memberlist knows it.
type Member struct {
	// Name is the node's name.
	Name string
	// Addr is the node's address and gossip port.
	Addr netip.AddrPort
	// Meta is what the node says about itself, at most MaxMeta bytes. Nobody
	// may change it.
	Meta []byte
}

// Peer is a node's name and the address where it was last a member: what is
// worth remembering over a restart.
type Peer struct {
	Name string         `json:"name"`
	Addr netip.AddrPort `json:"addr"`
}

// Handler receives what gossip hears. Both methods must return at once (put the
// event in a queue), and must not call into Gossip: they run under locks of
// memberlist and of this package, so a slow handler makes this node look dead
// and a call back never returns.
type Handler interface {
	// Event takes one event. Calls come one after the other, from many
	// goroutines, and none comes after Close or Leave has returned.
	Event(Event)
	// LocalState returns the whole state to send in a state exchange, which
	// is also called concurrently. Join says that one side is joining. The
	// peer gets it as a State event, unless it is empty.
	LocalState(join bool) []byte
}

// Event is one of Alive, Dead, Message, State, Conflict and Attempt.
type Event interface{ event() }

// Alive says that a node is a member: new, back from the dead, perhaps at another
// address, or with a changed Meta. A node that restarts faster than its death is
// noticed shows as a changed Meta only, which is why Meta needs a boot nonce.
type Alive struct{ Member }

// Dead says that a node is no member any more. Left tells a goodbye from a
// silence. When the news of the leave outran the goodbye itself, Dead comes a
// second time, with Left set.
type Dead struct {
	Name string
	Left bool
}

// Message is a payload that a peer sent. It names no sender, and messages come
// in any order, sometimes never: whoever writes payloads puts the sender, its
// boot nonce and a version in them, and repeats what matters.
type Message struct{ Payload []byte }

// State is a peer's LocalState, from a state exchange.
type State struct {
	Payload []byte
	Join    bool
}

// Conflict says that two living nodes use one name: the one that this node
// knows at Known, and one at Other. Where Name is this node's own, Known is this
// node. It is repeated for as long as memberlist meets the contradiction, at
// least every few seconds, and also seen for a moment when a crashed node comes
// back at another address before its death was noticed.
type Conflict struct {
	Name         string
	Known, Other netip.AddrPort
}

// Attempt is the outcome of one round of the rejoin loop, also of one in which
// nobody was left to try. Err says why nodes
// were not reached, even when others were; it is a SeedErrors.
type Attempt struct {
	Reached int
	Err     error
}

func (Alive) event()    {}
func (Dead) event()     {}
func (Message) event()  {}
func (State) event()    {}
func (Conflict) event() {}
func (Attempt) event()  {}
