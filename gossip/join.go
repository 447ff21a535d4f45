package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// resolveTimeout bounds one look-up of a seed's name. A resolver waits 5 s for a
	// name server that is dead, and then asks the next.
	resolveTimeout = 8 * time.Second
	// joinsAtOnce bounds the connections of one round.
	joinsAtOnce = 16
)

// ErrWrongKey says that a seed has another key than this node, or that one of
// both has none.
var ErrWrongKey = errors.New("the node there has another cluster key")

// SeedError says why a seed was not reached.
type SeedError struct {
	// Seed is as it was given, or a known peer's name and address.
	Seed string
	// Addr is where it was looked for; the zero value: it has no address.
	Addr netip.AddrPort
	Err  error
	// Lost: it is no seed, but a member of the past.
	Lost bool
}

func (e *SeedError) Error() string { return e.Seed + ": " + e.Err.Error() }
func (e *SeedError) Unwrap() error { return e.Err }

// SeedErrors says why each of several seeds was not reached, in alphabetical order.
type SeedErrors []*SeedError

func (e SeedErrors) Error() string {
	texts := make([]string, len(e))
	for i, one := range e {
		texts[i] = one.Error()
	}
	return strings.Join(texts, "; ")
}

func (e SeedErrors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

// target is an address to contact, and the words for it.
type target struct {
	seed string
	addr netip.AddrPort
	lost bool // no seed, but a member of the past
}

// Join contacts the seeds, written as in Config, all at the same time, exchanges
// states with each and returns how many nodes were reached. The error is nil or a
// SeedErrors that says for each other one why, matching ErrWrongKey and
// ErrNameTaken; it may come along with reached nodes. It takes at most some
// seconds.
func (g *Gossip) Join(seeds []string) (reached int, err error) {
	targets, errs := g.resolve(seeds)
	others := slices.DeleteFunc(slices.Clone(targets), g.isOwn)
	for _, t := range targets {
		if g.isOwn(t) {
			errs = append(errs, &SeedError{Seed: t.seed, Addr: t.addr, Err: errors.New("that is this node's own address: name another node")})
		}
	}
	return g.contact(others, errs)
}

// isOwn reports whether the target is this node itself. Debian's /etc/hosts has the
// host's own name at 127.0.1.1.
func (g *Gossip) isOwn(t target) bool {
	own := g.cfg.Bind
	return t.addr == own || t.addr.Addr().IsLoopback() && !own.Addr().IsLoopback()
}

// contact exchanges states with all targets; errs are earlier failures.
func (g *Gossip) contact(targets []target, errs SeedErrors) (reached int, err error) {
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(joinsAtOnce)
	for _, t := range targets {
		group.Go(func() error {
			err := g.contactOne(t.addr)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, &SeedError{t.seed, t.addr, err, t.lost})
			} else {
				reached++
			}
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs, each with its seed
	g.counts.reached.Add(uint64(reached))
	if len(errs) == 0 {
		return reached, nil
	}
	slices.SortStableFunc(errs, func(a, b *SeedError) int { return cmp.Compare(a.Seed, b.Seed) })
	return reached, errs
}

func (g *Gossip) contactOne(addr netip.AddrPort) error {
	if _, err := g.list.Join([]string{addr.String()}); err != nil {
		return g.joinError(addr, err)
	}
	return nil
}

// joinError turns what memberlist says, always a text alone, into what happened
// and what to do.
func (g *Gossip) joinError(addr netip.AddrPort, err error) error {
	if several, ok := err.(interface{ WrappedErrors() []error }); ok && len(several.WrappedErrors()) == 1 {
		err = several.WrappedErrors()[0] // the text without decoration
	}
	text := strings.TrimPrefix(err.Error(), fmt.Sprintf("failed to join %s: ", addr))
	has := func(words string) bool { return strings.Contains(text, words) }
	switch {
	case tellsOtherKey(text):
		// The peer cannot read us and says so under its own key, which we cannot
		// read, so the failure to decrypt is our own; or it can be read.
		return fmt.Errorf("%w (%s): give both nodes the same key file", ErrWrongKey, text)
	case has(ErrNameTaken.Error()):
		_, by, _ := strings.Cut(text, ErrNameTaken.Error())
		return fmt.Errorf("%w%s: give one of the two another name", ErrNameTaken, by)
	case g.ctx.Err() != nil:
		return errors.New("gossip is stopped")
	case text == "EOF", has("connection reset"):
		return fmt.Errorf("it hung up without an answer (%s): is it a node of cluster %q?", text, g.cfg.Cluster)
	case has("connection refused"):
		return fmt.Errorf("nothing listens at %s: is its agent running, and the port right?", addr)
	case has("i/o timeout"):
		return fmt.Errorf("no answer from %s: is the address right, and TCP and UDP port %d open on the way?", addr, addr.Port())
	default:
		return errors.New(text)
	}
}

// isName reports whether the seed is a name, which has to be looked up.
func isName(seed string) bool {
	host, _, err := splitSeed(seed, 1)
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(host)
	return err != nil
}

// resolve finds the addresses of all seeds, in Bind's address family.
func (g *Gossip) resolve(seeds []string) ([]target, SeedErrors) {
	found := make([][]netip.AddrPort, len(seeds))
	errs := make([]error, len(seeds))
	var group errgroup.Group
	group.SetLimit(joinsAtOnce)
	for i, seed := range seeds {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(g.ctx, resolveTimeout)
			defer cancel()
			found[i], errs[i] = g.resolveSeed(ctx, seed)
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	var targets []target
	var failed SeedErrors
	for i, seed := range seeds {
		g.seeds.learn(seed, found[i])
		if errs[i] != nil {
			failed = append(failed, &SeedError{Seed: seed, Err: errs[i]})
		}
		for _, addr := range found[i] {
			targets = append(targets, target{seed: seed, addr: addr})
		}
	}
	return targets, failed
}

// seedAddrs are the addresses that seeds had when they were last found.
type seedAddrs struct {
	mu    sync.Mutex
	found map[string][]netip.AddrPort
}

func (s *seedAddrs) learn(seed string, addrs []netip.AddrPort) {
	if len(addrs) == 0 {
		return // a name server that is away takes nothing back
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.found == nil {
		s.found = make(map[string][]netip.AddrPort)
	}
	s.found[seed] = addrs
}

func (s *seedAddrs) has(addr netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, addrs := range s.found {
		if slices.ContainsFunc(addrs, func(a netip.AddrPort) bool { return a.Addr() == addr }) {
			return true
		}
	}
	return false
}

// knows says whether the address is one of a member, past member or seed.
func (g *Gossip) knows(addr netip.Addr) bool { return g.table.has(addr) || g.seeds.has(addr) }

func (g *Gossip) resolveSeed(ctx context.Context, seed string) ([]netip.AddrPort, error) {
	bind := g.cfg.Bind
	host, port, err := splitSeed(seed, bind.Port())
	if err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(addr.Unmap(), port)}, nil
	}
	network := "ip4"
	if bind.Addr().Is6() {
		network = "ip6"
	}
	addrs, err := g.cfg.lookUp(ctx, network, host)
	if err != nil {
		return nil, fmt.Errorf("finding its address: %w", err)
	}
	all := make([]netip.AddrPort, len(addrs))
	for i, addr := range addrs {
		all[i] = netip.AddrPortFrom(addr.Unmap(), port)
	}
	return all, nil
}

// splitSeed reads "host", "host:port", an IPv6 address with or without brackets,
// and "[v6]:port".
func splitSeed(seed string, defaultPort uint16) (host string, port uint16, err error) {
	bad := fmt.Errorf("not an address or name, with or without a port: write it like 192.0.2.11 or web-2:%d", defaultPort)
	if _, err := netip.ParseAddr(seed); err == nil {
		return seed, defaultPort, nil
	}
	if inner, ok := strings.CutPrefix(seed, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			if addr, err := netip.ParseAddr(inner); err == nil && addr.Is6() {
				return inner, defaultPort, nil
			}
			return "", 0, bad
		}
	}
	host, portText := seed, ""
	if strings.Contains(seed, ":") {
		if host, portText, err = net.SplitHostPort(seed); err != nil {
			return "", 0, bad
		}
	}
	if host == "" || strings.ContainsAny(host, " /@[]") {
		return "", 0, bad
	}
	if portText == "" && host == seed {
		return host, defaultPort, nil
	}
	n, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || n == 0 {
		return "", 0, bad
	}
	return host, uint16(n), nil
}
