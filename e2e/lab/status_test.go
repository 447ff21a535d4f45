package lab

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// shared is a status of three nodes that share 1024 buckets as given.
func shared(own ...int) Status {
	s := Status{Node: "node-1", Services: []ServiceStatus{{Name: "other", Buckets: 1024}}}
	for i, n := range own {
		s.Nodes = append(s.Nodes, NodeStatus{
			Name: NodeName(i), Phase: "active", Alive: true, Weight: 100,
			Services: map[string]NodeServiceStatus{"other": {Own: n}},
		})
	}
	return s
}

func TestUnsettled(t *testing.T) {
	all := []string{"node-1", "node-2", "node-3"}
	two := []string{"node-1", "node-3"}
	with := func(s Status, change func(*Status)) Status { change(&s); return s }
	for name, tt := range map[string]struct {
		status  Status
		serving []string
		want    string // in the reason; "" for settled
	}{
		"shares by weight":   {shared(342, 341, 341), all, ""},
		"in any order":       {shared(341, 341, 342), all, ""},
		"one bucket too few": {shared(343, 341, 340), all, "serve 343"},
		"unclaimed":          {with(shared(342, 341, 341), func(s *Status) { s.Services[0].Unclaimed = 1 }), all, "1 of 1024"},
		"claimed twice":      {with(shared(342, 341, 341), func(s *Status) { s.Services[0].ClaimedTwice = 2 }), all, "2 claimed twice"},
		"one dead":           {with(shared(342, 341, 341), func(s *Status) { s.Nodes[1].Alive = false }), all, "holds node-2 dead"},
		"one unknown":        {shared(512, 512), all, "does not know node-3"},
		"a drained node":     {shared(512, 0, 512), two, ""},
		"a draining node":    {shared(512, 1, 511), two, "node-2 (active) serve 1"},
		"a dead node's last word counts for nothing": {
			with(shared(512, 341, 512), func(s *Status) { s.Nodes[1].Alive = false }), two, ""},
		"adopted counts": {with(shared(512, 0, 511), func(s *Status) {
			s.Nodes[2].Services["other"] = NodeServiceStatus{Own: 341, Adopt: 171, Linger: 9}
		}), two, ""},
		"weights": {with(shared(512, 256, 256), func(s *Status) { s.Nodes[0].Weight = 200 }), all, ""},
		"nothing": {Status{Node: "node-1"}, nil, "no services"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.status.Unsettled(tt.serving)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPoll(t *testing.T) {
	calls := 0
	must(t, Poll(t.Context(), func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	}))
	if calls != 3 {
		t.Errorf("%d calls, want 3", calls)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*ms, errors.New("time is up"))
	defer cancel()
	err := Poll(ctx, func() error { return errors.New("never") })
	if err == nil || err.Error() != "never (gave up: time is up)" {
		t.Errorf("got %v", err)
	}
	why := errors.New("no use")
	begun := time.Now()
	if err := Poll(t.Context(), func() error { return Final(why) }); !errors.Is(err, why) || time.Since(begun) > 10*time.Second {
		t.Errorf("a final error was waited out: %v", err)
	}
}
