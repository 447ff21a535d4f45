package agent

import "sync"

// queue hands work to the loop without ever blocking who has it: gossip calls
// under its locks. Its order is kept.
type queue struct {
	mu    sync.Mutex
	work  []func()
	ready chan struct{} // holds a token while there is work
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

func (q *queue) put(f func()) {
	q.mu.Lock()
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
