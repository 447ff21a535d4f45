package nft

import (
	"net/netip"
	"testing"
	"time"

	"github.com/peervip/peervip/node"
)

// behind makes a host behind another interface of the node, which is its router, and
// returns the wire with that host as the client.
func (w *wire) behind(i int, device, network string) *wire {
	w.t.Helper()
	ns, other := w.nodes[i], *w
	other.client = namespace(w.t, "b"+device)
	if device == "docker0" { // a bridge of containers
		ip(w.t, ns, "link add docker0 type bridge", "link add c1 type veth peer name eth0 netns "+other.client.Name, "link set c1 master docker0 up")
	} else {
		ip(w.t, ns, "link add "+device+" type veth peer name eth0 netns "+other.client.Name)
	}
	ip(w.t, ns, "link set "+device+" up", "addr add "+network+".1/24 dev "+device)
	ip(w.t, other.client, "link set eth0 up", "addr add "+network+".2/24 dev eth0", "route add default via "+network+".1")
	eventually(w.t, "the node is reached as a router", func() bool {
		_, err := other.client.Run("ping", "-c", "1", "-W", "1", network+".1")
		return err == nil
	})
	return &other
}

// Another way in is not past the lease. A client that comes to a node by
// another interface, or to its own MAC, is served while the node serves; a node that is
// drained keeps its connections and takes no new ones; one without a lease, or whose agent
// hangs, is silent. Containers on its bridges are its own.
func TestAnotherWayInIsNotPastTheLease(t *testing.T) {
	s := leaseSpec(900 * time.Millisecond)
	w := newTalkingWire(t, 1)
	ns := w.nodes[0]
	for _, where := range []string{"all", "default", "eth0"} {
		sysctl(t, ns, "ipv4/conf/"+where+"/rp_filter", "0")
	}
	routed, contained := w.behind(0, "eth1", "10.67.0"), w.behind(0, "docker0", "10.68.0")
	far, local := netip.MustParseAddr("10.67.0.2"), netip.MustParseAddr("10.68.0.2")
	w.knows(vip, w.nodeMAC(0))
	f := installed(t, ns, s)
	check := func(when, want string) {
		t.Helper()
		within := soon
		if want == "" {
			within = never
		}
		if got := routed.connects(far, within); got != want {
			t.Errorf("%s: by another interface: answers %q, want %q", when, got, want)
		}
		if got := w.connects(clientAddr(0), within); got != want {
			t.Errorf("%s: to the node's own MAC: answers %q, want %q", when, got, want)
		}
		if got := contained.connects(local, soon); got != "0" {
			t.Errorf("%s: from a container: answers %q", when, got)
		}
	}
	keep := func(held bool) {
		t.Helper()
		if err := f.KeepWays(held); err != nil {
			t.Fatal(err)
		}
	}
	check("no lease yet", "")
	arm(t, f, allBuckets(s, node.Own)...)
	check("serving", "0")
	keep(true)
	talk, err := routed.talk("tcp4", far)
	if err != nil {
		t.Fatal(err)
	}
	keep(true)
	commit(t, f, allBuckets(s, node.Linger)...)
	check("drained", "")
	keep(true)
	if got := asked(t, talk); got != "0" {
		t.Errorf("drained: an open connection is answered by %q", got)
	}
	keep(true)
	commit(t, f, allBuckets(s, node.Own)...)
	check("serving again", "0")
	if err := f.DropLease(); err != nil {
		t.Fatal(err)
	}
	check("the lease is dropped", "")
	arm(t, f)
	time.Sleep(wayHeld + 100*time.Millisecond)
	check("the agent hangs", "")
	if got, err := talk.ask(never); got != "" || err != nil {
		t.Errorf("the agent hangs: an open connection: %q, %v", got, err)
	}
	keep(true)
	check("it goes on", "0")
	keep(false)
	check("the lease has run out", "")

	c := counters(t, f)
	if c.OtherWaysDropped.Packets < 8 || c.OtherWays.Packets < 8 {
		t.Errorf("counted %+v, dropped %+v", c.OtherWays, c.OtherWaysDropped)
	}
	if len(c.Ways) != 1 || c.Ways[0].Interface != "eth1" || c.Ways[0].From != far || c.Ways[0].Packets < 8 {
		t.Errorf("ways %+v", c.Ways)
	}
}
