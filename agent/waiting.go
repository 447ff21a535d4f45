package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// WaitingStatus is what a node that drains or leaves waits for.
type WaitingStatus struct {
	// Flows are the open connections that are in the way, and with `linger: all` what
	// else lingers.
	Flows int `json:"flows"`
	// Left is for how long the node waits at the most.
	Left float64 `json:"left_seconds"`
}

func waitingStatus(w *node.Waiting) *WaitingStatus {
	if w == nil {
		return nil
	}
	return &WaitingStatus{w.Flows, w.Left.Seconds()}
}

// String says it in words.
func (w WaitingStatus) String() string {
	if w.Flows == 0 {
		return "waiting for no open connection any more"
	}
	left := time.Duration(w.Left * float64(time.Second))
	return fmt.Sprintf("waiting for %s, at most %v", node.Count(w.Flows, "open connections"), left.Round(time.Second))
}

// EndsThem is the command that does not wait, for a node in that phase.
func EndsThem(name, phase string) string {
	if phase == node.Leaving.String() {
		return "`peervip leave --now` ends them"
	}
	return fmt.Sprintf("`peervip drain %s --grace 0s` ends them", name)
}

// waitingTold is how often the log has what a node waits for.
const waitingTold = 30 * time.Second

// waitingLog has the log tell what this node waits for. It belongs to the loop.
type waitingLog struct {
	at    node.Time
	phase string
}

// look returns the line that is due, or "".
func (w *waitingLog) look(now node.Time, self NodeStatus) string {
	if self.Waiting == nil || self.Phase != w.phase {
		w.at, w.phase = 0, self.Phase // the next wait is told from its beginning
	}
	if self.Waiting == nil || self.Waiting.Flows == 0 {
		return ""
	}
	if w.at > 0 && now-w.at < waitingTold {
		return ""
	}
	w.at = now
	return fmt.Sprintf("%s: %v; %s", self.Phase, self.Waiting, EndsThem(self.Name, self.Phase))
}

// count counts the flows, and tells the core. Those that a drain or a leave waits for
// are counted while the node does.
func (a *agent) count(ctx context.Context) error {
	var slots, listed hashring.Set
	waits := a.loop.going.Load()
	if waits {
		if err := a.loop.ask(ctx, func() { slots, listed = a.loop.core.Lingering() }); err != nil {
			return nil // it ends
		}
	}
	counts, waiting, err := a.countFlows(slots, listed)
	if !waits || err != nil {
		waiting = -1
	}
	a.loop.post(node.FlowsCounted{Counts: counts, Waiting: waiting})
	return err
}

// phaseChanged has flows counted at once when the node begins to wait for them.
func (l *loop) phaseChanged(phase node.Phase) {
	if phase == l.phase {
		return
	}
	l.phase = phase
	l.going.Store(phase == node.Draining || phase.Going())
	l.leaving.Store(phase.Going())
	if l.going.Load() {
		select {
		case l.goes <- struct{}{}:
		default:
		}
	}
}

// leavesServing reports whether another node serves on when this one goes.
func (l *loop) leavesServing() bool {
	return slices.ContainsFunc(l.core.Snapshot().Nodes, func(n node.NodeSnapshot) bool {
		return n.Name != l.cfg.Name && n.Alive && n.Phase.Serving()
	})
}

// look has the log tell what is new, each second.
func (l *loop) look(m measures) {
	snapshot := l.core.Snapshot()
	problems := l.problems(snapshot, m)
	l.news.troubles.look(l.now(), problems.list)
	s := l.cfg.statusOf(snapshot)
	m.outlook.tell(&s, nil)
	s.Problems, s.Alert = problems.texts()
	l.line = s.Line()
	for _, n := range s.Nodes {
		if n.Name == l.cfg.Name {
			if line := l.news.waiting.look(l.now(), n); line != "" {
				l.log.Info(line)
			}
		}
	}
}
