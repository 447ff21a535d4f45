package node

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Wish is what an operator wants of a node, told to any node. It is kept by
// every member until the node that it names says that it has dealt with it, so a
// wish for a node that is down is not lost.
type Wish struct {
	Node string `json:"node"`
	// Stamp orders the wishes for one node; the highest of a topic is the one that counts.
	Stamp uint64 `json:"stamp"`
	// Origin is the node where the operator said it; it hears the verdict.
	Origin string   `json:"origin"`
	Want   WishKind `json:"want"`
	// Force drains even the last node that serves.
	Force bool `json:"force,omitempty"`
	// Grace is how long the flows of the node that drains may go on; nil: as long as the
	// spec says (Config.DrainTimeout).
	Grace *Time `json:"grace_ns,omitempty"`
	// Weight is the new weight, for WantWeight.
	Weight int `json:"weight,omitempty"`
	// Recalled: no operator said it, but a peer that knows that the node was not drained
	// when it was last heard. It counts only for as long as the node is in doubt.
	Recalled bool `json:"recalled,omitempty"`
}

// WishKind is what is wanted.
type WishKind string

// What an operator can want of any node.
const (
	WantDrain  WishKind = "drain"
	WantResume WishKind = "resume"
	WantWeight WishKind = "weight"
)

// Topic is what a wish is about. Of the wishes for one node and topic the last counts, and
// one of another topic undoes none of them.
type Topic string

// The topics of wishes.
const (
	TopicDuty   Topic = "duty" // drain and resume
	TopicWeight Topic = "weight"
	TopicOther  Topic = "other" // of a later version
)

func (k WishKind) topic() Topic {
	switch k {
	case WantDrain, WantResume:
		return TopicDuty
	case WantWeight:
		return TopicWeight
	}
	return TopicOther
}

// Stamps are those of the last wishes that a node has dealt with, by topic.
type Stamps map[Topic]uint64

// last is the highest of them.
func (s Stamps) last() (last uint64) {
	for _, stamp := range s {
		last = max(last, stamp)
	}
	return last
}

// of returns the stamp of a topic. A node of an older version knows only the last of all.
func (s Stamps) of(topic Topic, last uint64) uint64 {
	if len(s) == 0 || topic == TopicOther {
		return last
	}
	return s[topic]
}

// obeyed is the stamp of the last wish of that topic that the peer has dealt with.
func (p *peer) obeyed(topic Topic) uint64 { return p.said.Stamps.of(topic, p.said.Obeyed) }

// obeyed is the same of this node.
func (c *Core) obeyed(topic Topic) uint64 { return c.stamps.of(topic, c.stamps.last()) }

// remembered are the stamps of an earlier life. One of an older version has left only the
// last of all: what was wished before that is over.
func remembered(stamps Stamps, last uint64) Stamps {
	switch {
	case len(stamps) > 0:
		return maps.Clone(stamps)
	case last > 0:
		return Stamps{TopicDuty: last, TopicWeight: last}
	}
	return Stamps{}
}

// wishKey is for which node a wish is, and what it is about.
type wishKey struct {
	node  string
	topic Topic
}

func (w *Wish) key() wishKey { return wishKey{w.Node, w.Want.topic()} }

// keptWishes are the wishes that this node keeps, for one node or (if node is "") for all,
// in the order in which they were made: a node of an older version obeys only rising stamps.
func (c *Core) keptWishes(node string) []Wish {
	if len(c.wishes) == 0 {
		return nil
	}
	var list []Wish
	for key, w := range c.wishes {
		if node == "" || key.node == node {
			list = append(list, w)
		}
	}
	slices.SortFunc(list, func(a, b Wish) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Stamp, b.Stamp), cmp.Compare(a.Want, b.Want))
	})
	return list
}

// answerAll ends the waits of the operators who have asked something of the node.
func (c *Core) answerAll(node, refused, note string) {
	for _, topic := range []Topic{TopicDuty, TopicWeight, TopicOther} {
		if token, waits := c.asking[wishKey{node, topic}]; waits {
			delete(c.asking, wishKey{node, topic})
			c.answer(token, refused, note)
		}
	}
}

// Verdict is the named node's word on a wish, told to its origin. An empty
// Refused means that the wish was obeyed.
type Verdict struct {
	Stamp   uint64 `json:"stamp"`
	Refused string `json:"refused,omitempty"`
}

// maxStamp is the highest stamp that is believed; above it nextStamp would run
// over.
const maxStamp = 1 << 63

// nextStamp is a stamp above the last one: a count, and below it a trace of the
// origin's nonce, so that two operators who wish at the same moment on two nodes
// get different stamps.
func nextStamp(last, nonce uint64) uint64 { return (last>>32+1)<<32 | nonce&(1<<32-1) }

// maxWishes bounds the wishes that a node keeps, one for each node and topic that is named,
// against peers that invent names. A cluster has at most 64 nodes.
const maxWishes = 256

// wished deals with what a local operator wants of some node.
func (c *Core) wished(ev Wished) {
	w := ev.Wish
	w.Origin = c.cfg.Name
	if w.Node == c.cfg.Name {
		w.Stamp = nextStamp(c.stamps.last(), c.cfg.Nonce)
		c.answer(ev.Token, c.obey(w), "")
		return
	}
	p := c.peers[w.Node]
	switch {
	case p == nil && slices.ContainsFunc(c.mourned, func(m mourning) bool { return m.restarts && m.Name == w.Node }):
		c.answer(ev.Token, fmt.Sprintf("%s is restarting; try again when `peervip status` shows it active", w.Node), "")
		return
	case p == nil:
		c.answer(ev.Token, fmt.Sprintf("no node is named %q; `peervip status` lists them", w.Node), "")
		return
	case p.said == nil: // which stamp would be a new one is not known either
		c.answer(ev.Token, fmt.Sprintf("%s has not said anything yet; try again in a moment", w.Node), "")
		return
	}
	last := p.said.Obeyed
	for _, kept := range c.keptWishes(w.Node) {
		last = max(last, kept.Stamp)
	}
	w.Stamp = nextStamp(last, c.cfg.Nonce)
	c.keepWish(w)
	for q := range c.alivePeers() {
		q.wishSentAt, q.wishedAt = c.now, c.now
		c.send(q, &Message{Wish: &w})
	}
	if !p.alive {
		c.answer(ev.Token, "", fmt.Sprintf("%s is down; it will be told when it comes back", w.Node))
		return
	}
	c.asking[w.key()] = ev.Token
}

// keepWish keeps the wish until its node says that it has dealt with it. Whoever
// waits here for an older one is told.
func (c *Core) keepWish(w Wish) {
	c.wishes[w.key()] = w
	if p := c.peers[w.Node]; p != nil {
		p.wishedAt = c.now
	}
	if token, ok := c.asking[w.key()]; ok {
		delete(c.asking, w.key())
		c.answer(token, inBetween(w.Node), "")
	}
}

func inBetween(node string) string {
	return fmt.Sprintf("another command for %s came in between; see `peervip status`", node)
}

func (c *Core) receiveWish(p *peer, w Wish) {
	if w.Node != c.cfg.Name {
		if t := c.peers[w.Node]; t != nil && t.said != nil && t.obeyed(w.Want.topic()) >= w.Stamp {
			return
		}
		kept, known := c.wishes[w.key()]
		if w.Stamp > kept.Stamp && (known || len(c.wishes) < maxWishes) {
			c.keepWish(w)
		}
		return
	}
	topic := w.Want.topic()
	if w.Stamp > c.obeyed(topic) {
		c.verdicts[topic] = Verdict{Stamp: w.Stamp, Refused: c.obey(w)}
	}
	if w.Origin == p.Name {
		v := Verdict{Stamp: w.Stamp} // obeyed in an earlier life
		switch {
		case c.verdicts[topic].Stamp == w.Stamp:
			v = c.verdicts[topic]
		case w.Stamp < c.obeyed(topic):
			v.Refused = inBetween(w.Node)
		}
		c.send(p, &Message{Verdict: &v})
	}
}

func (c *Core) receiveVerdict(p *peer, v *Verdict) {
	for _, w := range c.keptWishes(p.Name) {
		if v.Stamp != w.Stamp {
			continue
		}
		delete(c.wishes, w.key())
		if token, ok := c.asking[w.key()]; ok {
			delete(c.asking, w.key())
			c.answer(token, v.Refused, "")
		}
	}
}

// forgetWish forgets the wishes for a peer that says that it has dealt with them,
// unless an operator here waits for its verdict.
func (c *Core) forgetWish(p *peer) {
	for _, w := range c.keptWishes(p.Name) {
		if _, waits := c.asking[w.key()]; !waits && p.obeyed(w.Want.topic()) >= w.Stamp {
			delete(c.wishes, w.key())
		}
	}
}

// recallTo keeps a wish for a peer in doubt that was not drained when it was last heard.
func (c *Core) recallTo(p *peer) {
	if _, wished := c.wishes[wishKey{p.Name, TopicDuty}]; p.said.Doubt && p.recall > p.obeyed(TopicDuty) && !wished {
		c.keepWish(Wish{Node: p.Name, Stamp: p.recall, Origin: c.cfg.Name, Want: WantResume, Recalled: true})
	}
}

// obey does what is wished of this node, and returns why not if it cannot.
func (c *Core) obey(w Wish) (refused string) {
	topic := w.Want.topic()
	c.stamps[topic] = max(c.stamps[topic], w.Stamp)
	switch w.Want {
	case WantDrain:
		refused = c.drain(w.Force, w.Grace)
		c.doubt = c.doubt && refused != ""
	case WantResume:
		if w.Recalled && !c.doubt {
			break
		}
		if w.Recalled {
			c.notice(false, "%s knows that this node was not drained", w.Origin)
		}
		refused = c.resume()
		c.doubt = c.doubt && refused != ""
	case WantWeight:
		if w.Weight < 1 || w.Weight > MaxWeight {
			refused = fmt.Sprintf("weight %d: must be 1 to %d", w.Weight, MaxWeight)
			break
		}
		c.wantWeight = Tenths(w.Weight)
	default:
		refused = fmt.Sprintf("%s does not know how to %q; is it an older version?", c.cfg.Name, w.Want)
	}
	c.out = append(c.out, Save{Drained: c.drained, Forced: c.forced, Grace: c.wishedGrace, Obeyed: c.stamps.last(), Stamps: maps.Clone(c.stamps), Doubt: c.doubt})
	return refused
}
