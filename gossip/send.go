package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// packetSize is the largest datagram, in bytes: it fits an Ethernet frame
	// with room for tunnels.
	packetSize = 1400
	// packetOverhead is what memberlist and a frame add to payloads besides the
	// label: message kinds (2), encryption (29), label header (2).
	packetOverhead = 2 + 29 + 2
	// lengthLen is what is before a payload that fits in a datagram, at the most.
	lengthLen = 2
	// queueLength bounds the payloads that wait for one peer.
	queueLength = 256
	// leaveTimeout bounds each half of a leave: sending what is queued and
	// the goodbyes, and memberlist's announcement.
	leaveTimeout = time.Second
)

// Send queues payloads for a member and never blocks. It is best effort: as many as
// fit share a datagram, and one that fits in none has a TCP connection of its own,
// which takes at most some seconds. A payload is lost when the peer is no member, or
// dies, or has queueLength payloads waiting (then the oldest goes), or when either
// network or peer drop it; Stats counts what this side knows. So the caller sends
// what matters again until the peer has answered.
//
// Each peer has its own queue and sender: a peer that swallows everything delays
// nobody else. Payloads to one peer leave in order. Those of a datagram arrive so too;
// datagrams that come faster than they are read arrive in the reverse order
// (memberlist takes the last one first).
func (g *Gossip) Send(to string, payloads ...[]byte) {
	var letters []letter
	for _, p := range payloads {
		if len(p) > MaxPayload {
			g.counts.oversize.Add(1)
			g.log.limited(slog.LevelWarn, "a gossip payload is too large to send", "bytes", len(p), "most", MaxPayload)
			continue
		}
		letters = append(letters, letter{payload: p})
	}
	if _, ok := g.table.member(to); !ok {
		g.counts.unknown.Add(uint64(len(letters)))
		return
	}
	g.counts.queueDrops.Add(uint64(g.out.put(to, letters...)))
}

// room is how many bytes of payloads, with their lengths, fit in a datagram.
func (g *Gossip) room() int { return packetSize - packetOverhead - len(g.cfg.Cluster) }

// deliver hands letters that go together to the network.
func (g *Gossip) deliver(to string, letters []letter) {
	last := letters[len(letters)-1]
	if last.done != nil {
		defer close(last.done)
	}
	m, ok := g.table.member(to)
	if !ok {
		g.counts.unknown.Add(uint64(len(letters)))
		return
	}
	node := &memberlist.Node{Name: m.Name, Addr: m.Addr.Addr().AsSlice(), Port: m.Addr.Port()}
	frame, send := goodbyeFrame(g.cfg.Name, *g.meta.Load()), g.list.SendReliable
	if last.done == nil {
		var payloads [][]byte
		for _, l := range letters {
			payloads = append(payloads, l.payload)
		}
		frame = payloadsFrame(payloads...)
		if len(frame)-1 <= g.room() {
			send = g.list.SendBestEffort
		}
	}
	if err := send(node, frame); err != nil {
		g.counts.failed.Add(uint64(len(letters)))
		g.log.out.Debug("sending to a peer failed", "peer", m.Name, "address", m.Addr, "bytes", len(frame), "error", err)
		return
	}
	g.counts.sent.Add(uint64(len(letters)))
}

// goodbye sends what is queued and then the goodbye to each member.
func (g *Gossip) goodbye(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	members := g.table.members()
	done := make(map[string]chan struct{})
	for _, m := range members {
		done[m.Name] = make(chan struct{})
		g.out.put(m.Name, letter{done: done[m.Name]})
	}
	for _, m := range members {
		select {
		case <-done[m.Name]:
		case <-ctx.Done():
			return fmt.Errorf("saying goodbye to %s at %s: %w", m.Name, m.Addr, ctx.Err())
		}
	}
	return nil
}

// letter is a payload on its way or, with done, this node's goodbye. That one goes by
// TCP, is told when it was tried, and is never dropped for a newer one.
type letter struct {
	payload []byte
	done    chan struct{}
}

// senders is one queue for each peer that has something waiting, and one goroutine
// that empties it and then ends.
type senders struct {
	room    int // of a datagram
	deliver func(to string, letters []letter)
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	queues map[string][]letter // present while its goroutine runs
}

func newSenders(room int, deliver func(string, []letter)) *senders {
	return &senders{room: room, deliver: deliver, queues: make(map[string][]letter)}
}

// put queues letters and says how many of the oldest had to go for them. After close
// it drops the letters.
func (s *senders) put(to string, letters ...letter) (dropped int) {
	if len(letters) == 0 {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		release(letters)
		return 0
	}
	queue, running := s.queues[to]
	for _, l := range letters {
		if len(queue) >= queueLength && queue[0].done == nil {
			queue = queue[1:]
			dropped++
		}
		queue = append(queue, l)
	}
	s.queues[to] = queue
	if !running {
		s.running.Go(func() { s.empty(to) })
	}
	return dropped
}

// release tells those who wait for letters that nothing comes of them.
func release(letters []letter) {
	for _, l := range letters {
		if l.done != nil {
			close(l.done)
		}
	}
}

// empty sends what is queued for one peer until nothing is.
func (s *senders) empty(to string) {
	for {
		s.mu.Lock()
		queue := s.queues[to]
		if len(queue) == 0 || s.closed {
			delete(s.queues, to)
			s.mu.Unlock()
			release(queue)
			return
		}
		n := together(queue, s.room)
		letters := slices.Clone(queue[:n])
		clear(queue[:n]) // their bytes are not to wait for the queue's
		s.queues[to] = queue[n:]
		s.mu.Unlock()
		s.deliver(to, letters)
	}
}

// together is how many of the queue's first letters go together: a goodbye or what
// fits in no datagram goes alone.
func together(queue []letter, room int) (n int) {
	for _, l := range queue {
		room -= lengthLen + len(l.payload)
		if n > 0 && (room < 0 || l.done != nil) {
			break
		}
		if n++; l.done != nil {
			break
		}
	}
	return n
}

// close drops what is queued and waits for the senders.
func (s *senders) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.running.Wait()
}
