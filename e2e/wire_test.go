package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// names are the switch ports of the nodes.
func names(nodes ...*lab.Node) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.Name)
	}
	return list
}

// between is a fault on all ways between the nodes; the clients' ways are whole.
func between(traffic lab.Traffic, nodes ...*lab.Node) lab.Fault {
	return lab.Fault{From: names(nodes...), To: names(nodes...), Traffic: traffic}
}

// What befalls the ways between nodes that are well themselves.
func TestWaysCut(t *testing.T) {
	play(t, 3, []scene{
		{"gossip cut and the wire whole", gossipCut},
		{"wire silent for one", wireSilentForOne},
		{"wire silent for all", wireSilentForAll},
	})
}

func TestLossOfAThird(t *testing.T) { play(t, 3, []scene{{"of everything between nodes", loss}}) }

func TestFirewallThatDropsBeacons(t *testing.T) {
	play(t, 3, []scene{
		{"loaded while the agent runs", firewall},
		{"loaded before its start", firewallBeforeStart},
	})
}

// Without gossip everybody keeps what he has, a node can be drained, at once and when
// gossip has noticed, and one that dies is taken over from.
func gossipCut(t *testing.T, l *lab.Lab) {
	node, others := l.Nodes[2], l.Nodes[:2]
	tr := watch(t, l, l.Nodes...)
	drain := func() {
		t.Helper()
		run(t, node, "drain")
		settle(t, l, others...)
		run(t, node, "resume")
		settle(t, l, l.Nodes...)
		tr.spared(t, tr.begun)
	}
	must(t, l.Break(between(lab.Gossip, l.Nodes...)))
	drain()
	tr.begun = l.Now()
	for _, n := range l.Nodes {
		logs(t, n, "gossip has lost", len(l.Nodes)-1)
	}
	settle(t, l, l.Nodes...)
	tr.unmovedBy(t, "a loss of gossip")
	tr.spared(t, tr.begun)
	drain()
	tr.relieves(t, node, func() { must(t, node.Kill()) }, func() {
		must(t, l.Heal())
		must(t, node.Start())
	})
}

// logs waits until the node has logged the words so many times.
func logs(t *testing.T, n *lab.Node, words string, times int) {
	t.Helper()
	eventually(t, func() error {
		if c := strings.Count(n.Log(), words); c < times {
			return fmt.Errorf("%s has logged %q %d times, want %d", n.Name, words, c, times)
		}
		return nil
	})
}

// One port does not get what goes to the cluster MAC: that node gets no packet of
// its clients, and no beacon on the wire. It is alive all the same, and relieved.
func wireSilentForOne(t *testing.T, l *lab.Lab) {
	victim := l.Nodes[1]
	tr := watch(t, l, l.Nodes...)
	tr.relieves(t, victim, func() { must(t, l.Isolate(lab.Wire, victim)) }, func() {
		says(t, victim, "wire")
		must(t, l.Heal())
	})
}

// No node hears another on the wire, though their clients are heard: a switch or a
// firewall. Nobody is excluded for it, and everybody says so.
func wireSilentForAll(t *testing.T, l *lab.Lab) {
	tr := watch(t, l, l.Nodes...)
	must(t, l.Break(between(lab.Wire, l.Nodes...)))
	time.Sleep(2 * time.Second)
	for _, n := range l.Nodes {
		says(t, n, "wire")
	}
	settle(t, l, l.Nodes...)
	must(t, l.Heal())
	tr.restored(t)
	tr.unmovedBy(t, "a silent wire")
}

// lossy is the share lost, and for how long.
const (
	lossShare = 0.3
	lossTime  = 30 * time.Second
)

// What is lost at random costs a short pause now and then, and neither
// a double answer nor a false death.
func loss(t *testing.T, l *lab.Lab) {
	tr := watch(t, l, l.Nodes...)
	fault := between(lab.All, l.Nodes...)
	fault.Loss = lossShare
	must(t, l.Break(fault))
	time.Sleep(lossTime)
	for _, n := range l.Nodes {
		t.Logf("pauses of %s in %v with %.0f %% lost: %v", n.Name, lossTime, lossShare*100, tr.pauses(n, tr.begun))
	}
	tr.unmovedBy(t, "a loss of frames")
	must(t, l.Heal())
	tr.restored(t)
	tr.unmovedBy(t, "the end of a loss of frames")
}

// Beacons come to the node and are dropped by its own input hook.
func firewall(t *testing.T, l *lab.Lab) {
	victim := l.Nodes[0]
	tr := watch(t, l, l.Nodes...)
	tr.relieves(t, victim, func() { must(t, victim.Firewall()) }, func() {
		says(t, victim, "firewall|7947")
		must(t, victim.NoFirewall())
	})
}

// A node that hears no beacon from its start on is not let in to serve, or at
// least not beside others.
func firewallBeforeStart(t *testing.T, l *lab.Lab) {
	victim := l.Nodes[0]
	tr := watch(t, l, l.Nodes...)
	tr.held.Stop() // or it would wait for the end of its connections
	must(t, victim.Stop(patiently(t)))
	must(t, victim.Firewall())
	start(t, victim)
	time.Sleep(8 * time.Second) // longer than it takes to start alone
	tr.allServed(t)
	tr.spared(t, tr.begun, victim)
	says(t, victim, "firewall|7947")
	must(t, victim.NoFirewall())
	tr.restored(t, victim)
}

// One-way losses among three: a third node may carry word of what is lost. A node
// that nobody hears is taken over from; one that hears nobody stops the others too,
// unless it finds out by itself.
func TestOneWayLoss(t *testing.T) {
	play(t, 3, oneWayScenes([]oneWayLoss{
		{"from one to another on the wire", []int{0}, []int{1}, lab.Wire, nil},
		{"from one to another on wire and unicast", []int{0}, []int{1}, lab.Beacons, nil},
		{"from one to all, beacons", []int{0}, []int{1, 2}, lab.Beacons, []int{0}},
		{"from one to all, everything", []int{1}, []int{0, 2}, lab.All, []int{1}},
		{"from all to one, beacons", []int{1, 2}, []int{0}, lab.Beacons, []int{0, 1, 2}},
		{"from all to one, everything", []int{0, 2}, []int{1}, lab.All, []int{0, 1, 2}},
	}))
}

// One-way losses between two, with nobody to carry word.
func TestOneWayLossOfTwo(t *testing.T) {
	play(t, 2, oneWayScenes([]oneWayLoss{
		{"on the wire", []int{0}, []int{1}, lab.Wire, nil},
		{"of beacons, one way", []int{0}, []int{1}, lab.Beacons, []int{0, 1}},
		{"of beacons, the other way", []int{1}, []int{0}, lab.Beacons, []int{0, 1}},
		{"of everything", []int{0}, []int{1}, lab.All, []int{0, 1}},
	}))
}

// oneWayLoss is a loss from some nodes to some others, by index. Those that are hit
// may pause, and be taken over from.
type oneWayLoss struct {
	name     string
	from, to []int
	traffic  lab.Traffic
	hit      []int
}

func oneWayScenes(losses []oneWayLoss) (scenes []scene) {
	for _, loss := range losses {
		scenes = append(scenes, scene{loss.name, loss.play})
	}
	return scenes
}

// play loses the traffic for some seconds. Everybody is served in the end, and
// before the loss is over.
func (o oneWayLoss) play(t *testing.T, l *lab.Lab) {
	pick := func(indices []int) (nodes []*lab.Node) {
		for _, i := range indices {
			nodes = append(nodes, l.Nodes[i])
		}
		return nodes
	}
	tr := watch(t, l, l.Nodes...)
	must(t, l.Break(lab.Fault{From: names(pick(o.from)...), To: names(pick(o.to)...), Traffic: o.traffic}))
	time.Sleep(2 * time.Second)
	by := tr.allServed(t)
	for _, n := range l.Nodes {
		t.Logf("%s serves %d clients of %d; their silences: %v", n.Name, count(by, n), count(tr.before, n), tr.pauses(n, tr.begun))
	}
	must(t, l.Heal())
	tr.restored(t, pick(o.hit)...)
	if len(o.hit) == 0 {
		tr.unmovedBy(t, "a loss one way")
	}
}
