package agent

import (
	"context"
	"log/slog"
	"sync"
)

// saver writes the node's memory to disk without keeping the loop waiting. Only
// the newest memory is written.
type saver struct {
	dir  string
	log  *slog.Logger
	wake chan struct{}

	mu     sync.Mutex
	next   *memory // to be written
	failed error   // of the last write
}

func newSaver(dir string, log *slog.Logger) *saver {
	return &saver{dir: dir, log: log, wake: make(chan struct{}, 1)}
}

func (s *saver) save(m memory) {
	s.mu.Lock()
	s.next = &m
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *saver) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// run writes until the context ends, and then what is still to be written.
func (s *saver) run(ctx context.Context) error {
	for {
		select {
		case <-s.wake:
			s.write()
		case <-ctx.Done():
			s.write()
			return nil
		}
	}
}

func (s *saver) write() {
	s.mu.Lock()
	m := s.next
	s.next = nil
	s.mu.Unlock()
	if m == nil {
		return
	}
	err := m.save(s.dir)
	if err != nil {
		s.log.Error("the node's memory was not saved", "error", err)
	}
	s.mu.Lock()
	s.failed = err
	s.mu.Unlock()
}
