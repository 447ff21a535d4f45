package gossip

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// wire is a network of its own: nodes in namespaces, on two switches that a trunk
// joins.
type wire struct {
	*cluster
	sw    *lab.Namespace
	hosts map[int]*lab.Namespace
}

// newWire puts the hosts of left on one switch and those of right on the other.
// Host i has the address 10.9.0.i.
func newWire(t testing.TB, left, right []int) *wire {
	t.Helper()
	c := newCluster(t)
	c.at = func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}), testPort)
	}
	prefix := lab.UniquePrefix()
	w := &wire{cluster: c, sw: namespace(t, prefix+"sw"), hosts: make(map[int]*lab.Namespace)}
	run(t, w.sw, "ip", "link", "add", "left", "type", "bridge")
	run(t, w.sw, "ip", "link", "add", "right", "type", "bridge")
	run(t, w.sw, "ip", "link", "add", "trunk", "type", "veth", "peer", "name", "trunk2")
	run(t, w.sw, "ip", "link", "set", "trunk", "master", "left")
	run(t, w.sw, "ip", "link", "set", "trunk2", "master", "right")
	for _, link := range []string{"left", "right", "trunk", "trunk2"} {
		run(t, w.sw, "ip", "link", "set", link, "up")
	}
	attach := func(i int, bridge string) {
		host := namespace(t, fmt.Sprintf("%sh%d", prefix, i))
		port := fmt.Sprintf("p%d", i)
		run(t, w.sw, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.Name)
		run(t, w.sw, "ip", "link", "set", port, "master", bridge, "up")
		run(t, host, "ip", "addr", "add", c.at(i).Addr().String()+"/24", "dev", "eth0")
		run(t, host, "ip", "link", "set", "eth0", "up")
		w.hosts[i] = host
	}
	for _, i := range left {
		attach(i, "left")
	}
	for _, i := range right {
		attach(i, "right")
	}
	return w
}

func namespace(t testing.TB, name string) *lab.Namespace {
	t.Helper()
	ns, err := lab.NewNamespace(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

func run(t testing.TB, ns *lab.Namespace, name string, args ...string) {
	t.Helper()
	if _, err := ns.Run(name, args...); err != nil {
		t.Fatal(err)
	}
}

// startOn runs node i on host i.
func (w *wire) startOn(i int, edit func(*Config)) *testNode {
	w.t.Helper()
	host := w.hosts[i]
	cfg := w.config(i)
	cfg.dial = func(ctx context.Context, d *net.Dialer, addr string) (c net.Conn, err error) {
		err = host.Do(func() error {
			c, err = d.DialContext(ctx, "tcp", addr)
			return err
		})
		return c, err
	}
	if edit != nil {
		edit(&cfg)
	}
	return w.startWith(cfg, func(cfg Config, h Handler) (g *Gossip, err error) {
		err = host.Do(func() error {
			g, err = New(cfg, h)
			return err
		})
		return g, err
	})
}

// unplug takes a host's cable out: no packet, no reset, no error for the others.
func (w *wire) unplug(i int) { run(w.t, w.sw, "ip", "link", "set", fmt.Sprintf("p%d", i), "down") }

func TestAPowerOffIsNoticed(t *testing.T) {
	w := newWire(t, []int{1, 2}, []int{3})
	nodes := []*testNode{w.startOn(1, quick), w.startOn(2, quick), w.startOn(3, quick)}
	meshed(t, nodes...)
	start := time.Now()
	w.unplug(3)
	for _, n := range nodes[:2] {
		eventually(t, n.cfg.Name+" notices", has(n.recorder, func(d Dead) bool { return d == Dead{"n3", false} }))
		t.Logf("%s noticed after %s", n.cfg.Name, time.Since(start).Round(time.Millisecond))
	}
	eventually(t, "n3 notices that it is alone", func() bool { return len(nodes[2].Members()) == 0 })
}

// memberlist would leave the halves apart for ever; no seed helps here, only what
// the nodes remember of each other.
func TestAPartitionIsHealed(t *testing.T) {
	w := newWire(t, []int{1, 2}, []int{3, 4})
	noSeeds := func(c *Config) { c.Seeds, c.Detection = nil, DefaultDetection }
	var nodes []*testNode
	for i := 1; i <= 4; i++ {
		nodes = append(nodes, w.startOn(i, noSeeds))
		if i > 1 {
			if _, err := nodes[i-1].Join([]string{w.at(1).String()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	meshed(t, nodes...)
	run(t, w.sw, "ip", "link", "set", "trunk", "down")
	meshed(t, nodes[:2]...)
	meshed(t, nodes[2:]...)
	eventually(t, "the left half tries the lost ones, in vain", has(nodes[0].recorder, func(a Attempt) bool { return a.Reached == 0 && a.Err != nil }))
	run(t, w.sw, "ip", "link", "set", "trunk", "up")
	meshed(t, nodes...)
}

// A node that has lost all others does not wait for the rejoin period.
func TestAnIsolatedNodeComesBackSoon(t *testing.T) {
	w := newWire(t, []int{1}, []int{2, 3})
	slow := func(c *Config) { c.Rejoin, c.Detection = time.Hour, DefaultDetection }
	nodes := []*testNode{w.startOn(1, slow), w.startOn(2, slow), w.startOn(3, slow)}
	meshed(t, nodes...)
	run(t, w.sw, "ip", "link", "set", "trunk", "down")
	eventually(t, "n1 is alone", func() bool { return len(nodes[0].Members()) == 0 })
	meshed(t, nodes[1:]...)
	run(t, w.sw, "ip", "link", "set", "trunk", "up")
	meshed(t, nodes...)
}

// Claims do not wait behind a black-holed peer.
func TestABlackHoledPeerDelaysNobody(t *testing.T) {
	w := newWire(t, []int{1, 2}, []int{3})
	patient := func(c *Config) { c.Detection = maxDetection } // n3 stays a member
	nodes := []*testNode{w.startOn(1, patient), w.startOn(2, patient), w.startOn(3, patient)}
	meshed(t, nodes...)
	w.unplug(3)
	const count = 20
	payload := bytes.Repeat([]byte("claims"), 10_000) // by TCP
	for range count {
		nodes[0].Send("n3", payload) // each takes streamTimeout
	}
	for i := range count {
		nodes[0].Send("n2", append(payload[:len(payload):len(payload)], byte(i)))
	}
	for i := range count {
		eventually(t, fmt.Sprintf("payload %d reaches n2", i), has(nodes[1].recorder, func(m Message) bool {
			return len(m.Payload) == len(payload)+1 && m.Payload[len(payload)] == byte(i)
		}))
	}
	nodes[0].out.mu.Lock()
	waiting := len(nodes[0].out.queues["n3"])
	nodes[0].out.mu.Unlock()
	if waiting == 0 {
		t.Error("nothing waits for the black-holed peer: it was none, or payloads to others waited behind it")
	}
	start := time.Now()
	nodes[0].end()
	if took := time.Since(start); took > streamTimeout {
		t.Errorf("closing waited %s for the black-holed peer", took)
	}
}

// Datagrams that wait for the ARP of neighbours that are gone count against the
// one socket that all use.
func TestSilentNeighboursDoNotFillTheSocket(t *testing.T) {
	w := newWire(t, []int{1}, []int{2})
	nodes := []*testNode{w.startOn(1, nil), w.startOn(2, nil)}
	meshed(t, nodes...)
	for i := 100; i < 108; i++ {
		nodes[0].table.joined(Member{Name: fmt.Sprint(i), Addr: w.at(i)})
		for range queueLength {
			nodes[0].Send(fmt.Sprint(i), make([]byte, 1000))
		}
	}
	eventually(t, "all is written", func() bool { return nodes[0].Stats().Sent >= 8*queueLength })
	// The kernel asks for a neighbour for 3 s before it gives up.
	out, err := w.hosts[1].Run("ip", "neigh", "show", "nud", "incomplete")
	if err != nil || out == "" {
		t.Errorf("no neighbour is waited for any more, so the writes may have waited: %q %v", out, err)
	}
	if has(nodes[0].recorder, deadNamed("n2"))() {
		t.Error("n2 looked dead meanwhile")
	}
}
