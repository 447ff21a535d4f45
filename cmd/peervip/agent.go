package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/agent"
)

// newAgentCommand is `peervip agent`: run this node.
func newAgentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run this node: join the cluster and serve a share of the address",
		Long: `Runs in the foreground and logs to standard error. SIGTERM or SIGINT hands all
buckets over to the other nodes and ends; a second one ends at once. Either way
the host is left as it was found.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, warnings, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			log := newLogger(cfg)
			for _, w := range warnings {
				log.Warn(w)
			}
			return runAgent(cmd.Context(), cfg, log)
		},
	}
	addConfigFlags(cmd)
	return cmd
}

func newLogger(cfg agent.Config) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// runAgent runs the agent until it has left, which the first signal asks for and
// the second does not wait for.
func runAgent(ctx context.Context, cfg agent.Config, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(signals)
	leave := make(chan struct{})
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for first := true; ; first = false {
			select {
			case s := <-signals:
				if !first {
					log.Warn("ending at once, nothing is handed over any more", "signal", s)
					cancel()
					return
				}
				log.Info("handing over and leaving; a second signal ends at once", "signal", s)
				tellSystemd(log, daemon.SdNotifyStopping)
				close(leave)
			case <-ended:
				return
			}
		}
	}()
	info, _ := debug.ReadBuildInfo()
	err := agent.Run(ctx, cfg, agent.Options{
		Version: shortVersion(version, info), Leave: leave, Log: log,
		Ready: func() { tellSystemd(log, daemon.SdNotifyReady) },
	})
	close(ended)
	<-watched
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	log.Info("this node has left")
	return nil
}

// tellSystemd does nothing where no service manager listens.
func tellSystemd(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("the service manager was not told", "state", state, "error", err)
	}
}
