package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Result is what is known of one check now.
type Result struct {
	Check   string    `json:"check"`             // its name, as in the logs
	Verdict Verdict   `json:"verdict"`           // after rise and fall
	Since   time.Time `json:"since,omitzero"`    // when the verdict became this; zero while unknown
	OK      bool      `json:"ok"`                // the last try alone
	Reason  string    `json:"reason,omitempty"`  // why the last try failed, in plain words
	Tried   time.Time `json:"tried,omitzero"`    // when the last try ended; zero before the first
	Tries   uint64    `json:"tries"`             // since the start
	Failed  uint64    `json:"failed"`            // of them
	InARow  int       `json:"in_a_row,omitzero"` // results of the last tries that contradict the verdict
}

// Monitor runs checks, each at its own pace, and tells whether all of them pass.
type Monitor struct {
	log    *slog.Logger
	checks []Check
	asks   []probe
	free   []func()

	listeners func() ([]listener, error) // who listens on this host

	mu      sync.Mutex // guards results, which Run writes and Results reads
	results []Result
}

// New prepares the checks; nothing runs before Run. An invalid check is an error.
// A check that asks one of the VIPs waits until that is on this host, and is answered here.
func New(checks []Check, log *slog.Logger, vips ...netip.Addr) (*Monitor, error) {
	m := &Monitor{log: log, listeners: listeners}
	for i, c := range checks {
		if err := c.Validate(); err != nil {
			return nil, fmt.Errorf("health check %d (%s): %w", i, c, err)
		}
		ask, free := newProbe(c, vips...)
		m.add(c, ask, free)
	}
	return m, nil
}

func (m *Monitor) add(c Check, ask probe, free func()) {
	m.checks = append(m.checks, c)
	m.asks = append(m.asks, ask)
	m.free = append(m.free, free)
	m.results = append(m.results, Result{Check: c.String()})
}

// Results returns what is known of each check, in the order of New. It may be
// called at any time, also from within report.
func (m *Monitor) Results() []Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.results)
}

// outcome is the end of one try.
type outcome struct {
	check int
	err   error // nil: passed
	state State // what follows from it and those before
}

// Run checks until ctx is cancelled, then returns nil when the last try has
// ended. It may be called once.
//
// report is told whether the node is fit: at once without checks; unfit as soon
// as one check is unfit; fit when all checks are. It is told again when that
// changes or other checks are the unfit ones, and then alone: never twice at a
// time, always from the same goroutine. The reason names the unfit checks and
// why their last try failed; it is empty when the node is fit. Until the first
// report the node's fitness is not known.
func (m *Monitor) Run(ctx context.Context, report func(fit bool, reason string)) error {
	defer func() {
		for _, free := range m.free {
			free()
		}
	}()
	group, ctx := errgroup.WithContext(ctx)
	outcomes := make(chan outcome)
	for i := range m.checks {
		group.Go(func() error {
			m.repeat(ctx, i, outcomes)
			return nil
		})
	}
	group.Go(func() error {
		m.collect(ctx, outcomes, report)
		return nil
	})
	return group.Wait()
}

// repeat tries one check at once and then at its pace. The tries of one check
// never overlap; one that takes longer than the interval delays the next.
func (m *Monitor) repeat(ctx context.Context, i int, outcomes chan<- outcome) {
	check := m.checks[i]
	var state State
	var refused time.Time // since when it has been refused here, and nothing else; zero: it has not
	for next := time.Now(); m.pause(ctx, check, state, next); {
		started := time.Now()
		limited, cancel := context.WithTimeout(ctx, check.Timeout)
		err := m.asks[i](limited)
		cancel()
		if ctx.Err() != nil {
			return // what was broken off says nothing about fitness
		}
		next = started.Add(spread(check.Interval, check.Jitter, rand.Float64()))
		_, waits := errors.AsType[*notHere](err)
		switch quick := state.Verdict == Fit && check.refusedHere(err); {
		case waits && state.Verdict == Unknown: // it says nothing of this node yet
			next = started.Add(min(check.Interval, lookEvery))
			continue
		case quick && refused.IsZero():
			refused = started
			fallthrough
		case quick && started.Sub(refused) < refusedFor:
			next = started.Add(min(check.Interval, refusedEvery))
		case quick:
			refused, state = time.Time{}, State{Verdict: Unfit}
		default:
			refused, state = time.Time{}, state.Next(err == nil, check.Rise, check.Fall)
		}
		select {
		case <-ctx.Done():
			return
		case outcomes <- outcome{i, err, state}:
		}
	}
}

// pause waits until it is time for the next try of a check; false: there is none any more.
// For a fit check of this host that is as soon as nobody listens any more.
func (m *Monitor) pause(ctx context.Context, check Check, state State, until time.Time) bool {
	to, here := check.asks()
	here = here && state.Verdict == Fit && isHere(to.Addr())
	listened := false
	for {
		wait := max(time.Until(until), 0)
		if here {
			wait = min(wait, lookEvery)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
		if !time.Now().Before(until) {
			return true
		}
		if here {
			listens, err := Listens(to)
			if listened && !listens && err == nil {
				return true
			}
			listened = listened || listens
		}
	}
}

// spread varies the interval by up to the share jitter of it in both directions,
// so that nodes which started together do not ask a common backend together.
// random is from [0, 1).
func spread(interval time.Duration, jitter, random float64) time.Duration {
	return time.Duration(float64(interval) * (1 + jitter*(2*random-1)))
}

// collect owns the states of all checks and says what follows from them.
func (m *Monitor) collect(ctx context.Context, outcomes <-chan outcome, report func(bool, string)) {
	states := make([]State, len(m.checks))
	told := summary{verdict: Unknown}
	for {
		if now := summarize(states, m.Results()); now.verdict != Unknown && !now.same(told) {
			told = now
			report(now.verdict == Fit, now.reason)
		}
		select {
		case <-ctx.Done():
			return
		case o := <-outcomes:
			before := states[o.check]
			states[o.check] = o.state
			m.record(o, states[o.check])
			m.tell(o, before, states[o.check])
		}
	}
}

func (m *Monitor) record(o outcome, state State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.results[o.check]
	r.Tried, r.OK, r.Reason = time.Now(), o.err == nil, ""
	r.Tries++
	if o.err != nil {
		r.Failed++
		r.Reason = o.err.Error()
	}
	if r.Verdict != state.Verdict {
		r.Verdict, r.Since = state.Verdict, r.Tried
	}
	r.InARow = state.against
}

// tell logs a new verdict; single failures that change nothing are for debugging.
func (m *Monitor) tell(o outcome, before, after State) {
	name := m.checks[o.check].String()
	switch {
	case before.Verdict == after.Verdict && o.err != nil:
		m.log.Debug("health check failed", "check", name, "verdict", after.Verdict, "reason", o.err)
	case before.Verdict == after.Verdict:
	case after.Verdict == Fit:
		m.log.Info("health check passes", "check", name)
	default:
		m.log.Warn("health check fails", "check", name, "reason", o.err)
	}
}

// summary is what all checks together say.
type summary struct {
	verdict Verdict
	unfit   []int // the checks
	reason  string
}

// same says whether two summaries differ in nothing that is worth a report; the
// wording of a reason, which may hold a time or a counter, is not.
func (s summary) same(other summary) bool {
	return s.verdict == other.verdict && slices.Equal(s.unfit, other.unfit)
}

// summarize: unfit if any check is unfit, else unknown if any is, else fit.
func summarize(states []State, results []Result) summary {
	s := summary{verdict: Fit}
	var reasons []string
	for i, state := range states {
		switch state.Verdict {
		case Unfit:
			s.verdict, s.unfit = Unfit, append(s.unfit, i)
			reason := results[i].Reason
			if reason == "" {
				reason = "passes again, not yet often enough"
			}
			reasons = append(reasons, results[i].Check+": "+reason)
		case Unknown:
			if s.verdict == Fit {
				s.verdict = Unknown
			}
		}
	}
	s.reason = strings.Join(reasons, "; ")
	return s
}
