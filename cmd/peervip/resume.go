package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/node"
)

// newResumeCommand is `peervip resume`.
func newResumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resume [NODE]",
		Short: "End a node's drain: it takes its share back",
		Args:  nodeArgs(0),
	}
	o := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := newClient(cmd).Wish(cmd.Context(), agent.WishRequest{Node: nodeArg(args), Want: node.WantResume})
		if err != nil {
			return err
		}
		return printReply(cmd, *o, r, fmt.Sprintf("%s takes its share back", r.Node))
	}
	return cmd
}
