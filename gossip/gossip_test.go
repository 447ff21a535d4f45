package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
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
	largest := nodes[0].room() - lengthLen
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

// What was sent at once arrives in its order, though memberlist turns around the order
// of datagrams that wait to be read.
func TestPayloadsOfOneSendArriveInOrder(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(2)
	var last byte
	eventually(t, "three payloads arrive one after the other", func() bool {
		last++
		for range 50 { // so that some wait
			nodes[0].Send("n2", []byte{last, 0}, []byte{last, 1}, []byte{last, 2})
		}
		time.Sleep(20 * time.Millisecond)
		return has(nodes[1].recorder, func(m Message) bool { return bytes.Equal(m.Payload, []byte{last, 2}) })()
	})
	next := byte(0)
	for _, e := range nodes[1].recorder.all() {
		m, ok := e.(Message)
		if !ok {
			continue
		}
		if m.Payload[1] != next {
			t.Fatalf("payload %d came where %d was due", m.Payload[1], next)
		}
		next = (next + 1) % 3
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
	n.Send("sink", make([]byte, n.room()-lengthLen))
	if err := sink.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	size, err := sink.Read(make([]byte, 1<<16))
	if err != nil || size != packetSize {
		t.Errorf("the datagram has %d bytes, %v; want %d", size, err, packetSize)
	}
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
	full[0] = 1 // New has kept a copy
	late := c.start(c.config(4))
	nodes = append(nodes, late)
	sees(late, bytes.Repeat([]byte{0xff}, MaxMeta))
	for i := range 5 {
		meta := bytes.Repeat([]byte{byte(i)}, MaxMeta)
		if err := nodes[0].UpdateMeta(meta); err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes[1:] {
			sees(n, meta)
		}
	}
	if err := nodes[0].UpdateMeta(make([]byte, MaxMeta+1)); err == nil || !strings.Contains(err.Error(), "513 bytes") {
		t.Errorf("513 bytes of metadata: %v", err)
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
		c.at(9).Addr().String(): "nothing listens at",
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
	for _, got := range n.all() {
		if got != (Attempt{}) {
			t.Errorf("a node that has only itself as a seed hears %v", got)
		}
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

// State exchange among members is memberlist's work; the rejoin loop leaves them
// alone.
func TestMembersAreNotJoinedAgain(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(2)
	eventually(t, "n2 has counted its seed", func() bool { return nodes[1].Stats().Reached > 0 })
	before := nodes[1].Stats().Reached
	time.Sleep(3 * nodes[1].cfg.Rejoin)
	if got := nodes[1].Stats().Reached; got != before {
		t.Errorf("n2 has contacted its seed %d more times", got-before)
	}
}

func TestKnownPeersAreTried(t *testing.T) {
	c := newCluster(t)
	one, two := c.config(1), c.config(2)
	one.Seeds, two.Seeds = nil, nil
	two.KnownPeers = []Peer{{"n1", c.at(1)}}
	meshed(t, c.start(one), c.start(two))
}

// Who is heard by beacons is asked though no seed names it, or the name server that knows
// the seeds is dead.
func TestWhoIsHeardIsASeed(t *testing.T) {
	c := newCluster(t)
	one, two := c.config(1), c.config(2)
	one.Seeds, two.Seeds = nil, nil
	a, b := c.start(one), c.start(two)
	eventually(t, "n2 has tried everybody it knows of", has(b.recorder, func(Attempt) bool { return true }))
	own, nobody := c.at(2).Addr(), c.at(9).Addr()
	b.Rejoin(own, nobody, c.at(1).Addr())
	meshed(t, a, b)
	if !has(b.recorder, func(a Attempt) bool { return a.Reached == 1 && a.Err == nil })() {
		t.Error("that n1 was reached is no outcome")
	}
}

// A name server that is dead holds up nobody whose address is known: neither seeds that
// are addresses, nor members of the past, nor who is heard.
func TestADeadNameServerHoldsUpNobody(t *testing.T) {
	for name, know := range map[string]func(c *cluster, cfg *Config){
		"a seed that is an address": func(c *cluster, cfg *Config) { cfg.Seeds = append(cfg.Seeds, c.at(1).String()) },
		"a member of the past":      func(c *cluster, cfg *Config) { cfg.KnownPeers = []Peer{{"n1", c.at(1)}} },
		"who is heard":              func(*cluster, *Config) {},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			one, two := c.config(1), c.config(2)
			one.Seeds, two.Seeds = nil, []string{"web-1.example", "web-3.example"}
			asked := make(chan struct{}, 100)
			two.lookUp = func(context.Context, string, string) ([]netip.Addr, error) {
				asked <- struct{}{}
				<-t.Context().Done() // as if it took for ever
				return nil, errors.New("no answer")
			}
			know(c, &two)
			a, b := c.start(one), c.start(two)
			<-asked
			if name == "who is heard" {
				b.Rejoin(c.at(1).Addr())
			}
			meshed(t, a, b)
		})
	}
}

// What is looked up in vain is said when the look-up is over, with whoever else was not
// reached.
func TestARoundEndsWithTheNames(t *testing.T) {
	c := newCluster(t)
	two := c.config(2)
	two.Seeds = []string{"web-1.example", c.at(9).String()}
	answer := make(chan struct{})
	two.lookUp = func(context.Context, string, string) ([]netip.Addr, error) {
		<-answer
		return nil, errors.New("no such host")
	}
	n := c.start(two)
	time.Sleep(50 * time.Millisecond)
	if has(n.recorder, func(Attempt) bool { return true })() {
		t.Error("a round has ended before its names were looked up")
	}
	close(answer)
	eventually(t, "both are said", has(n.recorder, func(a Attempt) bool {
		return a.Err != nil && strings.Contains(a.Err.Error(), "web-1.example: finding its address: no such host") && strings.Contains(a.Err.Error(), c.at(9).String())
	}))
}
