package node

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/peervip/peervip/hashring"
)

// Snapshot is what the core knows at one moment, for people to read.
type Snapshot struct {
	Phase Phase
	View  uint64
	// Agreed: every alive peer acts on the same view.
	Agreed bool
	// Attached: the VIP is up on this node.
	Attached bool
	Nodes    []NodeSnapshot // by name
	Services []ServiceSnapshot
	// Strangers on the wire, by address.
	Strangers []StrangerSnapshot
	// Problems are whole sentences, each with its cure.
	Problems []string
	// Noticed are those of them that began with a Notice.
	Noticed []string
	// Waits is the one of them that says why this node does not serve yet, or "".
	Waits string
}

// NodeSnapshot is one node as this node sees it.
type NodeSnapshot struct {
	Incarnation
	Address string
	Phase   Phase
	Alive   bool
	// Unknown: what an alive node has cannot be told: it runs another spec, or has not said
	// anything yet.
	Unknown  bool
	Weight   int                   // in tenths of the default weight
	Services []NodeServiceSnapshot // by service number
	// Wishes are what the node has still to be told.
	Wishes []WishKind
	// Waiting is what the node waits for before it has drained or left; nil: for nothing,
	// or that is not known yet.
	Waiting *Waiting
}

// NodeServiceSnapshot is one node's part in one service.
type NodeServiceSnapshot struct {
	Healthy            bool
	Own, Adopt, Linger int // buckets in these states
	Flows              int
}

// ServiceSnapshot is the sum over all nodes.
type ServiceSnapshot struct {
	Name         string
	Buckets      int
	Unclaimed    int
	ClaimedTwice int
}

// Snapshot reads the core's state.
func (c *Core) Snapshot() Snapshot {
	s := Snapshot{
		Phase: c.phase, View: c.view.Digest(), Agreed: c.agreed(), Attached: c.attached,
		Strangers: c.strangersNow(),
	}
	s.Problems, s.Noticed = c.problems()
	if len(s.Problems) > 0 && strings.HasPrefix(s.Problems[0], notServing) {
		s.Waits = s.Problems[0]
	}
	self := NodeSnapshot{Incarnation: c.cfg.Incarnation, Phase: c.phase, Alive: true, Weight: c.weight, Waiting: c.waiting()}
	for i := range c.cfg.Services {
		from, to := i*c.cfg.Buckets, (i+1)*c.cfg.Buckets
		adopt := c.kernelAdopt.CountRange(from, to)
		self.Services = append(self.Services, NodeServiceSnapshot{
			Healthy: !c.wantUnfit[i], Flows: at(c.flows, i),
			Own: c.kernel.CountRange(from, to) - adopt, Adopt: adopt, Linger: c.kernelLinger.CountRange(from, to) + c.lists.kernelYield.CountRange(from, to),
		})
	}
	s.Nodes = append(s.Nodes, self)
	for _, p := range c.order {
		s.Nodes = append(s.Nodes, c.peerSnapshot(p))
	}
	for _, m := range c.mourned {
		if m.restarts && c.peers[m.Name] == nil { // it has left, and will be back
			s.Nodes = append(s.Nodes, NodeSnapshot{
				Incarnation: Incarnation{Name: m.Name}, Phase: Restarting, Services: make([]NodeServiceSnapshot, len(c.cfg.Services)),
			})
		}
	}
	slices.SortFunc(s.Nodes, func(a, b NodeSnapshot) int { return cmp.Compare(a.Name, b.Name) })
	claimants := c.claimants()
	for i, svc := range c.cfg.Services {
		sum := ServiceSnapshot{Name: svc.Name, Buckets: c.cfg.Buckets}
		for _, n := range claimants[i*c.cfg.Buckets : (i+1)*c.cfg.Buckets] {
			switch {
			case n == 0:
				sum.Unclaimed++
			case n > 1:
				sum.ClaimedTwice++
			}
		}
		s.Services = append(s.Services, sum)
	}
	return s
}

func at(counts []int, i int) int {
	if i < len(counts) {
		return counts[i]
	}
	return 0
}

// adoptedBy are the slots that the peer claims and that another lingers on, so
// that it must have adopted them.
func (c *Core) adoptedBy(p *peer) hashring.Set {
	if p.said == nil || p.foreign {
		return c.cfg.newSet()
	}
	lingered := c.lingering.Clone()
	for q := range c.claimers() {
		if q != p {
			lingered.AddAll(q.said.Linger)
		}
	}
	adopted := p.claims()
	adopted.RetainAll(lingered)
	return adopted
}

// kernelState is what this node's kernel does with the slot.
func (c *Core) kernelState(slot Slot) State {
	switch {
	case c.lists.kernelWary.Has(slot):
		return Wary
	case c.kernelAdopt.Has(slot):
		return Adopt
	case c.kernel.Has(slot):
		return Own
	case c.kernelLinger.Has(slot):
		return Linger
	case c.lists.kernelYield.Has(slot):
		return Yield
	}
	return None
}

func (c *Core) peerSnapshot(p *peer) NodeSnapshot {
	n := NodeSnapshot{Incarnation: p.Incarnation, Address: p.Address, Alive: p.alive}
	n.Unknown = p.alive && (p.foreign || p.said == nil)
	for _, w := range c.keptWishes(p.Name) {
		n.Wishes = append(n.Wishes, w.Want)
	}
	if p.said != nil {
		n.Phase, n.Weight = p.said.Phase, p.said.Weight
		if p.alive && (n.Phase == Draining || n.Phase == Leaving) {
			n.Waiting = c.waitingOf(p)
		}
	}
	adopted := c.adoptedBy(p)
	for i := range c.cfg.Services {
		from, to := i*c.cfg.Buckets, (i+1)*c.cfg.Buckets
		svc := NodeServiceSnapshot{Healthy: true} // as far as is known
		if p.said != nil && !p.foreign {
			svc.Healthy = !slices.Contains(p.said.Unfit, i)
			if p.alive {
				svc.Adopt, svc.Linger = adopted.CountRange(from, to), p.said.Linger.CountRange(from, to)
				svc.Own = p.said.Claims.CountRange(from, to) - svc.Adopt
				svc.Flows = at(p.flows, i)
			}
		}
		n.Services = append(n.Services, svc)
	}
	return n
}

// claimants counts, for each slot, the alive nodes that claim it.
func (c *Core) claimants() []int {
	n := make([]int, c.cfg.slots())
	for slot := range n {
		if c.want.Has(slot) || c.kernel.Has(slot) {
			n[slot]++
		}
	}
	for p := range c.claimers() {
		for slot := range p.claims().All() {
			n[slot]++
		}
	}
	return n
}

// notServing begins the problem that this node does not serve.
const notServing = "not serving yet: "

// problems lists what keeps this node or the cluster from being well, and which of it
// a notice has told.
func (c *Core) problems() (list, noticed []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	told := func(format string, args ...any) {
		add(format, args...)
		noticed = append(noticed, list[len(list)-1])
	}
	if c.phase == Joining {
		if why := c.mayServe(); why != "" {
			add("%s%s", notServing, why)
		}
	} else if !slices.ContainsFunc(c.view.Members(), func(m Member) bool { return m.Name != c.cfg.Name }) {
		if waits := slices.ContainsFunc(slices.Collect(c.alivePeers()), c.keptFromServing); waits {
			add("this node serves alone: nobody would take over")
		} else {
			add("this node is alone: nobody would take over; start another, or check cluster.join and the gossip port")
		}
	}
	if c.attachFailed != nil && !c.attached {
		told("the address cannot be brought up: %v", c.attachFailed)
	}
	if why := c.listProblem(); why != "" {
		add("%s", why)
	}
	if c.doubt {
		add("whether this node was drained is not known, since what it remembered was lost: it is drained until `peervip resume %s`", c.cfg.Name)
	}
	if c.commitFailed != nil {
		told("the kernel has refused the last change of buckets (%v); it is tried again", c.commitFailed)
	}
	c.lameProblems(add, told)
	for i, svc := range c.cfg.Services {
		if c.wantUnfit[i] {
			told("service %s: this node is unfit: %s", svc.Name, c.whyUnfit[i])
		}
		if c.phase.Serving() {
			c.rankProblem(svc.Name, c.places[i].rank, add)
		}
	}
	for p := range c.alivePeers() {
		switch {
		case p.foreign && !(c.phase == Joining && p == c.outranked(false)): // said above
			add("%s runs another spec (revision %d, here %d); give all nodes the same spec",
				p.Name, p.SpecRevision, c.cfg.SpecRevision)
		case p.said == nil && c.now >= p.aliveSince+c.cfg.Timing.Alone:
			add("%s is a member and has told nothing yet: its messages are lost on the way, or it is another version", p.Name)
		case !p.foreign && c.keptFromServing(p):
			add("%s is a member and does not serve: `peervip status` there says why", p.Name)
		}
	}
	if c.heralded.Apart != "" {
		add("%s", c.heralded.Apart)
	}
	c.relayProblems(add)
	c.unreadProblems(add)
	c.unlistedProblems(add)
	for _, n := range c.order {
		if !n.alive && c.wire.OK { // without a wire this node hears nobody
			told("%s is silent or dead; its buckets have gone to the others until it is back", n.Name)
		}
	}
	return list, noticed
}

// keptFromServing reports whether a member joins for longer than that takes.
func (c *Core) keptFromServing(p *peer) bool {
	return p.said != nil && p.said.Phase == Joining && c.now >= p.aliveSince+c.cfg.Timing.Alone
}

// nobodyDrains and somebodyIsCutOff are about the nodes of the view.
func (c *Core) nobodyDrains() bool {
	return !slices.ContainsFunc(c.view.Members(), func(m Member) bool { return m.Phase != Active })
}

func (c *Core) somebodyIsCutOff() bool {
	return slices.ContainsFunc(c.view.Members(), func(m Member) bool { return m.CutOff })
}

func (c *Core) rankProblem(service string, r rank, add func(string, ...any)) {
	switch {
	case r == rankUnfit && c.cfg.DropUnhealthy:
		add("service %s: no active node is fit, so nobody serves it (spec.when_none_healthy: drop); mend what its checks look at", service)
	case r == rankUnfit:
		add("service %s: no active node is fit, so buckets stay where they are; mend what its checks look at", service)
	case r == rankHolding && c.nobodyDrains():
		add("service %s: no node can serve as it should, so buckets stay where they are; mend what is said of the nodes", service)
	case r == rankHolding && c.somebodyIsCutOff():
		add("service %s: all nodes are draining, cut off, or cannot serve, so buckets stay where they are; resume one with `peervip resume`, or mend it", service)
	case r == rankHolding:
		add("service %s: all nodes are draining, so buckets stay where they are; resume one with `peervip resume`", service)
	case r == rankNever:
		add("service %s: no node serves; resume one with `peervip resume`", service)
	}
}

// Explanation says where one bucket is and why.
type Explanation struct {
	// Owner by the placement; "" if nobody should have it.
	Owner string
	// Holders claim it now; normally one, the owner.
	Holders []string
	// State in this node's kernel.
	State State
	// Why in words.
	Why string
}

// Explain tells about one bucket of one service; both must exist.
func (c *Core) Explain(service, bucket int) Explanation {
	slot := service*c.cfg.Buckets + bucket
	var e Explanation
	e.State = c.kernelState(slot)
	if c.want.Has(slot) || c.kernel.Has(slot) {
		e.Holders = append(e.Holders, c.cfg.Name)
	}
	for p := range c.claimers() {
		if p.claims().Has(slot) {
			e.Holders = append(e.Holders, p.Name)
		}
	}
	slices.Sort(e.Holders)
	pl := c.places[service]
	if pl.rank > rankNever && !c.mute.Has(slot) {
		e.Owner = pl.table.Owner(bucket)
		if pl.rank < rankFit && len(e.Holders) > 0 {
			e.Owner = e.Holders[0]
		}
	}
	e.Why = c.whyThere(slot, pl.rank) + c.whyNotYet(slot, e)
	return e
}

// whyThere explains the owner of a slot.
func (c *Core) whyThere(slot Slot, r rank) string {
	switch s := c.cfg.Services[slot/c.cfg.Buckets]; {
	case r == rankFit && s.Single && s.Preempt:
		return "one node serves all of it: of those that are fit the one of the highest weight"
	case r == rankFit && s.Single:
		return "one node serves all of it, and goes on for as long as it is fit"
	case r == rankFit:
		return "its place among the nodes that are fit"
	case r == rankNever:
		return "no node serves"
	case c.mute.Has(slot):
		return "no active node is fit, and spec.when_none_healthy says drop"
	case r == rankUnfit:
		return "no active node is fit: it stays where it is"
	}
	return "all nodes are draining, or cannot serve: it stays where it is"
}

// whyNotYet explains why a slot is not with its owner alone; "" if it is.
func (c *Core) whyNotYet(slot Slot, e Explanation) string {
	switch {
	case c.promised.Has(slot):
		return "; on its way from here to its heir"
	case c.requested.Has(slot):
		return "; asked for, the holder has not answered yet"
	case len(e.Holders) > 1:
		return "; claimed twice, about to be settled"
	case e.Owner == "" && len(e.Holders) > 0:
		return "; about to be given up"
	case len(e.Holders) == 1 && e.Holders[0] != e.Owner:
		return "; still held until the owner asks for it"
	case e.Owner != "" && len(e.Holders) == 0:
		return "; nobody has it yet"
	}
	return ""
}
