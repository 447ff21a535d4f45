package main

import (
	"context"
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
		Args: usageArgs(cobra.MaximumNArgs(1)),
	}
	o := addOutputFlag(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "drain even the last fit node: nobody answers then")
	cmd.Flags().BoolVar(&wait, "wait", false, "show the progress, and return when the node is drained")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "with --wait: give up waiting after this")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client := newClient(cmd)
		r, err := client.Wish(cmd.Context(), agent.WishRequest{Node: nodeArg(args), Want: node.WantDrain, Force: force})
		if err != nil {
			return err
		}
		if !wait || r.Note != "" {
			return printReply(cmd, *o, r, fmt.Sprintf("%s drains; see `peervip status`", r.Node))
		}
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout,
			fmt.Errorf("%s is not drained after %v; it goes on, see `peervip status`", r.Node, timeout))
		defer cancel()
		progress := cmd.OutOrStdout()
		if *o == outputJSON {
			progress = io.Discard
		}
		if err := waitDrained(ctx, client, r.Node, progress); err != nil {
			return err
		}
		return printReply(cmd, *o, r, r.Node+" is drained")
	}
	return cmd
}

// waitDrained follows a drain to its end, with a line for each step of progress.
func waitDrained(ctx context.Context, client *agent.Client, name string, w io.Writer) error {
	tick := time.NewTicker(progressPeriod)
	defer tick.Stop()
	last := ""
	for {
		s, err := client.Status(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		n, ok := findNode(s, name)
		switch {
		case !ok:
			return fmt.Errorf("%s is no member any more", name)
		case !n.Alive:
			return fmt.Errorf("%s died while it drained", name)
		case n.Phase == node.Drained.String():
			return nil
		case n.Phase != node.Draining.String() && n.Phase != node.Joining.String() && last != "":
			return fmt.Errorf("%s is %s: somebody ended its drain", name, n.Phase)
		}
		buckets, flows := 0, 0
		for _, svc := range n.Services {
			buckets += svc.Own + svc.Adopt
			flows += svc.Flows
		}
		if line := fmt.Sprintf("%s: %s, %d buckets and %d flows left", name, n.Phase, buckets, flows); line != last {
			fmt.Fprintln(w, line)
			last = line
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func findNode(s agent.Status, name string) (agent.NodeStatus, bool) {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return agent.NodeStatus{}, false
}
