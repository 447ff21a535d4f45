package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// saveAgain is how often a write that failed is tried again.
const saveAgain = 5 * time.Second

// saver writes the node's memory to disk without keeping the loop waiting. Only
// the newest memory is written.
type saver struct {
	dir   string
	log   *slog.Logger
	wake  chan struct{}
	again time.Duration // see saveAgain

	mu      sync.Mutex
	next    *memory       // to be written, or written again
	writing bool          // an earlier one is being written
	waiting []func(error) // see whenSaved
	failed  error         // of the last write
}

func newSaver(dir string, log *slog.Logger) *saver {
	return &saver{dir: dir, log: log, wake: make(chan struct{}, 1), again: saveAgain}
}

// save has the memory written soon.
func (s *saver) save(m memory) {
	s.mu.Lock()
	s.next = &m
	s.mu.Unlock()
	s.nudge()
}

// whenSaved calls f, which must not block, when everything saved so far is on
// disk, or with the error that keeps it from there.
func (s *saver) whenSaved(f func(error)) {
	s.mu.Lock()
	if s.next == nil && !s.writing {
		s.mu.Unlock()
		f(nil)
		return
	}
	s.waiting = append(s.waiting, f)
	s.mu.Unlock()
	s.nudge()
}

func (s *saver) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// err is why the newest memory is not on disk.
func (s *saver) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// run writes until the context ends. What is left then is for write to be called
// once more, when nobody saves anything any more.
func (s *saver) run(ctx context.Context) error {
	again := time.NewTicker(s.again)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-again.C:
		}
		s.write()
	}
}

// write writes what is to be written. It is for one goroutine at a time.
func (s *saver) write() {
	s.mu.Lock()
	m := s.next
	s.next, s.writing = nil, m != nil
	s.mu.Unlock()
	if m == nil {
		return
	}
	err := m.save(s.dir)

	s.mu.Lock()
	before := s.failed
	s.failed, s.writing = err, false
	if err != nil && s.next == nil {
		s.next = m
	}
	var told []func(error)
	if err != nil || s.next == nil {
		told, s.waiting = s.waiting, nil
	}
	s.mu.Unlock()

	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		s.log.Error("the node's memory was not saved, and will be tried again", "error", err)
	case err == nil && before != nil:
		s.log.Info("the node's memory is saved again")
	}
	for _, f := range told {
		f(err)
	}
}
