package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// restartSignal asks for a leave that keeps the open connections for the next start;
	// systemd sends it where the unit says so (RestartKillSignal=).
	restartSignal = unix.SIGUSR2
	// sameSignal is how soon after a signal to leave another one is the same: timeout(1)
	// and a terminal send it to the process and to its group.
	sameSignal = 400 * time.Millisecond
	// endBy is how long the end after a second signal may take. Then the process ends
	// as if it were killed: the kernel takes the rules away, the guard silences the VIPs.
	endBy = 5 * time.Second
)

// signals are those that the agent takes.
type signals struct {
	got  chan os.Signal
	lost chan os.Signal // that a reader of our output is gone: the write says so
	// For tests.
	now   func() time.Time
	exit  func(code int)
	endBy time.Duration
}

func newSignals() *signals {
	s := &signals{got: make(chan os.Signal, 8), lost: make(chan os.Signal, 1), now: time.Now, exit: os.Exit, endBy: endBy}
	signal.Notify(s.got, unix.SIGTERM, unix.SIGINT, restartSignal)
	if !signal.Ignored(unix.SIGHUP) { // by nohup(1)
		signal.Notify(s.got, unix.SIGHUP)
	}
	// Not ignored: the programs of exec checks would inherit that.
	signal.Notify(s.lost, unix.SIGPIPE)
	return s
}

func (s *signals) stop() {
	signal.Stop(s.got)
	signal.Stop(s.lost)
}

// manager is the part of the service manager that signals tell.
type manager interface{ stopping() }

// until runs the agent: the first signal asks it to leave, the second does not wait
// for that, and a third would not be caught any more. restartSignal asks for a restart,
// SIGHUP for a reload, and neither counts.
func (s *signals) until(ctx context.Context, log *slog.Logger, m manager, run func(ctx context.Context, leave, restart, reload <-chan struct{}) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	leave, restart, reload := make(chan struct{}), make(chan struct{}), make(chan struct{}, 1)
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		var leaving time.Time
		restarting := false
		for {
			var got os.Signal
			select {
			case got = <-s.got:
			case <-ended:
				return
			}
			switch {
			case got == unix.SIGHUP && (restarting || !leaving.IsZero()):
				log.Info("nothing is reloaded: this node is leaving", "signal", signalName(got))
			case got == unix.SIGHUP:
				select {
				case reload <- struct{}{}:
				default: // one is due already
				}
			case got == restartSignal && restarting:
			case got == restartSignal:
				restarting = true
				log.Info("handing over; open connections wait for the next start", "signal", signalName(got))
				m.stopping()
				close(restart)
			case leaving.IsZero():
				leaving = s.now()
				log.Info("handing over and leaving; a second signal ends at once", "signal", signalName(got))
				m.stopping()
				close(leave)
			case s.now().Sub(leaving) < sameSignal:
			default:
				log.Warn("ending at once: nothing more is handed over, and open connections are not waited for", "signal", signalName(got))
				signal.Reset(unix.SIGTERM, unix.SIGINT)
				cancel()
				select {
				case <-ended:
				case <-time.After(s.endBy):
					log.Error("something keeps this agent from ending: it ends now as if it were killed; the address stays on lo, silent, until the next start")
					s.exit(exitFailure)
				}
				return
			}
		}
	}()
	err := run(ctx, leave, restart, reload)
	close(ended)
	<-watched
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		log.Warn("this node has ended at once, by a second signal")
	} else {
		log.Info("this node has left")
	}
	return nil
}

// signalName is how kill(1) and the unit call it.
func signalName(s os.Signal) string {
	if number, ok := s.(unix.Signal); ok {
		return unix.SignalName(number)
	}
	return s.String()
}
