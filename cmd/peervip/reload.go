package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// newReloadCommand is `peervip reload`.
func newReloadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Take changes of the configuration that need no restart",
		Long: `The agent reads its configuration again, from where it read it at its start, and
takes the log's level (log.level) and the health checks of the services. It says
which other keys have changed: those wait for the next start, and
` + "`systemctl restart peervip`" + ` breaks no connection. A configuration that cannot
be used changes nothing, and the exit code is 78.`,
		Args: usageArgs(argCount(0, 0)),
	}
	o := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := newClient(cmd).Reload(cmd.Context())
		if err != nil {
			return err
		}
		if *o == outputJSON {
			return printJSON(cmd.OutOrStdout(), r)
		}
		for _, line := range r.Lines() {
			fmt.Fprintln(cmd.OutOrStdout(), line)
		}
		return nil
	}
	return cmd
}
