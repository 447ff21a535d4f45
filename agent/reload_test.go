package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peervip/peervip/node/health"
)

// httpCheck is a check of a server that answers so.
func httpCheck(t *testing.T, status int) health.Check {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(server.Close)
	period, one := 200*time.Millisecond, 1
	check, err := health.Options{Type: "http", Target: server.URL, Interval: &period, Timeout: &period, Rise: &one, Fall: &one}.Parse()
	must(t, err)
	return check
}

// reloadable is a runner about a rig that runs, whose configuration is what next holds.
func reloadable(t *testing.T, r *rig, next *Loaded, levels *atomic.Int64) *runner {
	t.Helper()
	run := &runner{
		cfg: r.cfg, services: r.cfg.Spec.Services, logLevel: r.cfg.LogLevel,
		opts: Options{Log: r.log.logger(), Load: func() (Loaded, error) { return *next, nil }, SetLogLevel: func(l slog.Level) { levels.Store(int64(l) + 100) }},
	}
	run.alive.Store(r.agent)
	return run
}

// A reload changes, adds and takes away health checks while the agent serves.
func TestReloadOfHealthChecks(t *testing.T) {
	t.Parallel()
	_, rigs := newCluster(t, "a")
	r := rigs[0]
	next := &Loaded{Config: r.cfg}
	var level atomic.Int64
	run := reloadable(t, r, next, &level)
	reload := func(checks ...health.Check) Reloaded {
		t.Helper()
		next.Config.Spec.Services = slices.Clone(r.cfg.Spec.Services)
		next.Config.Spec.Services[0].Health = checks
		done, err := run.reload(t.Context())
		must(t, err)
		return done
	}
	healthy := func(want bool, checks int) {
		t.Helper()
		eventually(t, func() error {
			s := r.status(t)
			if got := s.Nodes[0].Services[r.cfg.Spec.Services[0].Name].Healthy; got != want || len(s.Health) != checks {
				return fmt.Errorf("healthy: %t, want %t, with %d checks", got, want, len(s.Health))
			}
			return nil
		})
	}
	healthy(true, 0)
	name := "spec.services[" + r.cfg.Spec.Services[0].Name + "].health"
	if done := reload(httpCheck(t, 503)); !slices.Equal(done.Taken, []string{name}) || len(done.Restart) > 0 {
		t.Errorf("%+v", done)
	}
	healthy(false, 1)
	reload(httpCheck(t, 200), httpCheck(t, 204))
	healthy(true, 2)
	reload(httpCheck(t, 500))
	healthy(false, 1)
	reload()
	healthy(true, 0)
	if done := reload(); len(done.Taken)+len(done.Restart) > 0 || done.Lines()[0] != "nothing has changed in the configuration" {
		t.Errorf("the same again: %+v", done)
	}
}

// What needs a restart is named at each reload until it has come; what cannot be used
// changes nothing at all.
func TestReloadSaysWhatNeedsARestart(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	next := &Loaded{Config: r.cfg, Changed: []string{"node.weight"}}
	var level atomic.Int64
	run := reloadable(t, r, next, &level)
	next.Config.LogLevel = slog.LevelDebug
	done, err := run.reload(t.Context())
	must(t, err)
	if !slices.Equal(done.Taken, []string{"log.level"}) || !slices.Equal(done.Restart, []string{"node.weight"}) || level.Load() != int64(slog.LevelDebug)+100 {
		t.Errorf("%+v, level %d", done, level.Load())
	}
	level.Store(0)
	if done, err = run.reload(t.Context()); err != nil || len(done.Taken) > 0 || len(done.Restart) != 1 || level.Load() != 0 {
		t.Errorf("again: %+v, %v", done, err)
	}
	next.Config.LogLevel = slog.LevelError
	run.opts.Load = func() (Loaded, error) { return Loaded{}, errors.New("node.wieght: unknown key\nspec.vips: required") }
	if _, err := run.reload(t.Context()); !errors.As(err, new(*EditError)) || level.Load() != 0 {
		t.Errorf("a broken configuration: %v, level %d", err, level.Load())
	}
	told := make(chan struct{})
	run.opts.Reload = told
	end := run.listenForReloads(t.Context())
	told <- struct{}{}
	must(t, end())
	if want := "nothing is reloaded: node.wieght: unknown key; spec.vips: required"; !strings.Contains(r.log.String(), want) {
		t.Errorf("the log does not say %q", want)
	}
}

// A node that leaves does not begin with other checks.
func TestNoReloadOfANodeThatHasLeft(t *testing.T) {
	t.Parallel()
	r := newRig(t, "a").start()
	next := &Loaded{Config: r.cfg}
	run := reloadable(t, r, next, new(atomic.Int64))
	close(r.leave)
	must(t, r.end(t))
	next.Config.Spec.Services = slices.Clone(r.cfg.Spec.Services)
	next.Config.Spec.Services[0].Health = []health.Check{httpCheck(t, 200)}
	if _, err := run.reload(t.Context()); !errors.Is(err, errStopping) {
		t.Errorf("error %v", err)
	}
}
