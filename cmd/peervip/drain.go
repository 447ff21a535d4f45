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
	var timeout, grace time.Duration
	cmd := &cobra.Command{
		Use:   "drain [NODE]",
		Short: "Take a node out for maintenance: the others take its share over",
		Long: `The node (this one, if none is named) hands its buckets to the others and takes
no new clients. It stays drained over restarts, until it is resumed. A node that
is down is told when it comes back.

Open connections go on until they end by themselves, at most for
spec.drain_timeout; --grace gives another time for this drain. Said again, it
counts anew: ` + "`peervip drain --grace 0s`" + ` ends what a drain still waits for.

The last node that is fit is not drained, since nobody would answer; --force
does it all the same.`,
		Args: nodeArgs(0),
	}
	o := addOutputFlag(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "drain even the last fit node: nobody answers then")
	cmd.Flags().BoolVar(&wait, "wait", false, "show the progress, and return when the node is drained")
	cmd.Flags().DurationVar(&grace, "grace", 0, "how long open connections may go on, instead of spec.drain_timeout; 0s ends them at once")
	cmd.Flags().DurationVar(&timeout, "timeout", leaveTimeout, "with --wait: give up waiting after this; if it is not given, after --grace and a minute where that is longer")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case timeout <= 0:
			return &usageError{fmt.Errorf("--timeout %v: want more than 0 (see %s --help)", timeout, cmd.CommandPath())}
		case cmd.Flags().Changed("timeout") && !wait:
			return &usageError{fmt.Errorf("--timeout is for --wait (see %s --help)", cmd.CommandPath())}
		case grace < 0 || grace > node.MaxGrace:
			return &usageError{fmt.Errorf("--grace %v: want 0s (open connections are ended at once) to %v (see %s --help)", grace, node.MaxGrace, cmd.CommandPath())}
		}
		request := agent.WishRequest{Node: nodeArg(args), Want: node.WantDrain, Force: force}
		if cmd.Flags().Changed("grace") {
			request.Grace = &grace
			if !cmd.Flags().Changed("timeout") {
				timeout = max(timeout, grace+time.Minute)
			}
		}
		client := newClient(cmd)
		r, err := client.Wish(cmd.Context(), request)
		if err != nil {
			return err
		}
		if !wait || r.Kept {
			return printReply(cmd, *o, r, fmt.Sprintf("%s drains; see `peervip status`", r.Node))
		}
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout,
			fmt.Errorf("%s is not drained after %v; it goes on, see `peervip status`", r.Node, timeout))
		defer cancel()
		d := drainWait{client: client, node: r.Node, progress: progress{out: progressOut(cmd, *o)}, period: progressPeriod}
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
	progress progress
	period   time.Duration

	begun bool // the node was seen draining: what the others know lags behind its word
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
		step := d.node + ": restarting; it goes on to drain when it is back"
		return false, d.progress.tell(step, step)
	case !ok:
		return false, fmt.Errorf("%s is no member any more", d.node)
	case !n.Alive:
		return false, fmt.Errorf("%s died while it drained; it stays drained when it comes back", d.node)
	}
	left := 0
	for _, svc := range n.Services {
		left += svc.Own + svc.Adopt + svc.Linger
	}
	switch n.Phase {
	case node.Drained.String():
		if left == 0 { // by force a node is drained before it has let go
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
	return false, d.progress.node(n)
}

// progressOut is where the progress goes: nowhere, if the output is for programs.
func progressOut(cmd *cobra.Command, o output) io.Writer {
	if o == outputJSON {
		return io.Discard
	}
	return cmd.OutOrStdout()
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
	count := argCount(1+more, 1+more)
	if more == 0 {
		count = argCount(0, 1)
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
