// Command peervip lets servers share one IP address without a load balancer.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	if err := newRootCommand().ExecuteContext(context.Background()); err != nil {
		printError(os.Stderr, err)
		os.Exit(exitCode(err))
	}
}

// newRootCommand is `peervip` with all its commands; cobra adds `completion` and
// `help`.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "peervip",
		Short:         "One address, many servers, nobody in the middle",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usageArgs(noSuchCommand),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(usageFlags)
	addSocketFlag(root)
	root.AddCommand(
		newAgentCommand(), newJoinCommand(), newDrainCommand(), newResumeCommand(), newLeaveCommand(), newServeCommand(),
		newStatusCommand(), newExplainCommand(), newWeightCommand(),
		newKeygenCommand(), newLabCommand(), newVersionCommand(),
	)
	return root
}

// noSuchCommand takes what the root is left with for a misspelt command.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		return fmt.Errorf("unknown command %q: did you mean %s?", args[0], orList(similar))
	}
	return fmt.Errorf("unknown command %q", args[0])
}
