package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/node"
)

const progressPeriod = 200 * time.Millisecond

// newDrainCommand is `peervip drain`.
func newDrainCommand() *cobra.Command {
	var force, wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "drain [NODE]",
		Short: "Take a node out for maintenance: the others take its share over",
		Long: `The node (this one, if none is named) hands its buckets to the others and takes
no new clients. It stays drained over restarts, until it is resumed. A node that
is down is told when it comes back.

The last node that is fit is not drained, since nobody would answer; --force
does it all the same.`,
		Args: nodeArgs(0),
	}
	o := addOutputFlag(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "drain even the last fit node: nobody answers then")
	cmd.Flags().BoolVar(&wait, "wait", false, "show the progress, and return when the node is drained")
	cmd.Flags().DurationVar(&timeout, "timeout", leaveTimeout, "with --wait: give up waiting after this")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case timeout <= 0:
			return &usageError{fmt.Errorf("--timeout %v: want more than 0 (see %s --help)", timeout, cmd.CommandPath())}
		case cmd.Flags().Changed("timeout") && !wait:
			return &usageError{fmt.Errorf("--timeout is for --wait (see %s --help)", cmd.CommandPath())}
		}
		client := newClient(cmd)
		r, err := client.Wish(cmd.Context(), agent.WishRequest{Node: nodeArg(args), Want: node.WantDrain, Force: force})
		if err != nil {
			return err
		}
		if !wait || r.Kept {
			return printReply(cmd, *o, r, fmt.Sprintf("%s drains; see `peervip status`", r.Node))
		}
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout,
			fmt.Errorf("%s is not drained after %v; it goes on, see `peervip status`", r.Node, timeout))
		defer cancel()
		progress := cmd.OutOrStdout()
		if *o == outputJSON {
			progress = io.Discard
		}
		d := drainWait{client: client, node: r.Node, progress: progress, period: progressPeriod}
		if err := d.run(ctx); err != nil {
			return err
		}
		return printReply(cmd, *o, r, r.Node+" is drained")
	}
	return cmd
}

// drainWait follows a drain to its end, with a line for each step of progress.
type drainWait struct {
	client interface {
		Status(context.Context) (agent.Status, error)
	}
	node     string
	progress io.Writer
	period   time.Duration

	said  string // the last line
	begun bool   // the node was seen draining: what the others know lags behind its word
	// restarting: the node was seen so last. It stays drained, and will be back; if it
	// is this one, nobody answers until then.
	restarting bool
}

func (d *drainWait) run(ctx context.Context) error {
	tick := time.NewTicker(d.period)
	defer tick.Stop()
	for {
		s, err := d.client.Status(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		away := errors.Is(err, agent.ErrNotRunning) || errors.Is(err, agent.ErrUnavailable)
		if err != nil && !(away && d.restarting) {
			return fmt.Errorf("%s drains, but the wait for it has ended: %w", d.node, err)
		}
		if err == nil {
			if drained, err := d.look(s); drained || err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// look reports whether the node is drained, or why it will not be.
func (d *drainWait) look(s agent.Status) (drained bool, err error) {
	n, ok := findNode(s, d.node)
	d.restarting = ok && n.Phase == node.Restarting.String()
	switch {
	case d.restarting:
		return false, d.say("%s: restarting; it goes on to drain when it is back", d.node)
	case !ok:
		return false, fmt.Errorf("%s is no member any more", d.node)
	case !n.Alive:
		return false, fmt.Errorf("%s died while it drained; it stays drained when it comes back", d.node)
	}
	buckets, left, flows := 0, 0, 0
	for _, svc := range n.Services {
		buckets += svc.Own + svc.Adopt
		left += svc.Linger
		flows += svc.Flows
	}
	switch n.Phase {
	case node.Drained.String():
		if buckets+left == 0 { // by force a node is drained before it has let go
			return true, nil
		}
	case node.Leaving.String():
		return false, fmt.Errorf("%s leaves", d.node)
	case node.Draining.String():
		d.begun = true
	case node.Active.String():
		if d.begun {
			return false, fmt.Errorf("%s is active: somebody ended its drain", d.node)
		}
	}
	return false, d.say("%s: %s, %d buckets and %d flows left", d.node, n.Phase, buckets, flows)
}

// say tells the progress, if it is any.
func (d *drainWait) say(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	if line == d.said {
		return nil
	}
	d.said = line
	if _, err := fmt.Fprintln(d.progress, line); err != nil {
		return fmt.Errorf("writing the progress: %w", err)
	}
	return nil
}

func findNode(s agent.Status, name string) (agent.NodeStatus, bool) {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return agent.NodeStatus{}, false
}

var errNoNode = errors.New("the node's name is empty: name one, or leave it out for this node")

// nodeArgs checks that a node's name comes first and that so many more arguments
// follow; with none, the name may be missing. An empty name is more likely a
// script's unset variable than this node.
func nodeArgs(more int) cobra.PositionalArgs {
	count := cobra.ExactArgs(1 + more)
	if more == 0 {
		count = cobra.MaximumNArgs(1)
	}
	return usageArgs(func(cmd *cobra.Command, args []string) error {
		if err := count(cmd, args); err != nil {
			return err
		}
		if len(args) > 0 && args[0] == "" {
			return errNoNode
		}
		return nil
	})
}
