package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/node"
)

// newWeightCommand is `peervip weight`.
func newWeightCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "weight NODE N",
		Short: "Change a node's share at run time",
		Long: `Gives the node a share in proportion to N, 1 to 1000 (the default weight is 100).
N counts in steps of 10: 55 is 60, and less than 10 is 10. The node's
configuration is not changed: after its restart the weight is what that says.`,
		Args: nodeArgs(1),
	}
	o := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		weight, err := strconv.Atoi(args[1])
		if err != nil || weight < 1 || weight > node.MaxWeight {
			return &usageError{fmt.Errorf("weight %q: want a number from 1 to %d (see %s --help)", args[1], node.MaxWeight, cmd.CommandPath())}
		}
		r, err := newClient(cmd).Wish(cmd.Context(), agent.WishRequest{
			Node: args[0], Want: node.WantWeight, Weight: weight,
		})
		if err != nil {
			return err
		}
		return printReply(cmd, *o, r, fmt.Sprintf("%s has weight %d until its restart; for good: node.weight in its configuration",
			r.Node, node.Tenths(weight)*10))
	}
	return cmd
}
