package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// Nodes of the simulator that have no key in common: what they hear of each other are
// strangers.

func (n *simNode) address() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + n.index)}) }

func (n *simNode) ring() []int {
	if n.keys == nil {
		return []int{0}
	}
	return n.keys
}

// accepts says whether it has the key that the other one signs with, and reads its format.
func (n *simNode) accepts(from *simNode) bool { return n.knows(from) && n.format == from.format }

// knows says whether it has that key.
func (n *simNode) knows(from *simNode) bool { return slices.Contains(n.ring(), from.ring()[0]) }

// shareKey says whether gossip can pass between two nodes.
func (w *world) shareKey(a, b int) bool {
	return w.nodes[a].knows(w.nodes[b]) && w.nodes[b].knows(w.nodes[a])
}

// hearOutside takes a beacon that no key of the node makes, or that it cannot read.
func (w *world) hearOutside(n, from *simNode, b *Beacon) {
	var differs Difference
	if !n.knows(from) {
		differs = DiffersKey
	}
	if n.format != from.format || b.Format > n.herald.reads {
		differs |= DiffersFormat
	}
	head := BeaconHead{Format: max(b.Format, uint8(1+from.format)), Nonce: b.Nonce, Seq: b.Seq, Serves: b.Phase != Joining}
	n.outside.Hear(w.time(n), from.address(), head, differs)
	w.tellOutside(n)
}

// tellOutside tells the core who is a stranger, when that has changed.
func (w *world) tellOutside(n *simNode) {
	if list := n.outside.List(w.time(n)); !slices.Equal(list, n.heardOf) {
		n.heardOf = list
		core := n.core
		w.at(ms/20, func() {
			if n.core == core {
				w.step(n, StrangersHeard{List: list})
			}
		})
	}
}

// askVIP is what the wire does with echo requests to the VIP: one of those who serve answers.
func (w *world) askVIP(n *simNode) {
	core, by := n.core, ""
	for _, o := range w.nodes {
		if o != n && o.core != nil && o.leased && !o.kernel.Empty() && !w.cut[[2]int{n.index, o.index}] {
			by = o.name
		}
	}
	w.at(time.Second, func() {
		if n.core == core {
			w.step(n, VIPAnswered{By: by})
		}
	})
}

// forge has somebody without a key send so many datagrams a second to all nodes, for a
// while.
func (w *world) forge(last byte, every, span Time, serves bool) {
	end := w.now + span
	boot := w.rng.Uint64() | 1
	from := netip.AddrFrom4([4]byte{10, 0, 0, last})
	var send func()
	send = func() {
		for _, n := range w.up() {
			n.outside.Hear(w.time(n), from, BeaconHead{Format: 1, Nonce: boot, Seq: SeqAt(w.now), Serves: serves}, DiffersKey)
			w.tellOutside(n)
		}
		if w.now+every < end {
			w.at(every, send)
		}
	}
	send()
}

// reboot takes the wire of all nodes away, and gives it back to one after the other
// within that span: to those nodes, or to all.
func (w *world) reboot(outage, span Time, left ...*simNode) {
	if len(left) == 0 {
		left = w.nodes
	}
	w.log("the switch reboots")
	for _, a := range w.nodes {
		w.partition(a.index)
		w.at(w.randomly(50*ms), func() { w.step(a, WireChanged{Reason: "carrier lost"}) })
	}
	back := map[int]bool{}
	for _, a := range left {
		w.at(outage+w.randomly(span), func() {
			back[a.index] = true
			for b := range back {
				delete(w.cut, [2]int{a.index, b})
				delete(w.cut, [2]int{b, a.index})
			}
			w.gossipAll()
			w.step(a, WireChanged{OK: true, Forwards: true})
		})
	}
}

// whoServes are the nodes that have buckets and a lease.
func (w *world) whoServes() (names []string) {
	for _, n := range w.up() {
		if n.leased && !n.kernel.Empty() {
			names = append(names, n.name)
		}
	}
	return names
}

// named are the names of nodes.
func named(nodes []*simNode) (names []string) {
	for _, n := range nodes {
		names = append(names, n.name)
	}
	slices.Sort(names)
	return names
}

// awaitServing lets time pass until those nodes, and no others, serve all buckets, and says how
// long that took; the limit if they did not.
func (w *world) awaitServing(nodes []*simNode, limit Time) Time {
	began := w.now
	for w.now < began+limit {
		w.run(10 * ms)
		if w.unowned() == 0 && slices.Equal(w.whoServes(), named(nodes)) {
			return w.now - began
		}
	}
	w.fault("after %v %v serve with %d buckets unowned, want %v", limit, w.whoServes(), w.unowned(), named(nodes))
	return limit
}

// typoWorld has a cluster of all nodes but one, which has another key.
func typoWorld(seed uint64, tracing bool) (w *world, typo *simNode, cluster []*simNode) {
	w = newWorld(seed, tracing, 2+int(seed%4), calmNet())
	w.timing = rareBeacons
	w.layOut()
	typo = w.nodes[w.rng.IntN(len(w.nodes))] // of a lower address than the others, or a higher
	typo.keys = []int{1}
	cluster = slices.DeleteFunc(slices.Clone(w.nodes), func(n *simNode) bool { return n == typo })
	return w, typo, cluster
}

// TestATypoInOneNodesConfiguration is U1: a new node with another key starts beside a
// cluster that serves. It must not serve, whatever becomes of the others one at a time,
// and they go on.
func TestATypoInOneNodesConfiguration(t *testing.T) {
	forSeeds(t, 20, func(seed uint64, tracing bool) *world {
		w, typo, cluster := typoWorld(seed, tracing)
		for _, n := range cluster {
			w.start(n)
		}
		w.awaitServing(cluster, 12*time.Second)
		w.run(2 * time.Second)
		w.forgetPast()
		w.strict = true
		if len(cluster) > 1 {
			w.gapLimit = oneHandoff
		}
		w.start(typo)
		w.run(40 * time.Second)
		w.expect(slices.Equal(w.whoServes(), named(cluster)), "%v serve, want %v", w.whoServes(), named(cluster))
		w.expect(typo.hasProblem("is served already, by nodes that are none of this cluster"), "%q", typo.core.Snapshot().Problems)
		w.expect(typo.hasProblem("it is proved: n"), "no proof: %q", typo.core.Snapshot().Problems)
		for _, n := range cluster {
			w.expect(n.tellsOf("a node that is none of this cluster is on the wire: "+typo.address().String()), "%s: %q", n.name, n.core.Snapshot().Problems)
		}
		if len(cluster) > 1 { // a rolling restart is not held up
			for _, n := range cluster {
				w.step(n, Leave{KeepFlows: true})
				w.run(time.Second)
				w.start(n)
				w.awaitServing(cluster, 3*time.Second)
				w.run(3 * time.Second)
			}
			w.gapLimit = 0
			w.stop(cluster[0], false)
			w.awaitServing(cluster[1:], 2*time.Second)
			w.start(cluster[0])
			w.awaitServing(cluster, 4*time.Second)
		}
		w.stop(typo, false)
		typo.keys = nil
		w.start(typo)
		w.awaitServing(w.nodes, 6*time.Second)
		w.run(strangerLasts)
		for _, n := range w.nodes {
			w.expect(!n.hasProblem("none of this cluster") && len(n.heardOf) == 0, "%s still tells of strangers: %q", n.name, n.core.Snapshot().Problems)
		}
		return w
	})
}

// expect is a fault, unless it is so.
func (w *world) expect(ok bool, format string, args ...any) {
	if !ok {
		w.fault(format, args...)
	}
}

// TestATypoThatBootsFirst serves when the cluster starts, and keeps it from starting until it is
// stopped, or an operator decides.
func TestATypoThatBootsFirst(t *testing.T) {
	forSeeds(t, 20, func(seed uint64, tracing bool) *world {
		w, typo, cluster := typoWorld(seed, tracing)
		w.strict = true
		w.start(typo)
		w.awaitServing([]*simNode{typo}, 7*time.Second)
		for _, n := range cluster {
			w.start(n)
		}
		w.run(30 * time.Second)
		w.expect(slices.Equal(w.whoServes(), []string{typo.name}), "%v serve, want %s alone", w.whoServes(), typo.name)
		for _, n := range cluster {
			w.expect(n.hasProblem("it is proved: "+typo.name), "%s: %q", n.name, n.core.Snapshot().Problems)
		}
		if seed%2 == 0 {
			w.stop(typo, false)
			w.expect(w.awaitServing(cluster, 6*time.Second) >= strangerLasts-time.Second, "the stranger ended early")
			return w
		}
		w.strict = false // the operator has decided
		n := cluster[w.rng.IntN(len(cluster))]
		w.step(n, ServeDespite{typo.address()})
		w.run(3 * time.Second)
		w.expect(slices.Equal(w.whoServes(), named(w.nodes)), "%v serve, want all: the others have a peer that serves", w.whoServes())
		return w
	})
}

// TestTwoPartiesOfWhichNoneServes: after a power cut a cluster and nodes with another key
// start at once. One party serves, the larger or the one with the lowest address; the
// other finds it serving.
func TestTwoPartiesOfWhichNoneServes(t *testing.T) {
	forSeeds(t, 10, func(seed uint64, tracing bool) *world {
		w := newWorld(seed, tracing, 2+int(seed%5), calmNet())
		w.timing, w.strict = rareBeacons, true
		w.layOut()
		var parties [2][]*simNode
		for i, n := range w.nodes {
			side := w.rng.IntN(2)
			if i < 2 {
				side = i
			}
			n.keys = []int{side}
			parties[side] = append(parties[side], n)
		}
		first := parties[0] // has n0, the lowest address
		if len(parties[1]) > len(parties[0]) {
			first = parties[1]
		}
		for _, n := range w.nodes {
			w.at(w.randomly(100*ms), func() { w.start(n) }) // who is later finds the others serving
		}
		w.awaitServing(first, 8*time.Second)
		w.run(20 * time.Second)
		w.expect(slices.Equal(w.whoServes(), named(first)), "%v serve, want %v", w.whoServes(), named(first))
		// The first party is switched off: the other starts by itself.
		for _, n := range first {
			w.stop(n, false)
		}
		second := parties[0]
		if &first[0] == &second[0] {
			second = parties[1]
		}
		w.awaitServing(second, 6*time.Second)
		return w
	})
}

// TestTwoPartiesThatStartAtAnyTimes come to one that serves, whatever the order.
func TestTwoPartiesThatStartAtAnyTimes(t *testing.T) {
	forSeeds(t, 10, func(seed uint64, tracing bool) *world {
		w := newWorld(seed, tracing, 2+int(seed%5), calmNet())
		w.timing, w.strict = rareBeacons, true
		w.layOut()
		for i, n := range w.nodes {
			n.keys = []int{w.rng.IntN(2)}
			if i < 2 {
				n.keys = []int{i}
			}
			w.at(w.randomly(10*time.Second), func() { w.start(n) })
		}
		w.run(40 * time.Second)
		w.expect(w.unowned() == 0, "%d buckets unowned, %v serve", w.unowned(), w.whoServes())
		return w
	})
}

// TestAPowerCutWithAForger: one junk datagram a second does not keep a cluster down, nor
// does one who says all the time that he is about to start.
func TestAPowerCutWithAForger(t *testing.T) {
	forSeeds(t, 20, func(seed uint64, tracing bool) *world {
		w := newWorld(seed, tracing, 1+int(seed%5), calmNet())
		w.timing, w.strict = rareBeacons, true
		w.layOut()
		every, limit := time.Second, 7*time.Second
		serves := true
		if seed%2 == 0 {
			every, limit, serves = 20*ms, 7*time.Second+strangerDelay, false
		}
		w.forge(0, every, 60*time.Second, serves)
		for _, n := range w.nodes {
			w.at(w.randomly(time.Second), func() { w.start(n) })
		}
		w.awaitServing(w.nodes, limit)
		return w
	})
}

// TestAForgerWhoNeverEnds is the named exception: who sends frames all the time keeps a
// cluster of which nobody serves from starting, until an operator says so.
func TestAForgerWhoNeverEnds(t *testing.T) {
	forSeeds(t, 20, func(seed uint64, tracing bool) *world {
		w := newWorld(seed, tracing, 1+int(seed%4), calmNet())
		w.timing, w.strict = rareBeacons, true
		w.layOut()
		w.forge(0, 20*ms, 60*time.Second, true)
		for _, n := range w.nodes {
			w.start(n)
		}
		w.run(30 * time.Second)
		for _, n := range w.nodes {
			w.expect(n.hasProblem("it may be forged") && n.hasProblem("`peervip serve --despite 10.0.0.0`"), "%s: %q", n.name, n.core.Snapshot().Problems)
		}
		w.step(w.some(), ServeDespite{netip.MustParseAddr("10.0.0.0")})
		w.awaitServing(w.nodes, 3*time.Second)
		return w
	})
}

// TestASwitchRebootBesideAStranger: nodes that served before serve again within a second of
// the moment when a majority of them hear each other; the stranger does not.
func TestASwitchRebootBesideAStranger(t *testing.T) {
	forSeeds(t, 10, func(seed uint64, tracing bool) *world {
		w := newWorld(seed, tracing, 3+int(seed%4), calmNet())
		w.layOut()
		typo := w.nodes[w.rng.IntN(len(w.nodes))]
		typo.keys = []int{1}
		cluster := slices.DeleteFunc(slices.Clone(w.nodes), func(n *simNode) bool { return n == typo })
		for _, n := range cluster {
			w.start(n)
		}
		w.awaitServing(cluster, 12*time.Second)
		w.start(typo)
		w.run(8 * time.Second)
		w.strict = true
		span := []Time{100 * ms, 2 * time.Second, 4 * time.Second}[seed%3]
		outage := []Time{500 * ms, 8 * time.Second, 60 * time.Second}[seed/3%3]
		w.reboot(outage, span)
		w.run(outage)
		var majority Time // since when more than half of the cluster have their wire again
		for end := w.now + span + 3*time.Second; w.unowned() > 0 && w.now < end; w.run(10 * ms) {
			back := 0
			for _, n := range cluster {
				if n.core.wire.OK {
					back++
				}
			}
			if majority == 0 && 2*back > len(cluster) {
				majority = w.now
			}
		}
		w.expect(w.unowned() == 0 && (majority == 0 || w.now-majority <= time.Second), "%v after a majority was back %d buckets are unowned", w.now-majority, w.unowned())
		w.awaitServing(cluster, 6*time.Second)
		w.run(20 * time.Second)
		w.expect(slices.Equal(w.whoServes(), named(cluster)), "%v serve, want %v", w.whoServes(), named(cluster))
		return w
	})
}

// TestKeysChangedOneNodeAtATime as the docs say: the new key is added, then signs, then the
// old one goes. Nobody is a stranger to anybody, and no bucket is without an owner for
// longer than a handoff.
func TestKeysChangedOneNodeAtATime(t *testing.T) {
	forSeeds(t, 20, func(seed uint64, tracing bool) *world {
		w := settled(seed, tracing, 2+int(seed%3))
		w.strict, w.gapLimit = true, oneHandoff
		for _, ring := range [][]int{{0, 1}, {1, 0}, {1}} {
			for _, n := range w.nodes {
				w.step(n, Leave{KeepFlows: true})
				w.run(time.Second)
				n.keys = ring
				w.start(n)
				w.run(3 * time.Second)
				for _, n := range w.nodes {
					w.expect(!n.hasProblem("none of this cluster") && len(n.heardOf) == 0, "%s: %q", n.name, n.core.Snapshot().Problems)
				}
			}
		}
		w.quiet()
		return w
	})
}

// TestAKeyReplacedOneNodeAtATime: those with the new key wait until the last one has it.
func TestAKeyReplacedOneNodeAtATime(t *testing.T) {
	forSeeds(t, 20, func(seed uint64, tracing bool) *world {
		w := newWorld(seed, tracing, 2+int(seed%3), calmNet())
		w.timing, w.strict = rareBeacons, true
		w.layOut()
		for _, n := range w.nodes {
			w.start(n)
		}
		w.awaitServing(w.nodes, 12*time.Second)
		w.run(3 * time.Second)
		w.forgetPast()
		for i, n := range w.nodes {
			last := i == len(w.nodes)-1
			if last {
				w.gapLimit = 0
			} else {
				w.gapLimit = oneHandoff
			}
			w.step(n, Leave{KeepFlows: true})
			w.run(time.Second)
			if n.core != nil { // nobody takes over from the last one
				w.stop(n, false)
			}
			n.keys = []int{1}
			w.start(n)
			w.run(8 * time.Second)
			want := named(w.nodes[i+1:])
			if last {
				want = named(w.nodes)
			}
			w.expect(slices.Equal(w.whoServes(), want), "%v serve after %d changes, want %v", w.whoServes(), i+1, want)
		}
		w.quiet()
		return w
	})
}

// TestWhatIsSaidOfAStranger: what differs, and the cure.
func TestWhatIsSaidOfAStranger(t *testing.T) {
	const both = "), and it serves too: clients get answers of both, and their connections break; "
	for differs, want := range map[Difference]string{
		DiffersKey:                 "another key" + both + "compare cluster.key_file here and there, or give one of the two clusters another address",
		DiffersName:                "another cluster.name with this cluster's key" + both + "compare cluster.name here and there, or give",
		DiffersName | DiffersKey:   "another cluster.name and another key" + both + "compare cluster.name and cluster.key_file here and there, or give",
		DiffersKey | DiffersFormat: fmt.Sprintf("another key; format 9, and this program reads 1 to %d", BeaconMax) + both + "compare cluster.key_file here and there, or give one of the two clusters another address; run versions",
		DiffersFormat:              fmt.Sprintf("format 9, and this program reads 1 to %d", BeaconMax) + both + "run versions that are nearer to each other",
	} {
		d := activeDesk(t, nil)
		d.step(StrangersHeard{List: []Stranger{{Address: address(9), MAC: "02:00:00:00:00:09", Differs: differs, Format: 9, Serves: true}}})
		begin := "a node that is none of this cluster is on the wire: 10.0.0.9 (02:00:00:00:00:09, "
		if differs == DiffersFormat {
			begin = "a member that cannot be understood is on the wire: 10.0.0.9 (02:00:00:00:00:09, "
		}
		got := d.core.Snapshot().Strangers
		if len(got) != 1 || !strings.HasPrefix(got[0].Problem, begin+want) {
			t.Errorf("%b: %+v", differs, got)
		}
		d.step(StrangersHeard{})
		if got := d.core.Snapshot().Strangers; len(got) != 0 {
			t.Errorf("%+v", got)
		}
	}
}

// tellsOf says whether the node has a problem with strangers.
func (n *simNode) tellsOf(text string) bool {
	return slices.ContainsFunc(n.core.Snapshot().Strangers, func(s StrangerSnapshot) bool { return strings.Contains(s.Problem, text) })
}

// TestSeedsWithAnotherKey keep a node from starting alone; if they are on the wire, all of
// them, the strangers' rule says for how long.
func TestSeedsWithAnotherKey(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.Address = address(9) })
	d.step(OtherKey{Why: "refused", Seeds: []netip.Addr{address(5), address(6)}})
	d.step(SeedsTried{})
	d.wait(time.Minute)
	if why := d.core.mayServe(); why != "refused" {
		t.Errorf("%q", why)
	}
	other := func(last byte) Stranger { return Stranger{Address: address(last), Differs: DiffersKey} }
	for _, heard := range [][]Stranger{{other(5)}, {other(5), other(7)}, {other(5), {Address: address(6), Differs: DiffersName}}} {
		d.step(StrangersHeard{List: heard})
		d.wait(time.Minute)
		if why := d.core.mayServe(); why != "refused" {
			t.Errorf("%v: what is not on the wire may serve: %q", heard, why)
		}
	}
	d.step(StrangersHeard{List: []Stranger{other(5), other(6)}})
	if why := d.core.mayServe(); !strings.HasPrefix(why, "nodes that are none of this cluster start on the same address, and go first") {
		t.Errorf("%q", why)
	}
	d.wait(strangerDelay + time.Second)
	if why := d.core.mayServe(); why != "" {
		t.Errorf("it still waits: %q", why)
	}
}

// TestAStrangerThatRestarts: a node with another key has waited for long beside one that
// serves. When that restarts, it does not take the address from it meanwhile.
func TestAStrangerThatRestarts(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.Address = address(9) })
	d.step(SeedsTried{})
	other := Stranger{Address: address(5), Differs: DiffersKey, Serves: true}
	d.step(StrangersHeard{List: []Stranger{other}})
	d.wait(time.Minute)
	if why := d.core.mayServe(); !strings.HasPrefix(why, "this cluster's address is served already") {
		t.Errorf("%q", why)
	}
	other.Serves = false
	d.step(StrangersHeard{List: []Stranger{other}})
	d.wait(strangerDelay - time.Second)
	if why := d.core.mayServe(); !strings.HasPrefix(why, "nodes that are none of this cluster start on the same address, and go first") {
		t.Errorf("it does not wait for the other's restart: %q", why)
	}
	d.wait(2 * time.Second)
	if why := d.core.mayServe(); why != "" {
		t.Errorf("it still waits: %q", why)
	}
}
