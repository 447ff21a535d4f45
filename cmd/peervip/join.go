package main

import (
	"errors"
	"math"
	"slices"

	"github.com/spf13/cobra"
)

// newJoinCommand is `peervip join`.
func newJoinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join ADDR...",
		Short: "Contact more nodes of the cluster",
		Long: `Contacts the nodes at ADDR (host or host:port). One that answers is enough: it
names all others. For good, add them to cluster.join in the configuration.`,
		Args: usageArgs(func(cmd *cobra.Command, args []string) error {
			if slices.Contains(args, "") {
				return errors.New("an address is empty: give host or host:port")
			}
			return argCount(1, math.MaxInt)(cmd, args)
		}),
	}
	o := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := newClient(cmd).Join(cmd.Context(), args)
		if err != nil {
			return err
		}
		return printReply(cmd, *o, r, "reached")
	}
	return cmd
}
