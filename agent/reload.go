package agent

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/peervip/peervip/node/health"
)

// Loaded is the configuration as it is written now.
type Loaded struct {
	Config Config
	// Changed are the keys whose values differ from those of the start, but for what a
	// reload takes: the log's level and the health checks.
	Changed []string
	// Warnings are lines for the operator about what does not stop the agent.
	Warnings []string
}

// Reloaded is what came of a reload.
type Reloaded struct {
	Error string `json:"error,omitempty"`
	// Taken are the keys whose new values hold from now on.
	Taken []string `json:"taken"`
	// Restart are those whose new values need a restart of the agent.
	Restart  []string `json:"restart"`
	Warnings []string `json:"warnings,omitempty"`
}

// reload takes from the configuration as it is written now what a running agent can
// take, all of it or, after an error, nothing.
func (r *runner) reload(ctx context.Context) (Reloaded, error) {
	r.reloading.Lock()
	defer r.reloading.Unlock()
	if r.opts.Load == nil {
		return Reloaded{}, errors.New("this agent has no configuration to load again")
	}
	next, err := r.opts.Load()
	if err != nil {
		return Reloaded{}, editable(err)
	}
	done := Reloaded{Taken: []string{}, Restart: append([]string{}, next.Changed...), Warnings: next.Warnings}
	services := slices.Clone(r.services)
	monitors := map[int]*health.Monitor{}
	for i, s := range services {
		there := next.Config.Spec.service(s.Name)
		if there < 0 || reflect.DeepEqual(s.Health, next.Config.Spec.Services[there].Health) {
			continue // a service that is gone is among what has changed
		}
		services[i].Health = next.Config.Spec.Services[there].Health
		made, err := newMonitors(Spec{VIPs: r.cfg.Spec.VIPs, Services: services[i : i+1]}, r.opts.Log)
		if err != nil {
			return Reloaded{}, editable(err)
		}
		monitors[i] = made[0]
		done.Taken = append(done.Taken, "spec.services["+s.Name+"].health")
	}
	if len(monitors) > 0 {
		if err := r.recheck(ctx, monitors); err != nil {
			return Reloaded{}, err
		}
		r.services = services
	}
	if level := next.Config.LogLevel; level != r.logLevel && r.opts.SetLogLevel != nil {
		r.opts.SetLogLevel(level)
		r.logLevel = level
		done.Taken = append(done.Taken, "log.level")
	}
	return done, nil
}

// recheck has the agent that lives now, if one does, go on with these monitors.
func (r *runner) recheck(ctx context.Context, monitors map[int]*health.Monitor) error {
	a := r.alive.Load()
	if a == nil {
		return nil // its next life begins with them
	}
	var refused error
	err := a.loop.ask(ctx, func() {
		if a.loop.core.Bulletin().Phase.Going() {
			refused = errStopping
			return
		}
		a.recheck(monitors)
	})
	return errors.Join(err, refused)
}

// listenForReloads reloads when it is told to by opts.Reload, until it is ended, and logs
// what came of it.
func (r *runner) listenForReloads(ctx context.Context) (end func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.listen(ctx)
	}()
	return func() error {
		cancel()
		<-ended
		return nil
	}
}

func (r *runner) listen(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.opts.Reload:
			done, err := r.reloadAndTell(ctx)
			if err != nil {
				r.opts.Log.Error("nothing is reloaded: " + strings.ReplaceAll(err.Error(), "\n", "; "))
				continue
			}
			for _, line := range done.Lines() {
				r.opts.Log.Info(line)
			}
		}
	}
}

func (r *runner) reloadAndTell(ctx context.Context) (Reloaded, error) {
	if r.opts.Reloading != nil {
		defer r.opts.Reloading()()
	}
	return r.reload(ctx)
}

// Lines tells it to people.
func (r Reloaded) Lines() []string {
	lines := slices.Clone(r.Warnings)
	if len(r.Taken) > 0 {
		lines = append(lines, "reloaded: "+strings.Join(r.Taken, ", "))
	}
	if len(r.Restart) > 0 {
		lines = append(lines, "changed too, and for the next start (`systemctl restart peervip` breaks no connection): "+strings.Join(r.Restart, ", "))
	}
	if len(r.Taken)+len(r.Restart) == 0 {
		lines = append(lines, "nothing has changed in the configuration")
	}
	return lines
}

func (r *runner) serveReload(w http.ResponseWriter, q *http.Request) {
	done, err := r.reloadAndTell(q.Context())
	switch {
	case errors.As(err, new(*EditError)):
		reply(w, http.StatusUnprocessableEntity, Reply{Error: err.Error()})
	case err != nil:
		unavailable(w, err)
	default:
		for _, line := range done.Lines() {
			r.opts.Log.Info(line)
		}
		reply(w, http.StatusOK, done)
	}
}

// withReload adds the reload to what a handler answers.
func (r *runner) withReload(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/reload", r.serveReload)
	mux.Handle("/", h)
	return mux
}
