package agent

import (
	"context"
	"slices"

	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/health"
)

// checks are the health monitors that run, by service. They belong to the loop.
type checks struct {
	start    func(func() error) // starts a goroutine that the agent waits for at its end
	ctx      context.Context
	monitors []*health.Monitor // nil: nothing is checked
	end      []context.CancelFunc
}

// startChecks begins with the monitors that the agent was made with.
func (a *agent) startChecks(ctx context.Context, start func(func() error)) {
	n := len(a.cfg.Spec.Services)
	a.checks = checks{start: start, ctx: ctx, monitors: make([]*health.Monitor, n), end: make([]context.CancelFunc, n)}
	for i, m := range a.monitors {
		a.check(i, m)
	}
}

// check has a service checked by that monitor from now on. Until it has a result, the
// verdict of the one before stands.
func (a *agent) check(service int, m *health.Monitor) {
	c := &a.checks
	if c.end[service] != nil {
		c.end[service]()
	}
	c.monitors[service], c.end[service] = m, nil
	if m == nil {
		return
	}
	ctx, cancel := context.WithCancel(c.ctx)
	c.end[service] = cancel
	c.start(func() error {
		return m.Run(ctx, func(fit bool, reason string) {
			a.loop.queue.put(func() {
				if c.monitors[service] == m { // else it is of a configuration of the past
					a.loop.step(node.HealthChanged{Service: service, Fit: fit, Reason: reason})
				}
			})
		})
	})
}

// misled are the checks that pass though clients are refused, in words. The kernel is
// asked by the caller and not by the loop: while somebody changes the host's network it
// may answer late, and a loop that waits for it gives no beacons.
func (a *agent) misled(ctx context.Context) (lines []string) {
	var monitors []*health.Monitor
	if err := a.loop.ask(ctx, func() { monitors = slices.Clone(a.checks.monitors) }); err != nil {
		return nil // it ends
	}
	for _, m := range monitors {
		if m != nil {
			lines = append(lines, a.misledBy(m, a.cfg.Spec.VIPs)...)
		}
	}
	return lines
}

// recheck has these services, and no others, checked anew: by other monitors, or, where
// there is none, by none.
func (a *agent) recheck(monitors map[int]*health.Monitor) {
	for service, m := range monitors {
		a.check(service, m)
		if m == nil {
			a.loop.step(node.HealthChanged{Service: service, Fit: true})
		}
	}
}
