package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestNodesMeetByASeed(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(4)
	want := []Member{
		{Name: "n1", Addr: c.at(1), Meta: []byte("meta of n1")},
		{Name: "n2", Addr: c.at(2), Meta: []byte("meta of n2")},
		{Name: "n4", Addr: c.at(4), Meta: []byte("meta of n4")},
	}
	if diff := cmp.Diff(want, nodes[2].Members(), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("members that n3 sees (-want +got):\n%s", diff)
	}
	for _, n := range nodes {
		if has(n.recorder, aliveNamed(n.cfg.Name))() {
			t.Errorf("%s was told of itself", n.cfg.Name)
		}
	}
	eventually(t, "n3 reports that it reached its seed", has(nodes[2].recorder, func(a Attempt) bool { return a.Reached == 1 && a.Err == nil }))
	if got := nodes[2].Stats().Reached; got == 0 {
		t.Error("no contact was counted")
	}
}

func TestTwoNodesThatSeedEachOtherStartAtOnce(t *testing.T) {
	c := newCluster(t)
	one, two := c.config(1), c.config(2)
	both := []string{c.at(1).String(), c.at(2).String()}
	one.Seeds, two.Seeds = both, both
	meshed(t, c.start(one), c.start(two))
}

func TestSeedByName(t *testing.T) {
	c := newCluster(t)
	port := freePort(t)
	one, two := c.config(1), c.config(2)
	one.Bind = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	one.Seeds = nil
	two.Seeds = []string{fmt.Sprintf("localhost:%d", port)}
	meshed(t, c.start(one), c.start(two))
}

func freePort(t *testing.T) uint16 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

func TestJoinExchangesStates(t *testing.T) {
	c := newCluster(t)
	one := c.start(c.config(1))
	two := c.start(c.config(2))
	from := func(name string) func(State) bool {
		return func(s State) bool { return s.Join && string(s.Payload) == "state of "+name }
	}
	eventually(t, "n1 has the state of n2", has(one.recorder, from("n2")))
	eventually(t, "n2 has the state of n1", has(two.recorder, from("n1")))
}

func TestPayloadsArriveWhole(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(2)
	largest := packetSize - packetOverhead - len("test")
	for _, size := range []int{0, 1, 100, largest, largest + 1, 100_000, 3_000_000} {
		payload := bytes.Repeat([]byte{byte(size)}, size)
		// A datagram may be lost, so it is sent again, as the core does.
		eventually(t, fmt.Sprintf("%d bytes arrive", size), func() bool {
			nodes[0].Send("n2", payload)
			time.Sleep(20 * time.Millisecond)
			return has(nodes[1].recorder, func(m Message) bool { return bytes.Equal(m.Payload, payload) })()
		})
	}
	if s := nodes[0].Stats(); s.Failed+s.Unknown+s.Oversize+s.Malformed != 0 {
		t.Errorf("stats after good payloads: %+v", s)
	}
}

func TestPayloadsThatCannotBeSentAreCounted(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(2)
	nodes[0].Send("nobody", []byte("x"))
	nodes[0].Send("n2", make([]byte, MaxPayload+1))
	if s := nodes[0].Stats(); s.Unknown != 1 || s.Oversize != 1 {
		t.Errorf("stats: %+v, want one unknown and one oversize", s)
	}
}

// The largest datagram that Send makes must not be larger than packetSize.
func TestALargestDatagramFitsThePacketSize(t *testing.T) {
	c := newCluster(t)
	n := c.start(c.config(1))
	sink, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(c.at(2)))
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	n.table.joined(Member{Name: "sink", Addr: c.at(2)})
	n.Send("sink", make([]byte, packetSize-packetOverhead-len("test")))
	if err := sink.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	size, err := sink.Read(make([]byte, 1<<16))
	if err != nil || size != packetSize {
		t.Errorf("the datagram has %d bytes, %v; want %d", size, err, packetSize)
	}
}

func TestADeathIsNoticed(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(3)
	died := time.Now()
	nodes[2].end()
	for _, n := range nodes[:2] {
		eventually(t, n.cfg.Name+" notices the death", has(n.recorder, deadNamed("n3")))
		t.Logf("%s noticed after %s", n.cfg.Name, time.Since(died).Round(time.Millisecond))
		if has(n.recorder, func(d Dead) bool { return d.Left })() {
			t.Errorf("%s took the death for a leave", n.cfg.Name)
		}
		if diff := cmp.Diff([]string{"n1", "n2"}, names(n)); diff != "" {
			t.Errorf("members (-want +got):\n%s", diff)
		}
		if !slices.ContainsFunc(n.Known(), func(p Peer) bool { return p == Peer{"n3", c.at(3)} }) {
			t.Errorf("%s has forgotten n3: %v", n.cfg.Name, n.Known())
		}
	}
}

// names returns the members and the node itself.
func names(n *testNode) []string {
	all := []string{n.cfg.Name}
	for _, m := range n.Members() {
		all = append(all, m.Name)
	}
	slices.Sort(all)
	return all
}

func TestALeaveIsNoDeath(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(3)
	start := time.Now()
	if err := nodes[2].Leave(context.Background()); err != nil {
		t.Errorf("leaving: %v", err)
	}
	t.Logf("left in %s", time.Since(start).Round(time.Millisecond))
	for _, n := range nodes[:2] {
		eventually(t, n.cfg.Name+" sees the leave", has(n.recorder, func(d Dead) bool { return d == Dead{"n3", true} }))
		if slices.ContainsFunc(n.Known(), func(p Peer) bool { return p.Name == "n3" }) {
			t.Errorf("%s goes on trying n3, which left: %v", n.cfg.Name, n.Known())
		}
	}
	nodes[2].end() // Run ends by itself, without an error
	if err := nodes[2].Leave(context.Background()); err != nil {
		t.Errorf("leaving twice: %v", err)
	}
	if err := nodes[2].Close(); err != nil {
		t.Errorf("closing what left: %v", err)
	}
}

func TestLeaveSendsWhatIsQueued(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(2)
	payload := make([]byte, 50_000) // by TCP
	for i := range 20 {
		nodes[0].Send("n2", append(payload, byte(i)))
	}
	if err := nodes[0].Leave(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		eventually(t, fmt.Sprintf("payload %d arrives", i), has(nodes[1].recorder, func(m Message) bool {
			return len(m.Payload) == len(payload)+1 && m.Payload[len(payload)] == byte(i)
		}))
	}
}

func TestARestartWithinTheDetectionTimeIsSeen(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(3)
	nodes[2].end()
	again := c.config(3)
	again.Meta = []byte("second life")
	c.start(again)
	for _, n := range nodes[:2] {
		eventually(t, n.cfg.Name+" sees the second life", has(n.recorder, func(a Alive) bool {
			return a.Name == "n3" && string(a.Meta) == "second life" && a.Addr == c.at(3)
		}))
	}
}

func TestANodeThatLeftComesBack(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(2)
	if err := nodes[1].Leave(context.Background()); err != nil {
		t.Fatal(err)
	}
	again := c.config(2)
	again.Meta = []byte("second life")
	second := c.start(again)
	eventually(t, "n1 sees the second life", func() bool {
		m, ok := nodes[0].table.member("n2")
		return ok && string(m.Meta) == "second life"
	})
	// Its crash is no leave, whatever its first life said.
	second.end()
	eventually(t, "n1 sees the crash", has(nodes[0].recorder, func(d Dead) bool { return d == Dead{"n2", false} }))
}

func TestACrashedNameComesBackAtAnotherAddress(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(3)
	nodes[2].end()
	again := c.config(3)
	again.Bind = c.at(33)
	again.Meta = []byte("second life")
	second := c.start(again) // refused as a conflict until the death is noticed
	for _, n := range nodes[:2] {
		eventually(t, n.cfg.Name+" sees n3 at its new address", has(n.recorder, func(a Alive) bool {
			return a.Name == "n3" && a.Addr == c.at(33) && string(a.Meta) == "second life"
		}))
	}
	meshed(t, nodes[0], nodes[1], second)
}

func TestTheNameOfALivingNodeIsRefused(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(2)
	for _, test := range []struct {
		name  string
		at    int
		by    *testNode // the node asked to join by
		known netip.AddrPort
	}{
		{"asking a third node", 21, nodes[0], c.at(2)},
		{"asking the node with the name", 22, nodes[1], c.at(2)},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := c.config(test.at)
			cfg.Name = "n2"
			cfg.Seeds = nil
			second := c.start(cfg)
			reached, err := second.Join([]string{test.by.cfg.Bind.String()})
			if reached != 0 || !errors.Is(err, ErrNameTaken) || !strings.Contains(err.Error(), c.at(2).String()) {
				t.Errorf("Join = %d, %v; want ErrNameTaken that names %s", reached, err, c.at(2))
			}
			eventually(t, "the newcomer sees the conflict", has(second.recorder, func(e Conflict) bool {
				return e == Conflict{"n2", c.at(test.at), c.at(2)}
			}))
			eventually(t, "the member sees the conflict", has(test.by.recorder, func(e Conflict) bool {
				return e == Conflict{"n2", test.known, c.at(test.at)}
			}))
			if len(second.Members()) != 0 {
				t.Errorf("the newcomer has members: %v", second.Members())
			}
			if m, ok := nodes[0].table.member("n2"); !ok || m.Addr != c.at(2) {
				t.Errorf("n1 sees n2 at %v, %v", m.Addr, ok)
			}
			second.end()
		})
	}
}

func TestAnotherKeyIsSeenOnBothSides(t *testing.T) {
	other := newKey()
	for _, test := range []struct {
		name         string
		member, join func(own []byte, c *Config)
	}{
		{"another key", nil, func(_ []byte, c *Config) { c.Keys = [][]byte{other} }},
		{"no key", nil, func(_ []byte, c *Config) { c.Keys, c.Insecure = nil, true }},
		{"a key where there is none", func(_ []byte, c *Config) { c.Keys, c.Insecure = nil, true }, nil},
		{"only one accepts the other", nil, func(own []byte, c *Config) { c.Keys = [][]byte{other, own} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t)
			one, two := c.config(1), c.config(2)
			if test.member != nil {
				test.member(c.key, &one)
			}
			if test.join != nil {
				test.join(c.key, &two)
			}
			two.Seeds = nil
			member, joiner := c.start(one), c.start(two)
			const tries = 3
			for range tries {
				reached, err := joiner.Join([]string{c.at(1).Addr().String()})
				if reached != 0 || !errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), "same key file") {
					t.Fatalf("Join = %d, %v; want ErrWrongKey with a cure", reached, err)
				}
			}
			eventually(t, "the member counts all tries", func() bool { return member.Stats().OtherKey >= tries })
			if got := member.log.lines("under another key"); len(got) != 1 {
				t.Errorf("the member logged %d lines, want 1:\n%s", len(got), strings.Join(got, "\n"))
			}
			if len(member.Members())+len(joiner.Members()) != 0 {
				t.Error("they are members all the same")
			}
		})
	}
}

func TestKeysAreChangedOneNodeAtATime(t *testing.T) {
	c := newCluster(t)
	old, next := c.key, newKey()
	one, two, three := c.config(1), c.config(2), c.config(3)
	one.Keys = [][]byte{old, next}
	two.Keys = [][]byte{next, old}
	three.Keys = [][]byte{next, old}
	meshed(t, c.start(one), c.start(two), c.start(three))
}

func TestAnotherClusterIsRefused(t *testing.T) {
	c := newCluster(t)
	one, two := c.config(1), c.config(2)
	two.Cluster = "another"
	two.Seeds = nil
	member, joiner := c.start(one), c.start(two)
	_, err := joiner.Join([]string{c.at(1).String()})
	if err == nil || !strings.Contains(err.Error(), `is it a node of cluster "another"?`) {
		t.Errorf("Join: %v", err)
	}
	eventually(t, "the member counts it", func() bool { return member.Stats().OtherCluster == 1 })
}

func TestMetaReachesAll(t *testing.T) {
	c := newCluster(t)
	full := bytes.Repeat([]byte{0xff}, MaxMeta)
	one := c.config(1)
	one.Meta = full
	nodes := []*testNode{c.start(one), c.start(c.config(2)), c.start(c.config(3))}
	meshed(t, nodes...)
	sees := func(n *testNode, meta []byte) {
		t.Helper()
		eventually(t, n.cfg.Name+" sees the metadata", has(n.recorder, func(a Alive) bool {
			return a.Name == "n1" && bytes.Equal(a.Meta, meta)
		}))
	}
	sees(nodes[1], full)
	sees(nodes[2], full)
	full[0] = 1 // New keeps a copy
	for i := range 5 {
		meta := bytes.Repeat([]byte{byte(i)}, MaxMeta)
		if err := nodes[0].UpdateMeta(meta); err != nil {
			t.Fatal(err)
		}
		sees(nodes[1], meta)
		sees(nodes[2], meta)
	}
	if err := nodes[0].UpdateMeta(make([]byte, MaxMeta+1)); err == nil || !strings.Contains(err.Error(), "513 bytes") {
		t.Errorf("513 bytes of metadata: %v", err)
	}
}

func TestATakenPortIsAClearError(t *testing.T) {
	c := newCluster(t)
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(c.at(1)))
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(c.at(2)))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for i, network := range map[int]string{1: "TCP", 2: "UDP"} {
		cfg := c.config(i)
		cfg.Log = quiet()
		_, err := New(cfg, &recorder{})
		want := fmt.Sprintf("gossip's %s port 7946 on %s is taken by another program, perhaps another agent: stop it or choose another gossip port", network, c.at(i).Addr())
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", network, err)
		}
	}
	cfg := c.config(1)
	cfg.Bind = netip.MustParseAddrPort("192.0.2.77:7946")
	cfg.Log = quiet()
	if _, err := New(cfg, &recorder{}); !errors.Is(err, syscall.EADDRNOTAVAIL) || !strings.Contains(err.Error(), "192.0.2.77 is not on this machine") {
		t.Errorf("foreign address: %v", err)
	}
}

func TestJoinSaysWhyForEachSeed(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(2)
	reached, err := nodes[0].Join([]string{
		c.at(1).Addr().String(),
		c.at(2).Addr().String(),
		c.at(9).Addr().String(),
		"no-such-host.invalid",
		"bad:port:7946",
	})
	if reached != 1 {
		t.Errorf("reached %d nodes, want 1", reached)
	}
	var got SeedErrors
	if !errors.As(err, &got) {
		t.Fatalf("Join's error is %T: %v", err, err)
	}
	why := make(map[string]string)
	for _, e := range got {
		why[e.Seed] = e.Err.Error()
	}
	for seed, want := range map[string]string{
		c.at(1).Addr().String(): "own address",
		c.at(9).Addr().String(): "nothing listens there",
		"no-such-host.invalid":  "finding its address",
		"bad:port:7946":         "not an address or name",
	} {
		if !strings.Contains(why[seed], want) {
			t.Errorf("%s: %q, want %q in it", seed, why[seed], want)
		}
	}
	if len(got) != 4 || strings.Contains(err.Error(), "\n") {
		t.Errorf("%d reasons: %q", len(got), err)
	}
}

// The own address among the seeds, usual where all nodes have one configuration,
// is neither a node reached nor a failure.
func TestTheOwnAddressIsNoSeed(t *testing.T) {
	c := newCluster(t)
	n := c.start(c.config(1))
	time.Sleep(2 * n.rejoinPeriod())
	if got := n.all(); len(got) != 0 {
		t.Errorf("events of a node that has only itself as a seed: %v", got)
	}
	if got := n.Stats().Reached; got != 0 {
		t.Errorf("reached %d", got)
	}
}

func TestASeedThatStartsLaterIsFound(t *testing.T) {
	c := newCluster(t)
	two := c.start(c.config(2))
	eventually(t, "n2 says that its seed is not there", has(two.recorder, func(a Attempt) bool {
		return a.Reached == 0 && a.Err != nil && strings.Contains(a.Err.Error(), c.at(1).Addr().String())
	}))
	meshed(t, c.start(c.config(1)), two)
	if got := two.log.lines("no other node was reached yet"); len(got) != 1 {
		t.Errorf("logged %d times:\n%s", len(got), strings.Join(got, "\n"))
	}
}

func TestKnownPeersAreTried(t *testing.T) {
	c := newCluster(t)
	one, two := c.config(1), c.config(2)
	one.Seeds, two.Seeds = nil, nil
	two.KnownPeers = []Peer{{"n1", c.at(1)}}
	meshed(t, c.start(one), c.start(two))
}

func TestNoEventComesAfterClose(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(3)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // keep it busy
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				nodes[1].Send("n1", []byte("x"))
				nodes[0].Send("n2", make([]byte, 10_000))
				time.Sleep(time.Millisecond)
			}
		}
	}()
	eventually(t, "messages flow", has(nodes[0].recorder, func(Message) bool { return true }))
	nodes[0].end()
	count := len(nodes[0].all())
	time.Sleep(50 * time.Millisecond)
	if got := len(nodes[0].all()); got != count {
		t.Errorf("%d events came after Close", got-count)
	}
	close(stop)
	<-done
}

func TestBadConfigIsOneClearLine(t *testing.T) {
	for _, test := range []struct {
		want string
		edit func(*Config)
	}{
		{"node name", func(c *Config) { c.Name = "" }},
		{"cluster name", func(c *Config) { c.Cluster = strings.Repeat("x", 256) }},
		{"name one address", func(c *Config) { c.Bind = netip.MustParseAddrPort("0.0.0.0:7946") }},
		{"name one address", func(c *Config) { c.Bind = netip.AddrPortFrom(c.Bind.Addr(), 0) }},
		{"gossip key 2 has 16 bytes: it must be the 32 bytes that keygen made", func(c *Config) { c.Keys = append(c.Keys, make([]byte, 16)) }},
		{"no gossip key", func(c *Config) { c.Keys = nil }},
		{"both a gossip key and insecure", func(c *Config) { c.Insecure = true }},
		{"513 bytes", func(c *Config) { c.Meta = make([]byte, 513) }},
		{"detection 1ms: it must be 50ms to 30s", func(c *Config) { c.Detection = time.Millisecond }},
		{"rejoin period", func(c *Config) { c.Rejoin = -1 }},
		{"logger", func(c *Config) { c.Log = nil }},
	} {
		cfg := (&cluster{at: loopback(), key: newKey()}).config(1)
		cfg.Log = quiet()
		test.edit(&cfg)
		_, err := New(cfg, &recorder{})
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, want one line with %q", err, test.want)
		}
	}
}
