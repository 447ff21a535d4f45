package node

import "fmt"

// A node that is alive and cannot serve is *lame*: it has no lease though it needs one, or
// its kernel refuses commits. When that has lasted for Timing.Lame it calls itself cut off,
// in its statement and in beacons, and its peers relieve it by handoff. It lets go of what
// it wants and its kernel does not have, and takes nothing. When it has been sound again
// for as long, it takes its share again.
//
// A lame node that has the lease goes on with what its kernel serves, since that cannot be
// given away. One that has neither lease nor a kernel that takes commits can serve nothing
// and release nothing: it starts over as a joiner, which claims nothing D later, so others take
// its buckets as they take those of the dead (see claims).
//
// When all nodes are lame, or all that would be fit, nothing moves.

// Lame is why a node that is alive cannot serve.
type Lame uint8

const (
	// Sound: nothing keeps it from serving.
	Sound Lame = iota
	// NoLease: its kernel does not get the lease, or its peers do not hear it well enough.
	NoLease
	// NoCommits: its kernel refuses changes of buckets.
	NoCommits
)

func (l Lame) String() string {
	switch l {
	case Sound:
		return "nothing is wrong with it"
	case NoLease:
		return "it has no lease"
	case NoCommits:
		return "its kernel refuses changes of buckets"
	}
	return fmt.Sprintf("Lame(%d)", uint8(l))
}

// outcome says what becomes of the node's buckets.
func (l Lame) outcome() string {
	switch l {
	case NoLease:
		return "the others take its buckets"
	case NoCommits:
		return "it goes on with the buckets that it has, takes no others, and cannot give any away"
	}
	return "the others relieve it where they can"
}

// cure says what to look at.
func (l Lame) cure() string {
	switch l {
	case NoLease:
		return "look in its log for why the lease cannot be armed: another program that changes rules all the time, or beacons that its peers do not hear"
	case NoCommits:
		return "look in its log for the kernel's error: memory, or another owner of the table peervip"
	}
	return "look in its log; it may be of a later version"
}

// failing are the times since which this node has not been able to serve; 0: it is.
type failing struct {
	kernel Time // it has refused commits
	lease  Time // it was missing, needed or not
	sound  Time // since when nothing is wrong with a node that is lame; 0: something is
	// refusals are of commits that would have changed something, since one was taken.
	refusals int
}

// trouble is what is wrong now, and since when.
func (c *Core) trouble() (why Lame, since Time) {
	switch f := c.failing; {
	case f.lease > 0:
		return NoLease, max(f.lease, c.servingSince)
	case f.kernel > 0:
		return NoCommits, f.kernel
	}
	return Sound, 0
}

// limp notices when this node becomes lame, and when it is sound again.
func (c *Core) limp() {
	f := &c.failing
	if f.lease == 0 && !c.heralded.Lease {
		f.lease = c.now
	} else if c.heralded.Lease {
		f.lease = 0
	}
	if !c.phase.Serving() {
		c.lame, f.sound = Sound, 0
		return
	}
	why, since := c.trouble()
	long := why != Sound && c.now >= since+c.cfg.Timing.Lame
	switch {
	case long && f.lease > 0 && f.kernel > 0 && c.now >= f.kernel+c.cfg.Timing.Lame:
		c.withdrawFromService("it has no lease, and its kernel refuses to release them")
		c.lame, f.sound = Sound, 0
	case long && c.lame != why:
		if c.lame == Sound {
			c.notice(true, "this node cannot serve: %s; %s", why, why.outcome())
		}
		c.lame, f.sound, c.replan = why, 0, true
	case c.lame == Sound:
	case c.commitFailed != nil || f.lease > 0:
		f.sound = 0
	case f.sound == 0:
		f.sound = c.now
	case c.now >= f.sound+c.cfg.Timing.Lame:
		c.notice(false, "this node can serve again")
		c.lame, *f, c.replan = Sound, failing{}, true
	}
}

// commitTaken and commitRefusedAt keep since when the kernel refuses. A kernel that takes
// probes and refuses what they are made for is no better than one that refuses all.
func (f *failing) commitTaken(probe bool) {
	if !probe || f.refusals < 3 {
		f.kernel, f.refusals = 0, 0
	}
}

func (f *failing) commitRefused(probe bool, now Time) {
	if f.kernel == 0 {
		f.kernel = now
	}
	if !probe {
		f.refusals++
	}
}

// wakeForLame calls soon with the times at which that may change.
func (c *Core) wakeForLame(soon func(Time)) {
	span := c.cfg.Timing.Lame
	for _, since := range []Time{c.failing.kernel, c.failing.sound} {
		if since > 0 {
			soon(since + span)
		}
	}
	if c.failing.lease > 0 {
		soon(max(c.failing.lease, c.servingSince) + span)
	}
}

// cutOff is what this node says: that it is to be relieved.
func (c *Core) cutOff() bool { return c.heralded.CutOff || c.lame != Sound }

// lameProblems says which nodes cannot serve.
func (c *Core) lameProblems(add, told func(string, ...any)) {
	if c.lame != Sound {
		told("this node cannot serve: %s; %s; %s", c.lame, c.lame.outcome(), c.lame.cure())
	}
	for p := range c.claimers() {
		if p.said.Lame != Sound && p.member().CutOff {
			add("%s cannot serve: %s; %s; %s", p.Name, p.said.Lame, p.said.Lame.outcome(), p.said.Lame.cure())
		}
	}
}
