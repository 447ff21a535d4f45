package agent

import "sync"

// queueLimit is how much work may wait before messages are dropped: some seconds
// of the busiest cluster.
const queueLimit = 4096

// queue hands work to the loop without ever blocking who has it: gossip calls
// under its locks. Its order is kept.
type queue struct {
	mu      sync.Mutex
	work    []func()
	dropped uint64
	ready   chan struct{} // holds a token while there is work
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

// put is for what must not be lost. There is little of it: it comes from the
// kernel, from the operator, and with changes of membership.
func (q *queue) put(f func()) { q.add(f, false) }

// offer is for what peers say, as often as they like. It is dropped when the loop
// has fallen far behind: peers repeat what matters.
func (q *queue) offer(f func()) { q.add(f, true) }

func (q *queue) add(f func(), droppable bool) {
	q.mu.Lock()
	if droppable && len(q.work) >= queueLimit {
		q.dropped++
		q.mu.Unlock()
		return
	}
	q.work = append(q.work, f)
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take returns all work there is.
func (q *queue) take() []func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	work := q.work
	q.work = nil
	return work
}

// drops counts what was dropped since the start.
func (q *queue) drops() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}
