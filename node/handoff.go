package node

import (
	"maps"
	"slices"

	"github.com/peervip/peervip/hashring"
)

// request is this node, as heir, asking a holder for slots.
type request struct {
	id     uint64
	to     Incarnation
	slots  hashring.Set // not answered yet
	taken  hashring.Set // granted and accepted
	closed hashring.Set // taken, and in the kernel: may be confirmed
	// version of the holder's statement that shows the promise.
	version uint64
	sentAt  Time // 0: not yet
	firstAt Time // when it was sent first
}

// grant is this node, as holder, giving slots to an heir.
type grant struct {
	to    Incarnation
	id    uint64
	slots hashring.Set // not confirmed yet
	// version of this node's statement that first showed the promise; 0 while the
	// kernel has not released the slots.
	version uint64
	sentAt  Time
	firstAt Time // when it was sent first
}

// ask requests slots of a holder, in one message. It goes out after the statement with
// the view that it comes of: by an older one the holder may judge otherwise.
func (c *Core) ask(p *peer, slots hashring.Set) {
	r := &request{id: c.nextID(), to: p.Incarnation, slots: slots, taken: c.cfg.newSet(), closed: c.cfg.newSet()}
	c.requests[r.id] = r
	c.requested.AddAll(slots)
}

func (c *Core) sendRequest(r *request) {
	if p := c.alivePeer(r.to); p != nil {
		if r.sentAt = c.now; r.firstAt == 0 {
			r.firstAt = c.now
		}
		c.catchUp(p)
		c.sendSince(p, &Message{Request: &Request{ID: r.id, Slots: r.slots.Clone()}}, r.firstAt)
	}
}

// receiveRequest is the holder's judgement, slot by slot: not whether the views
// agree, but whether this slot should go to that heir. What is granted is
// released in the kernel first.
//
// An heir that has not got what this node has told it last might not get a grant either,
// and the slots would be nobody's. Its request waits until it has (see judgeDeferred).
func (c *Core) receiveRequest(p *peer, q *Request) {
	known := c.findGrant(p.Incarnation, q.ID)
	if q.ID < p.takes() {
		return
	}
	if p.acked < p.sent && known == nil {
		p.putOff(q)
		return
	}
	// A repetition gets the grant again, as long as it is not confirmed; never a
	// second one, which an old confirmation could end.
	repeated := q.ID <= p.granted
	refused := map[Reason]hashring.Set{}
	refuse := func(slot Slot, why Reason) {
		set, ok := refused[why]
		if !ok {
			set = c.cfg.newSet()
			refused[why] = set
		}
		set.Add(slot)
	}
	give, doubled := c.cfg.newSet(), c.claimed()
	for slot := range q.Slots.All() {
		if known != nil && known.slots.Has(slot) {
			continue
		}
		why := c.judge(p, slot)
		if why == 0 && (repeated || doubled.Has(slot)) {
			why = InMotion
		}
		if why != 0 {
			refuse(slot, why)
			continue
		}
		give.Add(slot)
	}
	for _, why := range slices.Sorted(maps.Keys(refused)) {
		c.send(p, &Message{Refusal: &Refusal{ID: q.ID, Reason: why, Slots: refused[why]}})
	}
	switch {
	case known != nil && known.version == 0: // a slow kernel; the heir must not give up
		c.send(p, &Message{Ack: &Ack{Nonce: p.Nonce, Version: p.version()}})
	case known != nil:
		c.sendGrant(known)
	}
	if give.Empty() {
		return
	}
	p.granted = q.ID
	if c.cutBy > 0 { // flows that were served until now have their time from now on
		c.cutBy = max(c.cutBy, c.now+c.grace())
	}
	c.want.RemoveAll(give)
	c.linger(give)
	c.yield(give)
	c.promised.AddAll(give)
	c.grants = append(c.grants, &grant{to: p.Incarnation, id: q.ID, slots: give})
}

// judge says why the slot must not go from this node to the peer; 0 if it may.
func (c *Core) judge(p *peer, slot Slot) Reason {
	switch {
	case c.promised.Has(slot), c.requested.Has(slot), c.want.Has(slot) != c.kernel.Has(slot), c.openSlots.Has(slot):
		return InMotion
	case !c.want.Has(slot):
		return NotHeld
	case c.commitFailed != nil:
		return CommitFailed
	}
	service := slot / c.cfg.Buckets
	if pl := c.places[service]; pl.rank == rankFit && pl.table.Owner(slot%c.cfg.Buckets) == p.Name {
		return 0
	}
	// A node that is worse off than the heir gives to whoever asks: to keep the
	// slot only because the two views differ would help nobody.
	if p.rank(service) > c.rank(service) {
		return 0
	}
	return NotYours
}

func (c *Core) findGrant(to Incarnation, id uint64) *grant {
	for _, g := range c.grants {
		if g.to == to && g.id == id {
			return g
		}
	}
	return nil
}

// released reports whether the kernel takes no new flows of any slot of the grant.
func (c *Core) released(g *grant) bool {
	return !g.slots.Empty() && !g.slots.Intersects(c.kernel)
}

// offerGrants sends the grants whose release the kernel has carried out, after
// the statement that shows them, and again those that were not confirmed in time.
func (c *Core) offerGrants() {
	for _, g := range c.grants {
		if !c.released(g) {
			continue
		}
		if g.version == 0 {
			g.version = c.said.Version
			c.sendGrant(g)
		} else if c.now >= g.sentAt+c.cfg.Timing.Retry {
			c.sendGrant(g)
		}
	}
}

func (c *Core) sendGrant(g *grant) {
	if p := c.alivePeer(g.to); p != nil && g.version > 0 {
		if g.sentAt = c.now; g.firstAt == 0 {
			g.firstAt = c.now
		}
		c.catchUp(p)
		c.sendSince(p, &Message{Grant: &Grant{
			ID: g.id, Version: g.version, Slots: g.slots.Clone(), Lists: c.keepingsOf(g.slots), Adopted: c.adopted(g.slots, g.to),
		}}, g.firstAt)
	}
}

// receiveGrant takes what was asked for, once; confirms again what it has; and
// declines what it did not ask for, or no longer wants. It says nothing of what
// the kernel may still accept: the holder must not take that back yet, and will
// repeat its grant.
func (c *Core) receiveGrant(p *peer, g *Grant) {
	rest, confirm := g.Slots.Clone(), c.cfg.newSet()
	if r := c.requests[g.ID]; r != nil && r.to == p.Incarnation {
		take := rest.Clone()
		take.RetainAll(r.slots)
		switch {
		case take.Empty():
		case c.commitFailed != nil: // the kernel does not take them: declined below
			r.slots.RemoveAll(take)
			c.requested.RemoveAll(take)
			c.dropIfOver(r)
		default:
			c.accept(p, r, g, take)
		}
		confirm.AddAll(rest)
		confirm.RetainAll(r.closed) // perhaps given on since then: still the answer
		rest.RemoveAll(r.taken)
	}
	held := rest.Clone()
	held.RetainAll(c.kernel)
	held.RetainAll(c.want)
	held.RemoveAll(c.openSlots)
	confirm.AddAll(held)
	rest.RemoveAll(c.kernel)
	rest.RemoveAll(c.openSlots)
	if !confirm.Empty() {
		c.send(p, &Message{Confirm: &Confirm{ID: g.ID, Slots: confirm}})
	}
	if !rest.Empty() {
		c.send(p, &Message{Cancel: &Cancel{ID: g.ID, Slots: rest}})
	}
}

// accept takes slots of a grant for this node.
func (c *Core) accept(p *peer, r *request, g *Grant, slots hashring.Set) {
	version := g.Version
	r.slots.RemoveAll(slots)
	r.taken.AddAll(slots)
	r.version = max(r.version, version)
	c.requested.RemoveAll(slots)
	c.claim(slots)
	c.announce(g.Lists)
	c.adoptFrom(g.Adopted, slots)
	if p.said == nil || p.said.Version < version {
		p.releasedAt = max(p.releasedAt, version)
		p.released.AddAll(slots)
	}
	c.replan = true
}

// receiveRefusal: the slots are free to be asked for again when something has
// changed at the holder since it refused, or here, or after a while.
func (c *Core) receiveRefusal(p *peer, f *Refusal, said uint64) {
	r := c.requests[f.ID]
	if r == nil || r.to != p.Incarnation {
		return
	}
	gone := f.Slots.Clone()
	gone.RetainAll(r.slots)
	r.slots.RemoveAll(gone)
	c.requested.RemoveAll(gone)
	c.dropIfOver(r)
	c.holdBack(p, said)
	c.replan = true
}

// holdBack remembers that the peer would not give, or could not be taken from,
// and as of which of its statements; see mayAsk. A refusal may come after a statement
// that was made after it.
func (c *Core) holdBack(p *peer, said uint64) {
	p.refusedAt, p.refusedView, p.refusedSaid = c.now, c.view.Digest(), said
}

// receiveCancel: the heir does not want the slots, or not any more. They are the
// holder's again.
func (c *Core) receiveCancel(p *peer, x *Cancel) {
	p.deferred = slices.DeleteFunc(p.deferred, func(q *Request) bool { return q.ID == x.ID })
	g := c.findGrant(p.Incarnation, x.ID)
	if g == nil {
		return
	}
	back := x.Slots.Clone()
	back.RetainAll(g.slots)
	c.promised.RemoveAll(back)
	c.claim(back)
	c.shrink(g, back)
}

func (c *Core) receiveConfirm(p *peer, f *Confirm) {
	g := c.findGrant(p.Incarnation, f.ID)
	if g == nil || g.version == 0 {
		return
	}
	over := f.Slots.Clone()
	over.RetainAll(g.slots)
	c.promised.RemoveAll(over)
	if n := over.Count(); n > 0 {
		c.notice(false, "gave %s to %s%s", Count(n, "buckets"), p.Name, c.because())
	}
	c.shrink(g, over)
}

// shrink takes slots out of a grant, and the grant away when nothing is left.
func (c *Core) shrink(g *grant, slots hashring.Set) {
	g.slots.RemoveAll(slots)
	if g.slots.Empty() {
		c.grants = slices.DeleteFunc(c.grants, func(o *grant) bool { return o == g })
	}
	c.replan = true
}

// withdraw cancels the requests for slots that are no longer this node's to
// have. It must happen before the new view's digest is published: whoever sees
// the digest may rely on it.
func (c *Core) withdraw(keep hashring.Set) {
	for _, r := range c.sortedRequests() {
		gone := r.slots.Clone()
		gone.RemoveAll(keep)
		if gone.Empty() {
			continue
		}
		r.slots.RemoveAll(gone)
		c.requested.RemoveAll(gone)
		if p := c.alivePeer(r.to); p != nil {
			c.send(p, &Message{Cancel: &Cancel{ID: r.id, Slots: gone}})
		}
		c.dropIfOver(r)
	}
}

// dropIfOver forgets a request when nothing of it is open, and what was granted is
// confirmed.
func (c *Core) dropIfOver(r *request) {
	if r.slots.Empty() && (r.taken.Empty() || c.confirmed(r)) {
		delete(c.requests, r.id)
	}
}

// confirmed reports whether the holder no longer shows the promise of what is in
// this kernel: no grant of it can come any more but as a late duplicate, and the
// holder ignores what is answered to that.
func (c *Core) confirmed(r *request) bool {
	p := c.alivePeer(r.to)
	return p != nil && p.said != nil && p.said.Version >= r.version && r.closed.Equal(r.taken) &&
		!slices.ContainsFunc(p.said.Granted, func(g Promise) bool {
			return g.ID == r.id && g.To == KeyOf(c.cfg.Incarnation)
		})
}

// forgetConfirmed forgets the requests that the peer's new statement has ended.
func (c *Core) forgetConfirmed(p *peer) {
	for _, r := range c.sortedRequests() {
		if r.to == p.Incarnation {
			c.dropIfOver(r)
		}
	}
}
