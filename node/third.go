package node

import (
	"maps"
	"slices"
)

// A message between two nodes that do not reach each other goes through a third. What
// stays unanswered is also sent to another peer, a different one each time, which passes
// it on to the node that it is for, once. So two nodes that are deaf to each other
// still tell each other what they claim, agree, and hand buckets over. When all is well
// nothing is sent twice.
//
// The nonce in Message.To is that of the node that the message is for. So an older
// program that gets one to pass on drops it, since it is for another life than its own.

// way is how messages pass between this node and a peer.
type way struct {
	via    string // passed on the last message of the peer that did not come directly
	viaAt  Time   // 0: none has come
	backBy Time   // until then what is sent also goes through via: the peer has asked for it
	vainBy Time   // until then it does since the peer has left something unanswered
	turn   int    // of the others, when one after another is tried

	relays     int  // how often messages of the peer have come through others and none directly
	relaysAt   Time // when that was counted last: what comes together counts once
	indirect   bool // often enough for this node to say so
	indirectAt Time
}

// came notes by which way a message of the peer has come.
func (c *Core) came(p *peer, m *Message) {
	w := &p.way
	t := c.cfg.Timing
	if m.Via == "" {
		w.relays = 0
		if w.indirect && c.now >= w.indirectAt+t.Alone { // not sooner, or single losses would make much news
			w.indirect = false
		}
		return
	}
	if w.relays == 0 || c.now >= w.relaysAt+t.Mourn {
		w.relays, w.relaysAt = w.relays+1, c.now
	}
	w.via, w.viaAt = m.Via, c.now
	if m.Back {
		w.backBy = c.now + t.Mourn
	}
	if !w.indirect && w.relays >= 3 {
		w.indirect, w.indirectAt = true, c.now
	}
}

// sendSince sends a message whose answer this node has waited for since then; 0: it is
// new, or has no answer. One that has been repeated in vain goes through a third too.
func (c *Core) sendSince(p *peer, m *Message, since Time) {
	c.sendDirectly(p, m)
	if m.Flows != nil { // for people only
		return
	}
	w := &p.way
	vain := since > 0 && c.now >= since+2*c.cfg.Timing.Retry
	if vain {
		w.vainBy = c.now + c.cfg.Timing.Alone
	}
	back := c.now < w.vainBy || w.indirect || p.heard != nil && p.heard.hearsay
	if !back && c.now >= w.backBy && !p.hears(c.cfg.Name) {
		return
	}
	if third := c.third(p, vain && w.viaAt < since); third != nil {
		relayed := *m
		relayed.For, relayed.Back = p.Name, back
		relayed.Format = min(m.Format, third.formatFor())
		c.out = append(c.out, Send{To: third.Name, Unlisted: !third.listed, Message: &relayed})
	}
}

// hears reports whether the peer says that messages of the node reach it only through others.
func (p *peer) hears(node string) bool {
	return p.said != nil && slices.Contains(p.said.Relayed, node)
}

// third is who is asked to pass on a message to the peer; nil: there is nobody. It is who
// passed on something of that peer last, or another one if that was in vain.
func (c *Core) third(p *peer, another bool) *peer {
	if q := c.peers[p.way.via]; !another && q != nil && q != p && q.alive {
		return q
	}
	var others []*peer
	for q := range c.alivePeers() {
		if q != p {
			others = append(others, q)
		}
	}
	if len(others) == 0 {
		return nil
	}
	if another {
		p.way.turn++
	}
	start := len(c.cfg.Name) + len(p.Name) // any number will do, if it is not the same for all
	for _, b := range []byte(c.cfg.Name + p.Name) {
		start += int(b)
	}
	return others[(start+p.way.turn)%len(others)]
}

// passOn passes a message on to the node that it is for. One that was passed on already
// goes no further.
func (c *Core) passOn(m *Message) {
	p := c.peers[m.For]
	if p == nil || !p.alive || m.To != p.Nonce || m.Via != "" || c.alivePeer(m.From) == nil {
		return
	}
	relayed := *m
	relayed.Via = c.cfg.Name
	c.out = append(c.out, Send{To: p.Name, Unlisted: !p.listed, Message: &relayed})
}

// relayed are the peers, by name, whose messages reach this node only through others.
func (c *Core) relayed() []string {
	var names []string
	for p := range c.alivePeers() {
		if p.way.indirect {
			names = append(names, p.Name)
		}
	}
	return names
}

// relayProblems says between which nodes messages pass only through others. Everybody says
// so, whoever they are.
func (c *Core) relayProblems(add func(string, ...any)) {
	deaf := map[string][]string{c.cfg.Name: c.relayed()}
	for p := range c.alivePeers() {
		if p.said != nil {
			deaf[p.Name] = p.said.Relayed
		}
	}
	for _, to := range slices.Sorted(maps.Keys(deaf)) {
		for _, from := range deaf[to] {
			mutual := slices.Contains(deaf[from], to)
			switch {
			case mutual && from < to: // said already
			case mutual:
				add("messages between %s and %s pass only through other nodes: look for a firewall between the two at cluster.port, TCP and UDP", to, from)
			default:
				add("messages of %s reach %s only through other nodes: look for a firewall between the two at cluster.port, TCP and UDP", from, to)
			}
		}
	}
}
