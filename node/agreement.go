package node

import "github.com/peervip/peervip/hashring"

// question is a set of slots that this node must not decide about on what the
// peers have said a while ago: slots that nobody is seen to claim, or that two
// are. So it asks for their word, and decides in agreement, or when it has waited
// for long enough. The zero question has no slots.
type question struct {
	since Time         // 0: no slots
	slots hashring.Set // in question all the time since then
	asked hashring.Set // in question when the peers were asked last
}

func (q *question) open() bool { return q.since > 0 }

// update takes note of the slots that are in question now, and reports whether
// there are some about which the peers have not been asked. It keeps the set.
func (q *question) update(slots hashring.Set, now Time) (ask bool) {
	if slots.Empty() {
		*q = question{}
		return false
	}
	if q.open() {
		q.slots.RetainAll(slots)
	}
	if !q.open() || q.slots.Empty() {
		*q = question{since: now, slots: slots.Clone(), asked: slots}
		return true
	}
	fresh := slots.Clone()
	fresh.RemoveAll(q.asked)
	q.asked = slots
	return !fresh.Empty()
}

// overdue returns the slots that have been in question for that long.
func (q *question) overdue(now, wait Time) hashring.Set {
	if q.open() && now >= q.since+wait {
		return q.slots
	}
	return hashring.Set{}
}

func (c *Core) inQuestion() bool { return c.orphans.open() || c.doubles.open() }

// put brings a question up to date; what is new in it asks the peers for their
// word with the next statement.
func (c *Core) put(q *question, slots hashring.Set) {
	if q.update(slots, c.now) {
		c.askedWith = 0
	}
}

// agrees reports whether the peer has given its word: since it was asked it has
// acknowledged this node's view, it acts on the same one (or does not serve), and
// all that it claimed then is known here.
//
// The acknowledgement also matters with peers that are about to serve: two nodes
// that start at once must not both find all buckets free. And it must be a new
// one: an old statement with the right digest may be of a time before the peer
// had another view for a while, and got buckets by it.
func (c *Core) agrees(p *peer) bool {
	return p.said != nil && p.said.Version >= p.latest &&
		c.askedWith > 0 && p.acked >= c.askedWith &&
		(!p.said.Phase.Serving() || p.said.View == c.view.Digest())
}

// agreed reports whether every peer that is held alive agrees, but for those that have
// nothing.
func (c *Core) agreed() bool {
	for p := range c.likePeers() {
		if !p.idle && !p.empty() && !c.agrees(p) {
			return false
		}
	}
	return c.askedWith > 0
}

// outdated returns a peer whose claims have changed since it told them, by what its
// beacons say; or may have changed, since only others hear those and it has not given its
// word; nil: there is none. While there is one, what seems to be nobody's may be that
// peer's.
func (c *Core) outdated() *peer {
	for p := range c.likePeers() {
		if p.heard != nil && !p.idle && !p.empty() && (p.said == nil || p.unread() || p.heard.hearsay && !c.agrees(p)) {
			return p
		}
	}
	return nil
}

// mayTake reports whether this node may take what nobody has. It needs its lease, a kernel
// that takes commits, and to know what each node claims that is heard. And it must have served for D: by then
// whoever hears it knows that it serves, and either has its word or is silent itself
// (see liveness_mark.go).
func (c *Core) mayTake() bool {
	return c.lame == Sound && c.heralded.Lease && c.commitFailed == nil && c.heralded.Unknown == "" && len(c.unlisted()) == 0 && c.servingSince > 0 && c.now >= c.servingSince+c.cfg.Silence
}

// takeOrphans takes slots that nobody alive claims: in agreement, or when the
// wait for it is over.
func (c *Core) takeOrphans(orphans hashring.Set) {
	c.put(&c.orphans, orphans)
	if orphans.Empty() || !c.mayTake() {
		return
	}
	take := orphans.Clone()
	if !c.agreed() {
		take = c.orphans.overdue(c.now, c.cfg.Timing.Agreement).Clone()
		if take.Empty() || c.outdated() != nil || c.heralded.Apart != "" {
			return
		}
		c.notice(true, "the peers do not share this node's view; taking %s that nobody is seen to claim", Count(take.Count(), "buckets"))
	}
	c.claim(take)
	c.notice(false, "taking %s that nobody has%s", Count(take.Count(), "buckets"), c.because())
	rest := orphans.Clone()
	rest.RemoveAll(take)
	c.orphans = question{}
	c.put(&c.orphans, rest)
}

// settleDoubles ends double claims, as when two halves of a split meet: it adds
// to lost what this node has to give up of the slots that peers claim too. Until
// both have one view they may judge differently, so they wait for that, for a
// while; a slot that both have given up is an orphan like any other.
func (c *Core) settleDoubles(doubled, lost hashring.Set) {
	c.put(&c.doubles, doubled)
	if doubled.Empty() {
		return
	}
	overdue := c.doubles.overdue(c.now, c.cfg.Timing.Agreement)
	rest := doubled.Clone()
	for p := range c.claimers() {
		both := p.claims()
		both.RetainAll(doubled)
		if !c.agrees(p) {
			both.RetainAll(overdue)
		}
		for slot := range both.All() {
			if !c.prevails(slot, p) {
				lost.Add(slot)
				rest.Remove(slot)
			}
		}
	}
	if !overdue.Empty() { // what stays is waited for anew
		c.doubles = question{}
		c.put(&c.doubles, rest)
	}
}

// contested are the slots that several peers claim, as after a split. One of them will give
// such a slot up. Until then it must not pass to a third node by a grant of one, for the
// other serves it too.
func (c *Core) contested() hashring.Set {
	once, twice := c.cfg.newSet(), c.cfg.newSet()
	for p := range c.claimers() {
		claims := p.claims()
		again := claims.Clone()
		again.RetainAll(once)
		twice.AddAll(again)
		once.AddAll(claims)
	}
	return twice
}

// prevails says whether this node keeps a slot that the peer claims too: the
// placement decides, and names do where it gives the slot to neither.
func (c *Core) prevails(slot Slot, p *peer) bool {
	owner := c.places[slot/c.cfg.Buckets].table.Owner(slot % c.cfg.Buckets)
	if owner != c.cfg.Name && owner != p.Name {
		owner = min(c.cfg.Name, p.Name)
	}
	return owner == c.cfg.Name
}
