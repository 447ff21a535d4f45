package main

import (
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/e2e/lab"
)

// newLabCommand is `peervip lab`: the whole thing on one machine.
func newLabCommand() *cobra.Command {
	var opts lab.Options
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Show everything on this machine: nodes, clients and a switch in network namespaces",
		Long: `Builds a switch, some nodes and a client host in network namespaces, starts an
agent on each node, and shows how they share one address, survive a power-off
and hand over at a drain. At the end it prints what the clients measured.

It needs root, changes nothing outside its own namespaces, and removes
everything when it ends, also by Ctrl-C.`,
		Args: usageArgs(argCount(0, 0)),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := labBounds(cmd, opts); err != nil {
				return err
			}
			binary, err := os.Executable()
			if err != nil {
				return fmt.Errorf("finding this program's file, to run it as the nodes' agents: %w", err)
			}
			opts.Binary, opts.Out = binary, cmd.OutOrStdout()
			opts.Detect.Interval = interval.String()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, unix.SIGTERM, unix.SIGHUP)
			defer stop()
			return lab.Run(ctx, opts)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&opts.Nodes, "nodes", 3, fmt.Sprintf("servers that share the address, 2 to %d", lab.MaxNodes))
	flags.IntVar(&opts.Clients, "clients", lab.MaxSources, fmt.Sprintf("client addresses, 1 to %d", lab.MaxSources))
	flags.DurationVar(&opts.Load.Pace, "pace", lab.DefaultPace, "time between two datagrams of a client")
	flags.IntVar(&opts.Load.Open, "open", lab.DefaultOpen, "connections that are kept open and talked on")
	flags.IntVar(&opts.Load.Rate, "rate", lab.DefaultRate, "new connections a second")
	flags.DurationVar(&opts.Load.Watch, "watch", lab.DefaultWatch, "how long to watch each step once it has settled")
	flags.DurationVar(&opts.Rest, "rest", 10*time.Second, "how long to measure the agents at rest")
	flags.DurationVar(&interval, "interval", agent.DefaultInterval, "the agents' spec.detect.interval")
	flags.IntVar(&opts.Detect.Misses, "misses", agent.DefaultMisses, "the agents' spec.detect.misses")
	flags.BoolVar(&opts.Keep, "keep", false, "leave everything up until Ctrl-C, and tell how to look around")
	return cmd
}

// labBounds checks the flags that have bounds.
func labBounds(cmd *cobra.Command, opts lab.Options) error {
	for _, flag := range []struct {
		name        string
		value       int
		least, most int
	}{
		{"nodes", opts.Nodes, 2, lab.MaxNodes},
		{"clients", opts.Clients, 1, lab.MaxSources},
	} {
		if flag.value < flag.least || flag.value > flag.most {
			return &usageError{fmt.Errorf("--%s %d: choose %d to %d (see %s --help)", flag.name, flag.value, flag.least, flag.most, cmd.CommandPath())}
		}
	}
	return nil
}
