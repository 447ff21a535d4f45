package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/agent"
)

// newAgentCommand is `peervip agent`: run this node.
func newAgentCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run this node: join the cluster and serve a share of the address",
		Long: `Runs in the foreground and logs to standard error. The configuration is that of
--config, else of $PEERVIP_CONFIG, else ` + defaultConfig + `, where that
exists; PEERVIP_* variables and flags win over it.

SIGTERM or SIGINT hands all buckets over to the other nodes, waits for open
connections, at most spec.drain_timeout, and ends; a second one ends at once.
Either way the host is left as it was found. SIGUSR2 does what
` + "`peervip leave --keep-flows`" + ` does: open connections wait for the next start.
SIGHUP does what ` + "`peervip reload`" + ` does.

Exit code 0: the node has left. 78: only an edit, of the configuration or of
this host, can cure what is said. 1: all else. 2: the command line is wrong.`,
		Args: usageArgs(argCount(0, 0)),
		RunE: func(cmd *cobra.Command, _ []string) error {
			source, err := readConfig(cmd)
			if err != nil {
				return err
			}
			if check {
				return checkConfig(cmd, source)
			}
			signals := newSignals() // before the first line of log: its reader may be gone
			defer signals.stop()
			log := newAgentLog(source.config, os.Stderr, logsToJournal())
			end := log.background()
			defer end()
			signals.exit = func(code int) { end(); os.Exit(code) }
			for _, w := range source.warnings {
				log.Warn(w)
			}
			return runAgent(cmd.Context(), source, signals, log)
		},
	}
	addConfigFlags(cmd)
	cmd.Flags().BoolVar(&check, "check-config", false, "say whether an agent with this configuration could run here, and end")
	return cmd
}

// logsToJournal says whether standard error is the journal.
func logsToJournal() bool { return toJournal(os.Stderr, os.Getenv("JOURNAL_STREAM")) }

// checkConfig is `peervip agent --check-config`.
func checkConfig(cmd *cobra.Command, source *configSource) error {
	warnings, err := agent.Check(source.config)
	for _, w := range append(source.warnings, warnings...) {
		fmt.Fprintln(cmd.ErrOrStderr(), "peervip: warning: "+w)
	}
	if err != nil {
		return err
	}
	from := "the configuration"
	if source.file != "" {
		from = source.file
	}
	fmt.Fprintln(cmd.OutOrStdout(), from+" is good: an agent can run with it here")
	return nil
}

func runAgent(ctx context.Context, source *configSource, signals *signals, log *agentLog) error {
	info, _ := debug.ReadBuildInfo()
	untuned := agent.Tune()
	if untuned != nil {
		log.Debug("beacons may be late when this machine is busy", "error", untuned)
	}
	manager := &serviceManager{log: log}
	return signals.until(ctx, log.Logger, manager, func(ctx context.Context, leave, restart, reload <-chan struct{}) error {
		return agent.Run(ctx, source.config, agent.Options{
			Version: shortVersion(version, info), Leave: leave, Restart: restart, Log: log.Logger, Untuned: untuned, LogErr: log.err,
			Ready: manager.ready, Status: manager.status, Alive: manager.alive, Extend: manager.extend,
			Reload: reload, Reloading: manager.reloading, Load: source.reload, SetLogLevel: log.level.Set,
		})
	})
}

// serviceManager is told how the agent fares (sd_notify(3)). It does nothing where
// none listens.
type serviceManager struct {
	log       *agentLog
	isReady   atomic.Bool
	hasFailed atomic.Bool // it was not told something, which is a line of log
}

func (m *serviceManager) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil && !m.hasFailed.Swap(true) {
		m.log.Warn("the service manager was not told", "state", state, "error", err)
	}
}

func (m *serviceManager) ready() {
	m.isReady.Store(true)
	m.tell(daemon.SdNotifyReady)
}

func (m *serviceManager) status(line string) {
	m.tell("STATUS=" + strings.ReplaceAll(line, "\n", "; "))
}

// alive is for WatchdogSec=: an agent that does not say so in time is taken to hang.
func (m *serviceManager) alive() {
	if m.watched() {
		m.tell(daemon.SdNotifyWatchdog)
	}
}

// watched reports whether the service manager wants to be told.
func (m *serviceManager) watched() bool {
	within, err := daemon.SdWatchdogEnabled(false)
	return err == nil && within > 0
}

// extend asks for so much time from now on, whatever TimeoutStopSec= says.
func (m *serviceManager) extend(by time.Duration) {
	m.tell(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", by.Microseconds()))
}

func (m *serviceManager) stopping() {
	m.isReady.Store(false)
	m.tell(daemon.SdNotifyStopping)
}

// reloading tells that a reload begins, and returns what tells that it is over.
func (m *serviceManager) reloading() (over func()) {
	var now unix.Timespec
	if !m.isReady.Load() || unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return func() {}
	}
	m.tell(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
	return func() {
		if m.isReady.Load() {
			m.tell(daemon.SdNotifyReady)
		}
	}
}
