// Command peervip lets servers share one IP address without a load balancer.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func main() {
	cmd, err := newRootCommand().ExecuteContextC(context.Background())
	if err == nil {
		return
	}
	prefix := "peervip: "
	if logsToJournal() {
		prefix = "<3>" + prefix // as an error, see priorities
	}
	if !errors.Is(err, errNotWell) { // which was printed
		printErrorAs(os.Stderr, prefix, err)
	}
	os.Exit(commandCode(cmd, os.Args[1:], err))
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
	info, _ := debug.ReadBuildInfo()
	root.Version = versionLine(version, info)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(usageFlags)
	addSocketFlag(root)
	root.AddCommand(
		newAgentCommand(), newJoinCommand(), newDrainCommand(), newResumeCommand(), newLeaveCommand(), newReloadCommand(), newServeCommand(),
		newStatusCommand(), newExplainCommand(), newWeightCommand(),
		newKeygenCommand(), newLabCommand(), newVersionCommand(),
	)
	return root
}

// commandHints are for commands that other programs have.
var commandHints = map[string]string{
	"start":    "run `systemctl start peervip`, or `peervip agent`",
	"run":      "run `systemctl start peervip`, or `peervip agent`",
	"stop":     "run `systemctl stop peervip`, or `peervip leave`",
	"restart":  "run `systemctl restart peervip`, or `peervip leave --keep-flows` and start the agent again",
	"config":   "the configuration is " + defaultConfig + "; `peervip agent --check-config` checks it",
	"check":    "`peervip agent --check-config` checks the configuration and this host, `peervip status --check` how a running node is",
	"validate": "`peervip agent --check-config` checks the configuration and this host",
	"test":     "`peervip agent --check-config` checks the configuration and this host",
	"log":      "run `journalctl -u peervip`",
	"logs":     "run `journalctl -u peervip`",
	"members":  "run `peervip status`",
	"nodes":    "run `peervip status`",
	"list":     "run `peervip status`",
	"undrain":  "run `peervip resume`",
}

// noSuchCommand takes what the root is left with for a misspelt command.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if hint := commandHints[args[0]]; hint != "" {
		return fmt.Errorf("unknown command %q: %s", args[0], hint)
	}
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		return fmt.Errorf("unknown command %q: did you mean %s?", args[0], orList(similar))
	}
	return fmt.Errorf("unknown command %q", args[0])
}
