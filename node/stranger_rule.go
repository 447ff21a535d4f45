package node

import (
	"cmp"
	"fmt"
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
	despite map[netip.Addr]bool
	// freeSince is when nothing but strangers kept this node from serving any more; 0:
	// something else does, or there are none.
	freeSince Time
	// knew are the nodes that this one knew when it lost its wire while it served.
	knew []string

	askedAt    Time   // when the address was last asked; 0: never
	answered   bool   // there was an outcome
	answeredBy string // the MAC that answered; "": none
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

// servesAgain reports whether this node served when it lost its wire, and hears a
// majority of the nodes that it knew then.
func (c *Core) servesAgain() bool {
	heard := 0
	for p := range c.alivePeers() {
		if c.authenticated(p) && slices.Contains(c.outside.knew, p.Name) {
			heard++
		}
	}
	return heard > 0 && 2*(heard+1) > len(c.outside.knew)+1
}

// strangersForbid says which strangers keep this node from serving, and why; "": none
// does. All else that might is looked at before.
func (c *Core) strangersForbid() (by []Stranger, why string) {
	own, rivals := c.party(), c.rivals()
	if len(rivals) == 0 || own.serves || c.servesAgain() {
		return nil, ""
	}
	if serving := slices.DeleteFunc(slices.Clone(rivals), func(s Stranger) bool { return !s.Serves }); len(serving) > 0 {
		return serving, fmt.Sprintf("this cluster's address is served already, by nodes that are none of this cluster: %s; %s; %sto serve all the same: `peervip serve%s`",
			describeStrangers(serving), strangerCure(serving), c.outside.proof(), despiteFlags(serving))
	}
	if first := cmp.Compare(own.size, len(rivals)); first > 0 || first == 0 && own.lowest.Less(rivals[0].Address) {
		return nil, ""
	}
	if since := c.outside.freeSince; since > 0 && c.now >= since+strangerDelay {
		return nil, ""
	}
	return rivals, fmt.Sprintf("nodes that are none of this cluster start on the same address, and go first (%d, and %d of this cluster): %s; %s; this node waits %d s, and starts if they do not",
		len(rivals), own.size, describeStrangers(rivals), strangerCure(rivals), strangerDelay/1e9)
}

// watchStrangers notes since when only strangers keep a joining node from serving, and
// has the address asked whether somebody serves it.
func (c *Core) watchStrangers() {
	o := &c.outside
	rivals := c.rivals()
	switch {
	case len(rivals) == 0:
		o.freeSince = 0
	case o.freeSince == 0 && c.mayServeBut() == "":
		o.freeSince = c.now
	}
	serving := slices.ContainsFunc(rivals, func(s Stranger) bool { return s.Serves }) && !c.party().serves
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
	c.outside.answered, c.outside.answeredBy = c.outside.askedAt > 0, ev.By
}

// proof says what the address itself has answered.
func (o *outsiders) proof() string {
	switch {
	case !o.answered:
		return ""
	case o.answeredBy != "":
		return fmt.Sprintf("it is proved: %s has answered an echo request to the address; ", o.answeredBy)
	}
	return "it may be forged: nobody has answered three echo requests to the address; "
}

// problem says in a sentence, with the cure, that it is there, to a node that serves or not.
func (s Stranger) problem(serves bool) string {
	what := "a node that is none of this cluster is on the wire"
	if s.Unreadable() {
		what = "a member that cannot be understood is on the wire"
	}
	also := ""
	if serves && s.Serves {
		also = ": clients get answers of both, and their connections break"
	}
	list := []Stranger{s}
	return fmt.Sprintf("%s: %s%s; %s", what, describeStrangers(list), also, strangerCure(list))
}

// StrangerSnapshot is a stranger for people to read.
type StrangerSnapshot struct {
	Stranger
	// Problem is a sentence with its cure; "" if a problem of the snapshot has it already.
	Problem string
}

func (c *Core) strangersNow() []StrangerSnapshot {
	var told []Stranger
	if c.phase == Joining && c.mayServeBut() == "" {
		told, _ = c.strangersForbid()
	}
	var all []StrangerSnapshot
	for _, s := range c.outside.list {
		one := StrangerSnapshot{Stranger: s}
		if !slices.Contains(told, s) {
			one.Problem = s.problem(c.phase != Joining)
		}
		all = append(all, one)
	}
	return all
}

// describeStrangers lists strangers, with what differs.
func describeStrangers(list []Stranger) string {
	var all []string
	for _, s := range list {
		serves := "not serving"
		if s.Serves {
			serves = "serving"
		}
		all = append(all, fmt.Sprintf("%s (%s%s, %s)", s.Address, withComma(s.MAC), s.differs(), serves))
	}
	return strings.Join(all, ", ")
}

func withComma(mac string) string {
	if mac == "" {
		return ""
	}
	return mac + ", "
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
		parts = append(parts, fmt.Sprintf("format %d, and this program reads %d", s.Format, beaconFormat))
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
