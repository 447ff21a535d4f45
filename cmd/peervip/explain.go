package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
)

// newExplainCommand is `peervip explain`.
func newExplainCommand() *cobra.Command {
	var service string
	cmd := &cobra.Command{
		Use:   "explain ADDR[:PORT]",
		Short: "Say which node a client goes to, and why",
		Args:  usageArgs(argCount(1, 1)),
	}
	o := addOutputFlag(cmd)
	cmd.Flags().StringVar(&service, "service", "", "the `service` that the client asks for (default: other)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := newClient(cmd).Explain(cmd.Context(), args[0], service)
		if err != nil {
			return err
		}
		if *o == outputJSON {
			return printJSON(cmd.OutOrStdout(), e)
		}
		printExplanation(cmd.OutOrStdout(), e)
		return nil
	}
	return cmd
}

func printExplanation(w io.Writer, e agent.Explanation) {
	owner, holders := e.Owner, strings.Join(e.Holders, ", ")
	if owner == "" {
		owner = "nobody"
	}
	if holders == "" {
		holders = "nobody"
	}
	fmt.Fprintf(w, "client    %s\n", e.Client)
	fmt.Fprintf(w, "service   %s\n", e.Service)
	fmt.Fprintf(w, "bucket    %d of 0-%d\n", e.Bucket, e.Buckets-1)
	fmt.Fprintf(w, "owner     %s\n", owner)
	fmt.Fprintf(w, "held by   %s\n", holders)
	fmt.Fprintf(w, "here      %s (in the kernel of %s)\n", e.State, e.Node)
	fmt.Fprintf(w, "why       %s\n", e.Why)
}
