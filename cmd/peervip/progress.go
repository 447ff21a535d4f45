package main

import (
	"fmt"
	"io"
	"time"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/node"
)

// progressAgain is how often the progress is told though there is none.
const progressAgain = 30 * time.Second

// progress tells how far a node has come that drains or leaves, with a line for each
// step, and one now and then while it only waits.
type progress struct {
	out  io.Writer
	said string // the last step
	at   time.Time
}

// node tells of a node: what it still has, and what it waits for until when.
func (p *progress) node(n agent.NodeStatus) error {
	buckets, lingering := 0, 0
	for _, svc := range n.Services {
		buckets += svc.Own + svc.Adopt
		lingering += svc.Linger
	}
	step := fmt.Sprintf("%s: %s, %s left", n.Name, n.Phase, node.Count(buckets, "buckets"))
	switch {
	case n.Waiting != nil:
		return p.tell(fmt.Sprintf("%s %d", step, n.Waiting.Flows), fmt.Sprintf("%s, %v", step, n.Waiting))
	case lingering > 0:
		step += fmt.Sprintf(", and open connections in %d", lingering)
	}
	return p.tell(step, step)
}

// tell writes the line if the step is a new one, or was told long ago.
func (p *progress) tell(step, line string) error {
	now := time.Now()
	if step == p.said && now.Sub(p.at) < progressAgain {
		return nil
	}
	p.said, p.at = step, now
	if _, err := fmt.Fprintln(p.out, line); err != nil {
		return fmt.Errorf("writing the progress: %w", err)
	}
	return nil
}
