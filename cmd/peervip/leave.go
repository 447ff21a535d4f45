package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// newLeaveCommand is `peervip leave`.
func newLeaveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Hand over everything and stop this node's agent",
		Long: `The agent hands its buckets to the others, says goodbye and ends; the command
returns when it has. A service manager may start it again: stop the service
there instead, which does the same.`,
		Args: usageArgs(cobra.NoArgs),
	}
	o := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := newClient(cmd)
		r, err := client.Leave(cmd.Context())
		if err != nil {
			return err
		}
		tick := time.NewTicker(progressPeriod)
		defer tick.Stop()
		for deadline := time.Now().Add(30 * time.Second); ; {
			// The agent answers at its socket until everything is handed over.
			if _, err := client.Status(cmd.Context()); err != nil {
				return printReply(cmd, *o, r, r.Node+" has left")
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s still has not left: see its log", r.Node)
			}
			select {
			case <-tick.C:
			case <-cmd.Context().Done():
				return cmd.Context().Err()
			}
		}
	}
	return cmd
}
