package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Handoff is what the nodes' kernels did with the buckets of one planned change.
type Handoff struct {
	// Moved is how many buckets went from one node to another.
	Moved int
	// Asked is from the word that began it to the first request of an heir, or a little
	// less; Released and Taken to the first commit that gave buckets up and the last
	// one that took some.
	Asked, Released, Taken time.Duration
	// Gaps are, for each bucket, from its old owner's commit to its new owner's.
	Gaps []time.Duration
}

// handoffLook is how often the kernels are looked at, and how exact a Handoff is.
const handoffLook = 300 * time.Microsecond

// HandoffMeter measures handoffs by what the nodes' kernels answer when they are
// asked for a bucket. The agents know nothing of it, and neither waits for the other.
// To listen for commits, as `nft monitor` does, would be more exact and take longer
// than they do: the kernel then announces each element within the commit.
type HandoffMeter struct {
	lab    *Lab
	routes map[string]map[route][]int // by what was rehearsed
}

// route is from one of the lab's nodes to another, by their indices. What goes that
// way goes by one grant.
type route struct{ from, to int }

// NewHandoffMeter returns a meter that has rehearsed nothing.
func (l *Lab) NewHandoffMeter() *HandoffMeter {
	return &HandoffMeter{l, map[string]map[route][]int{}}
}

// Rehearse asks the node for a planned change, "drain" or "resume", waits until the
// serving nodes have settled, and remembers which buckets went where: the next time
// it will be the same ones.
func (m *HandoffMeter) Rehearse(ctx context.Context, n *Node, want string, serving []*Node) error {
	before, err := m.owners()
	if err != nil {
		return err
	}
	if _, err := n.Wish(ctx, want); err != nil {
		return err
	}
	after, err := m.ownersSettled(ctx, serving)
	if err != nil {
		return err
	}
	m.routes[n.Name+want] = routesOf(before, after)
	return nil
}

func routesOf(before, after map[int]int) map[route][]int {
	routes := map[route][]int{}
	for _, bucket := range slices.Sorted(maps.Keys(after)) {
		if from, ok := before[bucket]; ok && from != after[bucket] {
			r := route{from, after[bucket]}
			routes[r] = append(routes[r], bucket)
		}
	}
	return routes
}

// Handoff asks for a change that was rehearsed, and says how the kernels went through
// it. On each route one bucket is watched, any of those that go there.
func (m *HandoffMeter) Handoff(ctx context.Context, n *Node, want string, serving []*Node) (h Handoff, err error) {
	before, err := m.owners()
	if err != nil {
		return h, err
	}
	routes := m.routes[n.Name+want]
	var passages []*passage
	for r, buckets := range routes {
		var p *passage
		if p, err = m.passageOn(r, buckets); err != nil {
			return h, err
		}
		defer func() { err = errors.Join(err, p.close()) }()
		passages = append(passages, p)
	}
	watching, cancel := context.WithTimeoutCause(ctx, settleLimit, fmt.Errorf("after %s", short(settleLimit)))
	defer cancel()
	watched := make(chan error, 1)
	go func() { watched <- m.watch(watching, passages) }()
	word, err := n.Wish(ctx, want)
	if err != nil {
		cancel()
	}
	if err := errors.Join(err, <-watched); err != nil {
		return h, fmt.Errorf("watching the handoff of %s: %w", n.Name, err)
	}
	after, err := m.ownersSettled(ctx, serving)
	if err != nil {
		return h, err
	}
	if !maps.EqualFunc(routes, routesOf(before, after), slices.Equal) {
		return h, fmt.Errorf("the handoff of %s moved other buckets than the rehearsal", n.Name)
	}
	return handoffOf(passages, word), nil
}

// passage is what was seen of a route.
type passage struct {
	buckets                int
	requests               int // a socket
	old, heir              *bucketProbe
	looked                 time.Duration // the last time
	asked, released, taken time.Duration
}

func (m *HandoffMeter) passageOn(r route, buckets []int) (p *passage, err error) {
	bucket := buckets[rand.IntN(len(buckets))]
	old, heir := m.lab.Nodes[r.from], m.lab.Nodes[r.to]
	p = &passage{buckets: len(buckets), looked: m.lab.Now()}
	if p.requests, err = old.hearGossip(heir.Addr); err != nil {
		return nil, err
	}
	if p.old, err = old.probeBucket(bucket); err != nil {
		return nil, errors.Join(err, unix.Close(p.requests))
	}
	if p.heir, err = heir.probeBucket(bucket); err != nil {
		return nil, errors.Join(err, unix.Close(p.requests), p.old.close())
	}
	return p, nil
}

func (p *passage) close() error {
	return errors.Join(unix.Close(p.requests), p.old.close(), p.heir.close())
}

// look looks for a request, at the old owner until it takes no new flows of the bucket,
// and then at the new one until it does.
func (p *passage) look(now func() time.Duration) (over bool, err error) {
	if p.asked == 0 {
		at := now() // before the look: this thread may be kept waiting after it
		asked, err := drained(p.requests)
		if err != nil {
			return false, err
		}
		if asked {
			p.asked = p.looked // not before then
		}
		p.looked = at
	}
	if p.released == 0 {
		takes, err := p.old.takes()
		if err != nil || takes {
			return false, err
		}
		p.released = now()
	}
	takes, err := p.heir.takes()
	if err != nil || !takes {
		return false, err
	}
	p.taken = now()
	return true, nil
}

// watch looks at the passages until all are over, on one thread: each that is woken so
// often takes a good part of a core from the agents.
func (m *HandoffMeter) watch(ctx context.Context, passages []*passage) error {
	keepTime()
	for open := slices.Clone(passages); ; nap(handoffLook) {
		var err error
		open = slices.DeleteFunc(open, func(p *passage) bool {
			over, errLook := p.look(m.lab.Now)
			err = errors.Join(err, errLook)
			return over
		})
		switch {
		case err != nil || len(open) == 0:
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("%d of %d routes are still open: %w", len(open), len(passages), context.Cause(ctx))
		}
	}
}

func handoffOf(passages []*passage, word time.Duration) (h Handoff) {
	for i, p := range passages {
		asked := max(p.asked-word, 0) // gossip has its own talk, too
		if i == 0 {
			h.Asked, h.Released = asked, p.released-word
		}
		h.Asked, h.Released = min(h.Asked, asked), min(h.Released, p.released-word)
		h.Moved += p.buckets
		h.Taken = max(h.Taken, p.taken-word)
		h.Gaps = append(h.Gaps, slices.Repeat([]time.Duration{p.taken - p.released}, p.buckets)...)
	}
	slices.Sort(h.Gaps)
	return h
}

// ownersSettled are the owners once the nodes have settled.
func (m *HandoffMeter) ownersSettled(ctx context.Context, serving []*Node) (map[int]int, error) {
	if _, err := m.lab.settle(ctx, serving); err != nil {
		return nil, err
	}
	return m.owners()
}

// owners are the nodes that take each bucket's new flows, by their indices.
func (m *HandoffMeter) owners() (map[int]int, error) {
	owners := map[int]int{}
	for i, n := range m.lab.Nodes {
		all, err := n.bucketStates()
		if err != nil {
			return nil, err
		}
		for bucket, state := range all {
			if !takesNew(state) {
				continue
			}
			if other, ok := owners[bucket]; ok {
				return nil, fmt.Errorf("%s and %s both take bucket %d", m.lab.Nodes[other].Name, n.Name, bucket)
			}
			owners[bucket] = i
		}
	}
	return owners, nil
}

// hearGossip opens a socket for the gossip that comes from an address.
func (n *Node) hearGossip(from netip.Addr) (socket int, err error) {
	const protocol, source, port = 9, 12, 22 // offsets in the IP packet; it has no options
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: protocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 5},
		bpf.LoadAbsolute{Off: source, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(from.AsSlice()), SkipTrue: 3},
		bpf.LoadAbsolute{Off: port, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: GossipPort, SkipTrue: 1},
		bpf.RetConstant{Val: 1},
		bpf.RetConstant{},
	})
	filter := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	socket = -1
	if err == nil {
		err = n.NS.Do(func() error {
			ethernet, err := net.InterfaceByName(nodeLink)
			if err != nil {
				return err
			}
			// Of no protocol until it is bound: nothing comes before the filter.
			if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
				return err
			}
			fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
			ip := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))
			err = unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog)
			if err == nil {
				err = unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: ip, Ifindex: ethernet.Index})
			}
			if err != nil {
				return errors.Join(err, unix.Close(socket))
			}
			return nil
		})
	}
	if err != nil {
		return -1, fmt.Errorf("listening to the gossip of %s with %s: %w", from, n.Name, err)
	}
	return socket, nil
}

// drained takes what waits on a socket, and says whether there was anything.
func drained(socket int) (something bool, err error) {
	for buf := make([]byte, 1); ; {
		switch _, _, err := unix.Recvfrom(socket, buf, 0); err {
		case nil:
			something = true
		case unix.EINTR:
		case unix.EAGAIN:
			return something, nil
		default:
			return something, fmt.Errorf("listening to gossip: %w", err)
		}
	}
}

// Wish asks the node's agent for what the commands "drain" and "resume" ask for, and
// says when the request was on its way. A command's own start would take longer than
// all that comes after it.
func (n *Node) Wish(ctx context.Context, want string) (word time.Duration, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", n.Config.Control.Socket)
	if err != nil {
		return 0, fmt.Errorf("asking the agent of %s to %s: %w", n.Name, want, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/v1/wish",
		bytes.NewReader(fmt.Appendf(nil, "{%q:%q}", "want", want)))
	if err != nil {
		return 0, err
	}
	word = n.lab.Now()
	if err := request.Write(conn); err != nil {
		return 0, fmt.Errorf("asking the agent of %s to %s: %w", n.Name, want, err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return 0, fmt.Errorf("asking the agent of %s to %s: %w", n.Name, want, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		return 0, fmt.Errorf("the agent of %s refuses to %s: %s", n.Name, want, text)
	}
	return word, nil
}
