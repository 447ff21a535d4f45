package gossip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
