package gossip

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestSeedsAreRead(t *testing.T) {
	for _, test := range []struct {
		seed, host string
		port       uint16
	}{
		{"192.0.2.1", "192.0.2.1", 7946},
		{"192.0.2.1:80", "192.0.2.1", 80},
		{"web-2", "web-2", 7946},
		{"web-2.example.com:7947", "web-2.example.com", 7947},
		{"2001:db8::1", "2001:db8::1", 7946},
		{"[2001:db8::1]", "2001:db8::1", 7946},
		{"[2001:db8::1]:80", "2001:db8::1", 80},
	} {
		host, port, err := splitSeed(test.seed, 7946)
		if err != nil || host != test.host || port != test.port {
			t.Errorf("%q is %q %d %v, want %q %d", test.seed, host, port, err, test.host, test.port)
		}
	}
	for _, bad := range []string{"", ":", ":80", "web:", "web:0", "web:65536", "web:http", "a:b:c", "[::1", "[web]", "[192.0.2.1]", "x/192.0.2.1", "two words"} {
		if host, port, err := splitSeed(bad, 7946); err == nil {
			t.Errorf("%q was read as %q %d", bad, host, port)
		}
	}
}

// The host's own name, which Debian has at 127.0.1.1, is no other node.
func TestOwnAddresses(t *testing.T) {
	for _, test := range []struct {
		bind, addr string
		own        bool
	}{
		{"192.0.2.11:7946", "192.0.2.11:7946", true},
		{"192.0.2.11:7946", "192.0.2.11:7000", false},
		{"192.0.2.11:7946", "127.0.1.1:7946", true},
		{"127.0.0.1:7946", "127.0.0.1:7000", false}, // several nodes on one host
		{"127.0.0.1:7946", "127.0.0.1:7946", true},
	} {
		g := &Gossip{cfg: Config{Bind: netip.MustParseAddrPort(test.bind)}}
		if got := g.isOwn(target{addr: netip.MustParseAddrPort(test.addr)}); got != test.own {
			t.Errorf("%s is the own address of %s: %t", test.addr, test.bind, got)
		}
	}
}

func TestSeedErrorsAreOneLineAndMatch(t *testing.T) {
	err := error(SeedErrors{
		{Seed: "web-2", Err: fmt.Errorf("%w (x)", ErrWrongKey)},
		{Seed: "web-3", Err: errors.New("nothing listens there")},
	})
	if got, want := err.Error(), "web-2: the node there has another cluster key (x); web-3: nothing listens there"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !errors.Is(err, ErrWrongKey) || errors.Is(err, ErrNameTaken) {
		t.Error("does not match as it should")
	}
	var one *SeedError
	if !errors.As(err, &one) || !strings.HasPrefix(one.Seed, "web-") {
		t.Errorf("no SeedError inside: %v", one)
	}
}

// The rejoin loop tells the outcome of its first round also when the others were
// quicker and nobody is left to try: a node waits for it before it may serve.
func TestARoundWithNobodyLeftToTryIsAnOutcome(t *testing.T) {
	c := newCluster(t)
	alone := c.config(1)
	alone.Seeds = nil
	one := c.start(alone)
	eventually(t, "n1 reports a round", has(one.recorder, func(a Attempt) bool { return a.Reached == 0 && a.Err == nil }))
}
