package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
)

// newServeCommand is `peervip serve`.
func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve --despite ADDR",
		Short: "Have this node serve beside a stranger on its wire",
		Long: `A node does not begin to serve while another that is none of its cluster (of
another key, cluster name or format) says on the wire that it serves the same
address, unless a node of its own cluster serves already. Mostly that is a typo in
one of the two configurations: correct it, and this command is not needed.

With this command strangers at ADDR no longer keep this node from serving, until its
next start. If they serve, clients get answers of both, and connections break.
` + "`peervip status` shows the strangers' addresses.",
		Example: "  peervip serve --despite 192.0.2.14",
		Args:    usageArgs(argCount(0, 0)),
	}
	o := addOutputFlag(cmd)
	var despite []string
	cmd.Flags().StringArrayVar(&despite, "despite", nil, "the address of a stranger; may be given again")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(despite) == 0 {
			return usageFlags(cmd, errors.New("name the stranger: --despite ADDR"))
		}
		for _, addr := range despite {
			if _, err := netip.ParseAddr(addr); err != nil {
				return usageFlags(cmd, fmt.Errorf("--despite: %q is no address: give one like 192.0.2.14", addr))
			}
		}
		r, err := newClient(cmd).Serve(cmd.Context(), agent.ServeRequest{Despite: despite})
		if err != nil {
			return err
		}
		return printReply(cmd, *o, r, fmt.Sprintf("strangers at %s no longer keep %s from serving, until its next start", strings.Join(despite, ", "), r.Node))
	}
	return cmd
}
