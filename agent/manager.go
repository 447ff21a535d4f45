package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/peervip/peervip/node"
)

// What the service manager is told while the agent runs, see Options. All of it comes by
// the loop: an agent whose loop does not go on is not alive, and its manager may end it.

const (
	// reportPeriod is how often it is told that the agent is alive, and what it does.
	reportPeriod = time.Second
	// extendEvery is how often an agent that ends asks for more time, and extendBy how
	// much: one that hangs is killed soon after.
	extendEvery = 5 * time.Second
	extendBy    = 30 * time.Second
)

// report tells the service manager, until the loop has ended.
func (a *agent) report(ctx context.Context) error {
	tick := time.NewTicker(reportPeriod)
	defer tick.Stop()
	said := ""
	var extended time.Time
	for {
		line := ""
		if err := a.loop.ask(ctx, func() { line = a.loop.line }); err != nil {
			return nil // it ends
		}
		if a.opts.Alive != nil {
			a.opts.Alive()
		}
		if a.opts.Status != nil && line != "" && line != said {
			said = line
			a.opts.Status(line)
		}
		if a.opts.Extend != nil && a.loop.leaving.Load() && time.Since(extended) >= extendEvery {
			extended = time.Now()
			a.opts.Extend(extendBy)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Line is the status in one line, for who looks at the service.
func (s *Status) Line() string {
	text := fmt.Sprintf("%s: %s", s.Verdict(), s.Phase)
	for _, n := range s.Nodes {
		if n.Name != s.Node {
			continue
		}
		if n.Waiting != nil {
			return fmt.Sprintf("%s, %v; %s", text, n.Waiting, EndsThem(n.Name, n.Phase))
		}
		own, all := 0, 0
		for _, svc := range n.Services {
			own += svc.Own + svc.Adopt
		}
		for _, svc := range s.Services {
			all += svc.Buckets
		}
		if s.Phase != node.Joining.String() {
			text += fmt.Sprintf(", %d of %d buckets (%.1f%%)", own, all, 100*float64(own)/float64(max(all, 1)))
		}
	}
	if s.Phase == node.Joining.String() && len(s.Problems) > 0 {
		text += ", " + s.Problems[0]
	}
	return text
}

// Verdict says at a glance whether all is well. A node that joins may know nobody
// yet: what it sees of the buckets says nothing of the cluster.
func (s *Status) Verdict() string {
	if s.Phase == node.Joining.String() {
		return "NOT SERVING"
	}
	if s.Lease == LeaseWaiting {
		return "NOT WELL, this node is silent"
	}
	for _, svc := range s.Services {
		if svc.Unclaimed > 0 {
			return fmt.Sprintf("NOT WELL, %d of %d buckets unclaimed", svc.Unclaimed, svc.Buckets)
		}
		if svc.ClaimedTwice > 0 {
			return fmt.Sprintf("NOT WELL, %d of %d buckets claimed twice", svc.ClaimedTwice, svc.Buckets)
		}
	}
	switch n := len(s.Problems); {
	case s.Alert != "":
		return "NOT WELL, " + s.Alert
	case n == 1:
		return "1 PROBLEM"
	case n > 1:
		return fmt.Sprintf("%d PROBLEMS", n)
	case !s.Agreed:
		return "SETTLING"
	}
	return "OK"
}
