package main

import (
	"context"
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
the host is left as it was found. SIGUSR2 does what ` + "`peervip leave --keep-flows`" + `
does: open connections wait for the next start.`,
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

func runAgent(ctx context.Context, cfg agent.Config, log *slog.Logger) error {
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, restartSignal)
	defer signal.Stop(signals)
	info, _ := debug.ReadBuildInfo()
	untuned := agent.Tune()
	if untuned != nil {
		log.Debug("beacons may be late when this machine is busy", "error", untuned)
	}
	return untilSignalled(ctx, log, signals, func(ctx context.Context, leave, restart <-chan struct{}) error {
		return agent.Run(ctx, cfg, agent.Options{
			Version: shortVersion(version, info), Leave: leave, Restart: restart, Log: log, Untuned: untuned,
			Ready: func() { tellSystemd(log, daemon.SdNotifyReady) },
		})
	})
}

// restartSignal asks for a leave that keeps the open connections for the next start;
// systemd sends it where the unit says so (RestartKillSignal=).
const restartSignal = unix.SIGUSR2

// untilSignalled runs the agent: the first signal asks it to leave, the second
// does not wait for that, and a third would not be caught any more. restartSignal
// asks for a restart, and does not count.
func untilSignalled(ctx context.Context, log *slog.Logger, signals chan os.Signal, run func(ctx context.Context, leave, restart <-chan struct{}) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	leave, restart := make(chan struct{}), make(chan struct{})
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		leaving, restarting := false, false
		for {
			var s os.Signal
			select {
			case s = <-signals:
			case <-ended:
				return
			}
			switch {
			case s == restartSignal && restarting:
			case s == restartSignal:
				restarting = true
				log.Info("handing over; open connections wait for the next start", "signal", s)
				tellSystemd(log, daemon.SdNotifyStopping)
				close(restart)
			case !leaving:
				leaving = true
				log.Info("handing over and leaving; a second signal ends at once", "signal", s)
				tellSystemd(log, daemon.SdNotifyStopping)
				close(leave)
			default:
				log.Warn("ending at once, nothing is handed over any more", "signal", s)
				signal.Stop(signals)
				cancel()
				return
			}
		}
	}()
	err := run(ctx, leave, restart)
	close(ended)
	<-watched
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		log.Warn("this node has ended without handing over")
	} else {
		log.Info("this node has left")
	}
	return nil
}

// tellSystemd does nothing where no service manager listens.
func tellSystemd(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("the service manager was not told", "state", state, "error", err)
	}
}
