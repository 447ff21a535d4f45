package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
)

// A kernel without its rules serves nothing, so the agent must not go on claiming
// buckets: it ends, and the service manager starts it anew.
func TestRulesGoneEndTheAgent(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"Commit", "EnsureGuard", "Counters"} {
		for _, gone := range []error{nft.ErrGone, nft.ErrClosed} {
			t.Run(fmt.Sprint(call, " ", gone), func(t *testing.T) {
				s, rigs := newCluster(t, "a", "b")
				a := rigs[0]
				a.filter.set(func(f *fakeFilter) { f.fail[call] = fmt.Errorf("calling %s: %w", call, gone) })
				switch call {
				case "Commit":
					s.die(t, "b")
				case "Counters":
					_, err := a.client.Status(t.Context())
					if err == nil {
						break
					}
					if !errors.Is(err, ErrUnavailable) {
						t.Errorf("status said %v", err)
					}
				}
				if err := a.end(t); !errors.Is(err, gone) || !strings.HasPrefix(err.Error(), "this node serves nothing any more: calling "+call) {
					t.Errorf("ended with %v", err)
				}
			})
		}
	}
}

// A transient failure of the guard, the second line, must not end the first.
func TestGuardFailsForAWhile(t *testing.T) {
	t.Parallel()
	_, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	a.filter.set(func(f *fakeFilter) { f.fail["EnsureGuard"] = errFake })
	a.problem(t, true, "the guard against unfiltered packets may be missing: "+errFake.Error())
	a.filter.set(func(f *fakeFilter) { delete(f.fail, "EnsureGuard"); f.restores = true })
	a.problem(t, false, "guard")
	eventually(t, func() error {
		if !strings.Contains(a.log.String(), "somebody removed the table peervip_guard") {
			return errors.New("a restored guard was not logged")
		}
		return nil
	})
	if n := strings.Count(a.log.String(), "the guard cannot be looked after"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	a.phase(t, node.Active)
}

// The kernel refuses commits for a while: said, tried again, and then done.
func TestCommitFailsForAWhile(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	a.filter.set(func(f *fakeFilter) { f.fail["Commit"] = errFake })
	s.die(t, "b")
	a.problem(t, true, errFake.Error())
	a.filter.set(func(f *fakeFilter) { delete(f.fail, "Commit") })
	s.settled(t, a)
	a.problem(t, false, errFake.Error())
}

// A commit under way is waited for when the agent ends: the filter belongs to one
// goroutine, and whoever takes it back comes after.
func TestEndDuringACommit(t *testing.T) {
	t.Parallel()
	s, rigs := newCluster(t, "a", "b")
	a := rigs[0]
	hold := make(chan struct{})
	a.filter.set(func(f *fakeFilter) { f.hold = hold })
	n := a.filter.called("Commit")
	s.die(t, "b")
	eventually(t, func() error {
		if a.filter.called("Commit") == n {
			return errors.New("no commit")
		}
		return nil
	})
	// Nobody hangs meanwhile who need not.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.loop.kernel.counters(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("counters during a commit: %v", err)
	}
	status := make(chan error, 1)
	go func() {
		_, err := a.client.Status(t.Context())
		status <- err
	}()
	a.cancel()
	select {
	case <-a.ended:
		t.Error("the agent ended during a commit")
	case <-time.After(50 * time.Millisecond):
	}
	close(hold)
	must(t, a.end(t))
	if err := within(t, "an answer", status); err != nil && !errors.Is(err, ErrUnavailable) {
		t.Errorf("status said %v", err)
	}
	if _, err := a.loop.kernel.counters(t.Context()); err == nil {
		t.Error("counters of an ended kernel")
	}
}

// Counters that cannot be read are a problem, and no reason to hide the rest.
func TestCountersFail(t *testing.T) {
	t.Parallel()
	_, rigs := newCluster(t, "a", "b")
	rigs[0].filter.set(func(f *fakeFilter) { f.fail["Counters"] = errFake })
	rigs[0].problem(t, true, errFake.Error())
	if s := rigs[0].status(t); len(s.Nodes) != 2 {
		t.Errorf("%d nodes", len(s.Nodes))
	}
}
