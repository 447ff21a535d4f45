package node

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// What a node does about strangers on its wire. It keeps a typo in one node's
// configuration from taking the address away from all, and a forger from keeping a
// cluster down for longer than he sends:
//
//  1. A node that hears an authenticated peer that serves (a member by gossip whose beacons
//     verify) takes its share, whatever strangers there are.
//  2. If no such peer serves, a stranger that serves keeps this node joining. It asks the
//     address itself: an answer is a proof, none may mean that the stranger is forged.
//  3. Strangers that do not serve delay this node and never forbid. Its party is itself
//     and its authenticated peers, theirs all strangers. The larger party starts as if
//     there were no other; of equals the one with the lowest address; the other
//     strangerDelay later, by when it finds the first serving.
//  4. An operator overrides this for an address until the next start (ServeDespite). Who
//     serves goes on serving, whatever it hears.
//
// A member that cannot be understood (Stranger.Unreadable) counts as an authenticated
// peer, and keeps a node from starting alone. After a loss of the wire nodes that served
// before, and of which a majority hear each other, ask nobody's leave (servesAgain).

const (
	// strangerDelay is how much later than the other party the lesser one starts.
	strangerDelay = Time(15e9)
	// askVIPEvery is how often the address is asked whether it answers.
	askVIPEvery = Time(15e9)
)

// outsiders is what the core knows of strangers, and what it has done about them.
type outsiders struct {
	list    []Stranger // by address
	unread  map[string]unreadMember
	despite map[netip.Addr]bool
	// freeSince is when nothing but strangers that do not serve kept this node from
	// serving any more; 0: something else does, or there are none.
	freeSince Time
	// knew are the nodes that this one knew when it lost its wire while it served, see
	// reboot.go; nil: it served since, or never did.
	knew []string

	otherKey OtherKey // whether seeds refuse this node

	askedAt    Time   // when the address was last asked; 0: never
	answered   bool   // there was an outcome
	answeredBy string // the MAC that answered; "": none
	askErr     error  // it could not be asked
}

// strangersHeard takes the strangers as they are now.
func (c *Core) strangersHeard(ev StrangersHeard) { c.outside.list = slices.Clone(ev.List) }

// serveDespite is an operator's word that strangers of that address shall not keep this
// node from serving.
func (c *Core) serveDespite(addr netip.Addr) {
	if c.outside.despite == nil {
		c.outside.despite = map[netip.Addr]bool{}
	}
	c.outside.despite[addr] = true
	c.notice(true, "an operator has this node serve despite %s, until its next start", addr)
}

// authenticated reports whether the peer, which is a member by gossip or was one and has
// not left, sends beacons that verify.
func (c *Core) authenticated(p *peer) bool {
	return c.cfg.Silence == 0 || p.heard != nil && p.heard.standing == Alive
}

// serves reports whether the peer has buckets, or may have some.
func (p *peer) serves() bool {
	switch {
	case p.said != nil:
		return p.member().Phase != Joining
	case p.heard != nil:
		return p.heard.Claims > 0 && p.heard.Phase != Joining
	}
	return false
}

// party is whom this node starts with: itself and its authenticated peers.
type party struct {
	size   int
	lowest netip.Addr // of their addresses
	serves bool       // one of the peers does
}

func (c *Core) party() party {
	own := party{size: 1, lowest: c.cfg.Address}
	add := func(addr netip.Addr, serves bool) {
		own.size++
		own.serves = own.serves || serves
		if addr.IsValid() && addr.Less(own.lowest) {
			own.lowest = addr
		}
	}
	for p := range c.alivePeers() {
		if c.authenticated(p) {
			addr, _ := netip.ParseAddr(p.Address) // what is none is not lower
			add(addr, p.serves())
		}
	}
	for _, s := range c.unreadable() {
		add(s.Address, s.Serves)
	}
	return own
}

// unreadable are the members that cannot be understood.
func (c *Core) unreadable() []Stranger { return c.outside.of(Stranger.Unreadable) }

// rivals are the strangers that matter to this node's start.
func (c *Core) rivals() []Stranger {
	return c.outside.of(func(s Stranger) bool { return !s.Unreadable() })
}

// of picks from the list, but for those of whom the operator has said that they do not
// matter.
func (o *outsiders) of(pick func(Stranger) bool) []Stranger {
	var picked []Stranger
	for _, s := range o.list {
		if pick(s) && !o.despite[s.Address] {
			picked = append(picked, s)
		}
	}
	return picked
}

// seedsRefuse says that all seeds that answer have another key; "": not so. If they all
// are on the wire, the strangers' rule says what follows: it knows of each whether it
// serves. A stranger that is none of them says nothing about them.
func (c *Core) seedsRefuse() string {
	refused, heard := c.outside.otherKey, 0
	for _, s := range c.outside.list {
		if s.Differs&DiffersKey != 0 && slices.Contains(refused.Seeds, s.Address) {
			heard++
		}
	}
	if heard > 0 && heard >= min(len(refused.Seeds), MaxStrangers) { // no more are kept
		return ""
	}
	return refused.Why
}

// strangersForbid says why strangers keep this node from serving; "": they do not. All
// else that might is looked at before.
func (c *Core) strangersForbid() string {
	own, rivals := c.party(), c.rivals()
	if len(rivals) == 0 || own.serves || c.servesAgain() {
		return ""
	}
	if serving := slices.DeleteFunc(slices.Clone(rivals), func(s Stranger) bool { return !s.Serves }); len(serving) > 0 {
		return fmt.Sprintf("this cluster's address is served already, by nodes that are none of this cluster: %s; %s; %sto serve all the same: `peervip serve%s`",
			describeStrangers(serving), strangerCure(serving), c.outside.proof(), despiteFlags(serving))
	}
	if first := cmp.Compare(own.size, len(rivals)); first > 0 || first == 0 && own.lowest.Less(rivals[0].Address) {
		return ""
	}
	if since := c.outside.freeSince; since > 0 && c.now >= since+strangerDelay {
		return ""
	}
	return fmt.Sprintf("nodes that are none of this cluster start on the same address, and go first (%d, and %d of this cluster): %s; %s; this node waits %d s, and starts if they do not",
		len(rivals), own.size, describeStrangers(rivals), strangerCure(rivals), strangerDelay/1e9)
}

// watchStrangers notes since when only strangers keep a joining node from serving, and
// has the address asked whether somebody serves it.
func (c *Core) watchStrangers() {
	o := &c.outside
	rivals := c.rivals()
	serving := slices.ContainsFunc(rivals, func(s Stranger) bool { return s.Serves }) && !c.party().serves
	switch {
	case len(rivals) == 0, serving: // who ceases to serve may be restarting, and has that time too
		o.freeSince = 0
	case o.freeSince == 0 && c.mayServeBut() == "":
		o.freeSince = c.now
	}
	if !serving {
		o.askedAt, o.answered = 0, false
		return
	}
	if c.wire.OK && (o.askedAt == 0 || c.now >= o.askedAt+askVIPEvery) {
		o.askedAt = c.now
		c.out = append(c.out, AskVIP{})
	}
}

// vipAnswered takes what became of AskVIP.
func (c *Core) vipAnswered(ev VIPAnswered) {
	o := &c.outside
	o.answered, o.answeredBy, o.askErr = o.askedAt > 0, ev.By, ev.Err
}

// proof says what the address itself has answered.
func (o *outsiders) proof() string {
	switch {
	case !o.answered:
		return ""
	case o.answeredBy != "":
		return fmt.Sprintf("it is proved: %s has answered an echo request to the address; ", o.answeredBy)
	case o.askErr != nil:
		return fmt.Sprintf("it may be forged: the address could not be asked (%v); ", o.askErr)
	}
	return "it may be forged: nobody has answered three echo requests to the address; "
}

// problem says in a sentence, with the cure, that it is there, to a node that serves or not.
func (s Stranger) problem(serves bool) string {
	what := "a node that is none of this cluster is on the wire"
	if s.Unreadable() {
		what = "a member that cannot be understood is on the wire"
	}
	about := []string{s.Address.String() + " ("}
	if s.MAC != "" {
		about = append(about, s.MAC, ", ")
	}
	about = append(about, s.differs(), ")")
	switch {
	case s.Serves && serves:
		about = append(about, ", and it serves too: clients get answers of both, and their connections break")
	case s.Serves:
		about = append(about, ", and it serves")
	}
	return fmt.Sprintf("%s: %s; %s", what, strings.Join(about, ""), strangerCure([]Stranger{s}))
}

// StrangerSnapshot is a stranger for people to read.
type StrangerSnapshot struct {
	Stranger
	Problem string // a sentence with its cure
}

func (c *Core) strangersNow() []StrangerSnapshot {
	var all []StrangerSnapshot
	for _, s := range c.outside.list {
		all = append(all, StrangerSnapshot{s, s.problem(c.phase != Joining)})
	}
	return all
}

// describeStrangers lists strangers by what differs.
func describeStrangers(list []Stranger) string {
	byWhat := map[string][]string{}
	for _, s := range list {
		byWhat[s.differs()] = append(byWhat[s.differs()], s.Address.String())
	}
	var all []string
	for _, what := range slices.Sorted(maps.Keys(byWhat)) {
		all = append(all, fmt.Sprintf("%s (%s)", strings.Join(byWhat[what], ", "), what))
	}
	return strings.Join(all, "; ")
}

// differs says in words what is wrong with its beacons.
func (s Stranger) differs() string {
	var parts []string
	switch s.Differs & (DiffersKey | DiffersName) {
	case DiffersKey:
		parts = append(parts, "another key")
	case DiffersName:
		parts = append(parts, "another cluster.name with this cluster's key")
	case DiffersKey | DiffersName:
		parts = append(parts, "another cluster.name and another key")
	}
	if s.Differs&DiffersFormat != 0 {
		parts = append(parts, fmt.Sprintf("format %d, and this program reads %d to %d", s.Format, BeaconMin, BeaconMax))
	}
	return strings.Join(parts, "; ")
}

// strangerCure says what to do about all that differs.
func strangerCure(list []Stranger) string {
	var all Difference
	for _, s := range list {
		all |= s.Differs
	}
	var look []string
	if all&DiffersName != 0 {
		look = append(look, "cluster.name")
	}
	if all&DiffersKey != 0 {
		look = append(look, "cluster.key_file")
	}
	var cures []string
	if look != nil {
		cures = append(cures, fmt.Sprintf("compare %s here and there, or give one of the two clusters another address", strings.Join(look, " and ")))
	}
	if all&DiffersFormat != 0 {
		cures = append(cures, "run versions that are nearer to each other")
	}
	return strings.Join(cures, "; ")
}

// despiteFlags are the flags of `peervip serve` that override these strangers.
func despiteFlags(list []Stranger) string {
	var flags strings.Builder
	for _, s := range list {
		fmt.Fprintf(&flags, " --despite %s", s.Address)
	}
	return flags.String()
}
