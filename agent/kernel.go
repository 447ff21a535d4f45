package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
)

// packetFilter is the kernel's part, as nft.Filter plays it. One goroutine uses it.
type packetFilter interface {
	Commit([]nft.Change) error
	Counters() (nft.Counters, error)
	EnsureGuard() (restored bool, err error)
	Reinstall() error
}

const guardPeriod = time.Second

// kernel is the goroutine that owns the packet filter: it commits, counts, and
// looks after the guard.
type kernel struct {
	filter   packetFilter
	log      *slog.Logger
	commits  chan node.Commit
	counts   chan chan<- counted
	renew    chan struct{} // the interface was made again
	reported func(node.Committed)
}

type counted struct {
	counters nft.Counters
	err      error
}

func newKernel(filter packetFilter, log *slog.Logger, reported func(node.Committed)) *kernel {
	return &kernel{
		filter: filter, log: log, reported: reported,
		commits: make(chan node.Commit, 1), counts: make(chan chan<- counted), renew: make(chan struct{}, 1),
	}
}

// run ends with the context, or when the kernel no longer obeys.
func (k *kernel) run(ctx context.Context) error {
	guard := time.NewTicker(guardPeriod)
	defer guard.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-k.commits:
			changes := make([]nft.Change, len(c.Changes))
			for i, ch := range c.Changes {
				changes[i] = nft.Change{Service: ch.Service, Bucket: ch.Bucket, State: ch.State}
			}
			k.reported(node.Committed{ID: c.ID, Err: k.filter.Commit(changes)})
		case answer := <-k.counts:
			c, err := k.filter.Counters()
			answer <- counted{c, err}
		case <-k.renew:
			if err := k.filter.Reinstall(); err != nil {
				return fmt.Errorf("the interface was made again: %w", err)
			}
			k.log.Info("the interface was made again; the packet filter is in place")
		case <-guard.C:
			restored, err := k.filter.EnsureGuard()
			if err != nil {
				return fmt.Errorf("looking after the guard: %w", err)
			}
			if restored {
				k.log.Warn("somebody removed the table peervip_guard, perhaps by `nft flush ruleset`; it is back")
			}
		}
	}
}

// counters asks the kernel goroutine.
func (k *kernel) counters(ctx context.Context) (nft.Counters, error) {
	answer := make(chan counted, 1)
	select {
	case k.counts <- answer:
	case <-ctx.Done():
		return nft.Counters{}, fmt.Errorf("counting packets: %w", ctx.Err())
	}
	c := <-answer
	return c.counters, c.err
}
