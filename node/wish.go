package node

import (
	"fmt"
	"slices"
)

// Wish is what an operator wants of a node, told to any node. It is kept by
// every member until the node that it names says that it has dealt with it, so a
// wish for a node that is down is not lost.
type Wish struct {
	Node string `json:"node"`
	// Stamp orders the wishes for one node; the highest is the one that counts.
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

// maxWishes bounds the wishes that a node keeps, one for each node that is named,
// against peers that invent names. A cluster has at most 64 nodes.
const maxWishes = 256

// wished deals with what a local operator wants of some node.
func (c *Core) wished(ev Wished) {
	w := ev.Wish
	w.Origin = c.cfg.Name
	if w.Node == c.cfg.Name {
		w.Stamp = nextStamp(c.obeyed, c.cfg.Nonce)
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
	w.Stamp = nextStamp(max(p.said.Obeyed, c.wishes[w.Node].Stamp), c.cfg.Nonce)
	c.keepWish(w)
	for q := range c.alivePeers() {
		q.wishSentAt, q.wishedAt = c.now, c.now
		c.send(q, &Message{Wish: &w})
	}
	if !p.alive {
		c.answer(ev.Token, "", fmt.Sprintf("%s is down; it will be told when it comes back", w.Node))
		return
	}
	c.asking[w.Node] = ev.Token
}

// keepWish keeps the wish until its node says that it has dealt with it. Whoever
// waits here for an older one is told.
func (c *Core) keepWish(w Wish) {
	c.wishes[w.Node] = w
	if token, ok := c.asking[w.Node]; ok {
		delete(c.asking, w.Node)
		c.answer(token, inBetween(w.Node), "")
	}
}

func inBetween(node string) string {
	return fmt.Sprintf("another command for %s came in between; see `peervip status`", node)
}

func (c *Core) receiveWish(p *peer, w Wish) {
	if w.Node != c.cfg.Name {
		if t := c.peers[w.Node]; t != nil && t.said != nil && t.said.Obeyed >= w.Stamp {
			return
		}
		kept, known := c.wishes[w.Node]
		if w.Stamp > kept.Stamp && (known || len(c.wishes) < maxWishes) {
			c.keepWish(w)
		}
		return
	}
	if w.Stamp > c.obeyed {
		c.verdict = Verdict{Stamp: w.Stamp, Refused: c.obey(w)}
	}
	if w.Origin == p.Name {
		v := Verdict{Stamp: w.Stamp} // obeyed in an earlier life
		switch {
		case c.verdict.Stamp == w.Stamp:
			v = c.verdict
		case w.Stamp < c.obeyed:
			v.Refused = inBetween(w.Node)
		}
		c.send(p, &Message{Verdict: &v})
	}
}

func (c *Core) receiveVerdict(p *peer, v *Verdict) {
	if w, ok := c.wishes[p.Name]; ok && v.Stamp >= w.Stamp {
		delete(c.wishes, p.Name)
		if token, ok := c.asking[p.Name]; ok {
			delete(c.asking, p.Name)
			c.answer(token, v.Refused, "")
		}
	}
}

// forgetWish forgets the wish for a peer that says that it has dealt with it,
// unless an operator here waits for its verdict.
func (c *Core) forgetWish(p *peer) {
	_, waits := c.asking[p.Name]
	if w, ok := c.wishes[p.Name]; ok && p.said.Obeyed >= w.Stamp && !waits {
		delete(c.wishes, p.Name)
	}
}

// recallTo keeps a wish for a peer in doubt that was not drained when it was last heard.
func (c *Core) recallTo(p *peer) {
	if _, wished := c.wishes[p.Name]; p.said.Doubt && p.recall > p.said.Obeyed && !wished {
		c.keepWish(Wish{Node: p.Name, Stamp: p.recall, Origin: c.cfg.Name, Want: WantResume, Recalled: true})
	}
}

// obey does what is wished of this node, and returns why not if it cannot.
func (c *Core) obey(w Wish) (refused string) {
	c.obeyed = max(c.obeyed, w.Stamp)
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
	c.out = append(c.out, Save{Drained: c.drained, Forced: c.forced, Grace: c.wishedGrace, Obeyed: c.obeyed, Doubt: c.doubt})
	return refused
}
