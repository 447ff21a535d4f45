package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
)

// leaveTimeout is longer than an agent takes by default, to leave or to be drained: 5
// minutes for its open connections, 10 s for its heirs, 3 s for the goodbye, and a
// moment to clean up.
const leaveTimeout = 6 * time.Minute

// newLeaveCommand is `peervip leave`.
func newLeaveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Hand over everything and stop this node's agent",
		Long: `The agent hands its buckets to the others, goes on with the connections that
are open until the last one ends or spec.drain_timeout is over, says goodbye and
ends; the command returns when it has, and the host is as it was before. Under
systemd it stays ended until the unit is started again, or the next boot; to
stop the unit does the same.

With --now the agent hands its buckets over and then ends the connections that
are open, with a reset at both ends. It may be said while the agent leaves, or
is being stopped, and waits: it then waits no longer.

With --keep-flows the agent does not wait for open connections. It hands its
buckets over, so that new clients go to the other nodes, and ends at once. The
address stays up on this host, and the connections wait, silent, for the agent
to be started again: they then go on as if nothing had been. Start it within
30 s; later the other nodes take these connections for dead, and reset them.
` + "`systemctl restart peervip`" + ` does all this with the unit that comes with peervip.
If the agent is not to come back, start it once more and leave without
--keep-flows, and the host is as it was before.`,
		Args: usageArgs(argCount(0, 0)),
	}
	o := addOutputFlag(cmd)
	var q agent.LeaveRequest
	cmd.Flags().BoolVar(&q.KeepFlows, "keep-flows", false, "for a restart or an upgrade: open connections wait for the next start")
	cmd.Flags().BoolVar(&q.Now, "now", false, "do not wait for open connections: end them once everything is handed over")
	timeout := cmd.Flags().Duration("timeout", leaveTimeout, "give up waiting after this; the agent goes on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if q.KeepFlows && q.Now {
			return &usageError{fmt.Errorf("--keep-flows keeps open connections, and --now ends them: give one of the two (see %s --help)", cmd.CommandPath())}
		}
		r, err := leave(cmd.Context(), newClient(cmd), q, &progress{out: progressOut(cmd, *o)}, progressPeriod, *timeout)
		if err != nil {
			return err
		}
		done := r.Node + " has left"
		if q.KeepFlows {
			done += "; its open connections wait for it: start it again within 30 s"
		}
		return printReply(cmd, *o, r, done)
	}
	return cmd
}

// leaver is the part of agent.Client that leaving needs.
type leaver interface {
	Status(context.Context) (agent.Status, error)
	Leave(context.Context, agent.LeaveRequest) (agent.Reply, error)
}

// leave waits until the agent that was asked is gone. Another that a service
// manager has started meanwhile is told by its boot.
func leave(ctx context.Context, client leaver, q agent.LeaveRequest, told *progress, period, timeout time.Duration) (agent.Reply, error) {
	before, err := client.Status(ctx)
	if err != nil {
		return agent.Reply{}, err
	}
	r, err := client.Leave(ctx, q)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%s has not left after %v: see its log", r.Node, timeout))
	defer cancel()
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		// Until it is gone the agent answers, at the end that it is stopping.
		s, err := client.Status(ctx)
		switch {
		case errors.Is(err, agent.ErrNotRunning):
			return r, nil
		case err == nil && s.Boot != before.Boot:
			r.Note = fmt.Sprintf("%s has left, and was started again: to keep it out, stop its service, or drain it", r.Node)
			if q.KeepFlows {
				r.Note = r.Node + " was started again, with its open connections"
			}
			return r, nil
		case err == nil:
			if n, ok := findNode(s, s.Node); ok && n.Waiting != nil {
				if err := told.node(n); err != nil {
					return r, err
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return r, context.Cause(ctx)
		}
	}
}
