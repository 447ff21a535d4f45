package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// packetSize is the largest datagram, in bytes: it fits an Ethernet frame
	// with room for tunnels.
	packetSize = 1400
	// packetOverhead is what memberlist and a frame add to a payload besides
	// the label: message kinds (2), encryption (29), label header (2).
	packetOverhead = 2 + 29 + 2
	// queueLength bounds the payloads that wait for one peer.
	queueLength = 256
	// leaveTimeout bounds each half of a leave: sending what is queued and
	// the goodbyes, and memberlist's announcement.
	leaveTimeout = time.Second
)

// Send queues a payload for a member and never blocks. It is best effort: a datagram
// if it fits in one, else a TCP connection of its own that takes at most some
// seconds. A payload is lost when the peer is no member, or dies, or has
// queueLength payloads waiting (then the oldest goes), or when either network or
// peer drop it; Stats counts what this side knows. So the caller sends
// what matters again until the peer has answered.
//
// Each peer has its own queue and sender: a peer that swallows everything delays
// nobody else. Payloads to one peer leave in order, but may arrive in another.
func (g *Gossip) Send(to string, payload []byte) {
	if len(payload) > MaxPayload {
		g.counts.oversize.Add(1)
		g.log.limited(slog.LevelWarn, "a gossip payload is too large to send", "bytes", len(payload), "most", MaxPayload)
		return
	}
	if _, ok := g.table.member(to); !ok {
		g.counts.unknown.Add(1)
		return
	}
	if g.out.put(to, letter{frame: payloadFrame(payload)}) {
		g.counts.queueDrops.Add(1)
	}
}

// deliver hands one frame to the network.
func (g *Gossip) deliver(to string, l letter) {
	if l.done != nil {
		defer close(l.done)
	}
	m, ok := g.table.member(to)
	if !ok {
		g.counts.unknown.Add(1)
		return
	}
	node := &memberlist.Node{Name: m.Name, Addr: m.Addr.Addr().AsSlice(), Port: m.Addr.Port()}
	send := g.list.SendReliable
	if l.done == nil && len(l.frame)-1+packetOverhead+len(g.cfg.Cluster) <= packetSize {
		send = g.list.SendBestEffort
	}
	if err := send(node, l.frame); err != nil {
		g.counts.failed.Add(1)
		g.log.out.Debug("sending to a peer failed", "peer", m.Name, "address", m.Addr, "bytes", len(l.frame), "error", err)
		return
	}
	g.counts.sent.Add(1)
}

// goodbye sends what is queued and then the goodbye to each member.
func (g *Gossip) goodbye(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	members := g.table.members()
	done := make(map[string]chan struct{})
	for _, m := range members {
		done[m.Name] = make(chan struct{})
		g.out.put(m.Name, letter{frame: goodbyeFrame(g.cfg.Name), done: done[m.Name]})
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

// letter is a frame on its way. One with done goes by TCP, is told when it was
// tried, and is never dropped for a newer one.
type letter struct {
	frame []byte
	done  chan struct{}
}

// senders is one queue for each peer that has something waiting, and one goroutine
// that empties it and then ends.
type senders struct {
	deliver func(to string, l letter)
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	queues map[string][]letter // present while its goroutine runs
}

func newSenders(deliver func(string, letter)) *senders {
	return &senders{deliver: deliver, queues: make(map[string][]letter)}
}

// put queues a letter and says whether the oldest had to go for it. After close
// it drops the letter.
func (s *senders) put(to string, l letter) (dropped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		if l.done != nil {
			close(l.done)
		}
		return false
	}
	queue, running := s.queues[to]
	if len(queue) >= queueLength && queue[0].done == nil {
		queue, dropped = queue[1:], true
	}
	s.queues[to] = append(queue, l)
	if !running {
		s.running.Go(func() { s.empty(to) })
	}
	return dropped
}

// empty sends what is queued for one peer until nothing is.
func (s *senders) empty(to string) {
	for {
		s.mu.Lock()
		queue := s.queues[to]
		if len(queue) == 0 || s.closed {
			delete(s.queues, to)
			s.mu.Unlock()
			for _, l := range queue {
				if l.done != nil {
					close(l.done)
				}
			}
			return
		}
		l := queue[0]
		queue[0] = letter{} // its bytes are not to wait for the queue's
		s.queues[to] = queue[1:]
		s.mu.Unlock()
		s.deliver(to, l)
	}
}

// close drops what is queued and waits for the senders.
func (s *senders) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.running.Wait()
}
