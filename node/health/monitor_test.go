package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// scripted returns a monitor of checks without sockets: check i gives the results
// of script i (+ passed, - failed) one after the other and then repeats the last;
// "h" hangs until its timeout.
func scripted(log *slog.Logger, basis Check, scripts ...string) *Monitor {
	m := &Monitor{log: log}
	for i, script := range scripts {
		c := basis
		c.Type, c.Target = TCP, fmt.Sprintf("check:%d", i)
		next := 0
		m.add(c, func(ctx context.Context) error {
			result := script[min(next, len(script)-1)]
			next++
			switch result {
			case '+':
				return nil
			case 'h':
				<-ctx.Done()
				return errors.New("hung")
			}
			return fmt.Errorf("failure %d", next)
		}, func() {})
	}
	return m
}

// reports runs the monitor for the time and returns what it reported, each with
// the time since the start.
func reports(t *testing.T, m *Monitor, for_ time.Duration) []string {
	t.Helper()
	var got []string
	started := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), for_)
	defer cancel()
	if err := m.Run(ctx, func(fit bool, reason string) {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%v %v %s", time.Since(started), fit, reason)))
	}); err != nil {
		t.Errorf("Run: %v", err)
	}
	return got
}

var second = Check{Interval: time.Second, Timeout: 500 * time.Millisecond, Rise: 2, Fall: 3}

func TestMonitorReports(t *testing.T) {
	for _, test := range []struct {
		name    string
		scripts []string
		for_    time.Duration
		want    []string
	}{
		{"no checks: fit at once", nil, time.Hour, []string{"0s true"}},
		{"one check passes: fit at the first result, told once", []string{"+"}, time.Minute, []string{"0s true"}},
		{"one check fails: unfit at the first result, told once", []string{"-"}, time.Minute, []string{"0s false tcp check:0: failure 1"}},
		{"fall and rise", []string{"+---++"}, time.Minute, []string{
			"0s true", "3s false tcp check:0: failure 4", "5s true"}},
		{"two failures of three change nothing", []string{"+--+"}, time.Minute, []string{"0s true"}},
		{"fit only when all have passed", []string{"+", "+", "+"}, time.Minute, []string{"0s true"}},
		{"one of two is unfit", []string{"+", "+---"}, time.Minute, []string{
			"0s true", "3s false tcp check:1: failure 4"}},
		{"another check becomes unfit as well, and the first recovers", []string{"+---++", "+----++"}, 4500 * time.Millisecond, []string{
			"0s true", "3s false tcp check:0: failure 4; tcp check:1: failure 4"}},
		{"a hang is a failure at its timeout, and delays nobody else", []string{"h", "+"}, time.Minute, []string{
			"500ms false tcp check:0: hung"}},
		{"not fit before the slowest first result", []string{"h+", "-+"}, time.Minute, []string{
			"0s false tcp check:1: failure 1", "500ms false tcp check:0: hung; tcp check:1: failure 1", "2s true"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := reports(t, scripted(discard(), second, test.scripts...), test.for_)
				// Results of the same moment come in any order: what counts then is
				// where they lead.
				if diff := cmp.Diff(test.want, lastOfEachMoment(got)); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		})
	}
}

func lastOfEachMoment(reports []string) []string {
	var last []string
	for i, r := range reports {
		moment, _, _ := strings.Cut(r, " ")
		if i+1 < len(reports) && strings.HasPrefix(reports[i+1], moment+" ") {
			continue
		}
		last = append(last, r)
	}
	return last
}

func TestMonitorIsNotFitBeforeEveryCheckHasPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := scripted(discard(), second, "+")
		slow := second
		slow.Type, slow.Target = TCP, "slow:1"
		m.add(slow, func(ctx context.Context) error { time.Sleep(300 * time.Millisecond); return nil }, func() {})
		if diff := cmp.Diff([]string{"300ms true"}, reports(t, m, time.Minute)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := scripted(discard(), second, "+-", "-++", "h")
		start := time.Now()
		if diff := cmp.Diff([]Result{{Check: "tcp check:0"}, {Check: "tcp check:1"}, {Check: "tcp check:2"}}, m.Results()); diff != "" {
			t.Errorf("before the start (-want +got)\n%s", diff)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx, func(bool, string) { m.Results() }) }() // may be called within report
		time.Sleep(2700 * time.Millisecond)
		synctest.Wait()
		at := func(d time.Duration) time.Time { return start.Add(d) }
		want := []Result{
			{Check: "tcp check:0", Verdict: Fit, Since: start, Reason: "failure 3", Tried: at(2 * time.Second), Tries: 3, Failed: 2, InARow: 2},
			{Check: "tcp check:1", Verdict: Fit, Since: at(2 * time.Second), OK: true, Tried: at(2 * time.Second), Tries: 3, Failed: 1},
			{Check: "tcp check:2", Verdict: Unfit, Since: at(500 * time.Millisecond), Reason: "hung", Tried: at(2500 * time.Millisecond), Tries: 3, Failed: 3},
		}
		if diff := cmp.Diff(want, m.Results()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// A try that is broken off by the end of the agent is not a failure.
func TestCancelIsNotAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := scripted(discard(), Check{Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1}, "+h")
		if diff := cmp.Diff([]string{"0s true"}, reports(t, m, 1500*time.Millisecond)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if r := m.Results()[0]; r.Verdict != Fit || r.Tries != 1 {
			t.Errorf("result %+v", r)
		}
	})
}

func TestLogTellsChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines bytes.Buffer
		log := slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		reports(t, scripted(log, second, "++---++"), time.Minute)
		want := `level=INFO msg="health check passes" check="tcp check:0"
level=WARN msg="health check fails" check="tcp check:0" reason="failure 5"
level=INFO msg="health check passes" check="tcp check:0"
`
		if diff := cmp.Diff(want, lines.String()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		interval := time.Duration(rapid.Int64Range(int64(minInterval), int64(time.Hour)).Draw(t, "interval"))
		jitter := rapid.Float64Range(0, maxJitter).Draw(t, "jitter")
		random := rapid.Float64Range(0, 0.999999).Draw(t, "random")
		got := spread(interval, jitter, random)
		low, high := float64(interval)*(1-jitter), float64(interval)*(1+jitter)
		if float64(got) < low-1 || float64(got) > high+1 {
			t.Fatalf("%v, want %v to %v", got, time.Duration(low), time.Duration(high))
		}
	})
	if got := spread(time.Second, 0, 0.9); got != time.Second {
		t.Errorf("without jitter: %v", got)
	}
}

// The pace holds whatever the try itself takes, and the tries vary with jitter.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Monitor{log: discard()}
		c := Check{Type: TCP, Target: "a:1", Interval: time.Second, Timeout: time.Second, Jitter: 0.2, Rise: 1, Fall: 1}
		var starts []time.Time
		m.add(c, func(context.Context) error {
			starts = append(starts, time.Now())
			time.Sleep(100 * time.Millisecond)
			return nil
		}, func() {})
		reports(t, m, 100*time.Second)
		if n := len(starts); n < 90 || n > 112 {
			t.Errorf("%d tries in 100 s", n)
		}
		distinct := map[time.Duration]bool{}
		for i := range starts[1:] {
			gap := starts[i+1].Sub(starts[i])
			distinct[gap] = true
			if gap < 800*time.Millisecond-time.Microsecond || gap > 1200*time.Millisecond+time.Microsecond {
				t.Errorf("gap %v", gap)
			}
		}
		if len(distinct) < 50 {
			t.Errorf("only %d different gaps", len(distinct))
		}
	})
}

// With real sockets and processes: all three kinds together, a server that
// breaks and recovers.
func TestMonitorOfRealThings(t *testing.T) {
	var broken atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	quick := Options{Interval: new(20 * time.Second), Timeout: new(20 * time.Second), Rise: new(2), Fall: new(2)}
	var checks []Check
	for _, o := range []Options{
		quick.http(server.URL + "/healthz"), quick.tcp(strings.TrimPrefix(server.URL, "http://")), quick.exec("true"),
	} {
		c, err := o.Parse()
		if err != nil {
			t.Fatal(err)
		}
		c.Interval = 20 * time.Millisecond // a pace for tests, yet a timeout for loaded machines
		checks = append(checks, c)
	}
	m := &Monitor{log: discard()}
	for _, c := range checks {
		ask, free := newProbe(c)
		m.add(c, ask, free)
	}
	type report struct {
		fit    bool
		reason string
	}
	told := make(chan report)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- m.Run(ctx, func(fit bool, reason string) {
			select {
			case told <- report{fit, reason}:
			case <-ctx.Done():
			}
		})
	}()
	expectReport := func(want report) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Fatalf("reported %+v, want %+v", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no report, want %+v", want)
		}
	}
	expectReport(report{true, ""})
	broken.Store(true)
	expectReport(report{false, "http " + server.URL + "/healthz: status 503, want 200-399"})
	broken.Store(false)
	expectReport(report{true, ""})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}
