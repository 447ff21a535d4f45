package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// Scenes prove that peervip fails closed: each is a trouble that befalls a cluster,
// and passes. What must hold in all of them is measured at the clients: nothing is
// answered twice, the clients of nodes that are well notice nothing, and afterwards
// everything is as it was.

const (
	// detectionTime is D of the standard detection.
	detectionTime = 200 * time.Millisecond
	// forgiven is the longest that clients of a node that is well may hear nothing: a
	// lease that runs out on a busy machine is soon back.
	forgiven = time.Second
)

// scene is one trouble. It leaves its cluster as it found it.
type scene struct {
	name string
	play func(t *testing.T, l *lab.Lab)
}

// play plays the scenes one after another on a cluster of so many nodes. A scene
// that fails takes the cluster with it: the next has a new one.
func play(t *testing.T, nodes int, scenes []scene) {
	t.Helper()
	t.Parallel()
	var l *lab.Lab
	end := func(t *testing.T, failed bool) {
		if l != nil {
			finish(t, l, failed)
			l = nil
		}
	}
	for _, scene := range scenes {
		t.Run(scene.name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					end(t, true)
				}
			})
			if l == nil {
				l = raise(t, nodes)
				start(t, l.Nodes...)
				settle(t, l, l.Nodes...)
			}
			scene.play(t, l)
		})
	}
	end(t, false)
}

// trial is a scene as its clients see it.
type trial struct {
	audience
	members []*lab.Node
	begun   time.Duration
	before  []lab.NodeID // by whom each source was served at the beginning
	held    *lab.Holders // a connection from each source
}

// watch begins a trial of the nodes that serve: all clients talk, and keep a
// connection open.
func watch(t *testing.T, l *lab.Lab, members ...*lab.Node) *trial {
	t.Helper()
	settle(t, l, members...)
	tr := &trial{audience: listen(t, l), members: members}
	tr.before = tr.allServed(t)
	tr.held = l.Hold(lab.HoldConfig{})
	t.Cleanup(tr.held.Stop)
	must(t, tr.held.WaitOpen(patiently(t)))
	tr.begun = l.Now()
	return tr
}

// without are the nodes but these.
func without(nodes []*lab.Node, out ...*lab.Node) []*lab.Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *lab.Node) bool { return slices.Contains(out, n) })
}

// relieves does something to a node that takes it out of service, waits until the
// others serve all its clients, and has it back in service by what undoes it.
func (tr *trial) relieves(t *testing.T, victim *lab.Node, do, undo func()) {
	t.Helper()
	from := tr.l.Now()
	do()
	tr.relieved(t, victim, from)
	undo()
	tr.restored(t, victim)
}

// relieved waits until the others serve everything, and checks that their own
// clients noticed nothing of it.
func (tr *trial) relieved(t *testing.T, victim *lab.Node, since time.Duration) {
	t.Helper()
	settle(t, tr.l, without(tr.members, victim)...)
	if by := tr.allServed(t); count(by, victim) > 0 {
		t.Errorf("%d clients are served by %s", count(by, victim), victim.Name)
	}
	r := tr.Report(lab.Window{From: since, To: tr.l.Now()}, victim)
	t.Logf("longest silence of the %d clients of %s: %v (median %v)", r.Affected.Sources, victim.Name, r.Affected.Longest.Max, r.Affected.Longest.Median)
	tr.spared(t, since, victim)
}

// restored waits until everything is as it was at the beginning, and stays so.
func (tr *trial) restored(t *testing.T, hit ...*lab.Node) {
	t.Helper()
	settle(t, tr.l, tr.members...)
	tr.returned(t, tr.before)
	tr.quiet(t)
	tr.spared(t, tr.begun, hit...)
}

// spared checks that the clients of all nodes but these have noticed nothing since
// the time but perhaps a pause, and that all their connections are whole.
func (tr *trial) spared(t *testing.T, since time.Duration, hit ...*lab.Node) {
	t.Helper()
	w := lab.Window{From: since, To: tr.l.Now()}
	time.Sleep(300 * time.Millisecond) // until what was under way is answered or lost
	longest, lost := time.Duration(0), 0
	for i, trace := range tr.Traces() {
		if slices.ContainsFunc(hit, func(n *lab.Node) bool { return n.ID() == tr.before[i] }) {
			continue
		}
		longest = max(longest, trace.LongestSilence(w, tr.l.Now()))
		for _, ask := range trace {
			if ask.Sent >= w.From && ask.Sent < w.To && ask.By == 0 {
				lost++
			}
		}
	}
	t.Logf("clients of the nodes that are well: longest silence %v, %d datagrams lost; this program stood still for %v at most",
		longest, lost, tr.Report(w, nil).Pause)
	if longest > forgiven {
		tr.demand(t, since, "a client of a node that is well was silent for %v", longest)
	}
	var one *lab.Node
	if len(hit) == 1 {
		one = hit[0]
	}
	if r := tr.held.Report(w, one); r.OthersBroken > 0 && len(hit) < 2 {
		tr.demand(t, since, "%d connections of nodes that are well are broken", r.OthersBroken)
	}
}

// unmovedBy checks that what happened has moved no client: each was answered by
// the one node all the time since the beginning.
func (tr *trial) unmovedBy(t *testing.T, what string) {
	t.Helper()
	moved, example := 0, ""
	for i, trace := range tr.Traces() {
		for _, ask := range trace {
			if ask.Sent >= tr.begun && ask.By != 0 && ask.By != tr.before[i] {
				moved++
				example = fmt.Sprintf("client %s of node-%d was answered by node-%d after %v",
					tr.l.Sources[i], tr.before[i], ask.By, ask.Sent-tr.begun)
				break
			}
		}
	}
	if moved > 0 {
		tr.demand(t, tr.begun, "%s has moved %d clients; %s", what, moved, example)
	}
}

// pauses are the stretches since the time, longer than two intervals, in which no
// client of the node was answered.
func (tr *trial) pauses(n *lab.Node, since time.Duration) []time.Duration {
	var asks []lab.Ask
	for i, trace := range tr.Traces() {
		if tr.before[i] != n.ID() {
			continue
		}
		for _, ask := range trace {
			if ask.Sent >= since {
				asks = append(asks, ask)
			}
		}
	}
	slices.SortFunc(asks, func(a, b lab.Ask) int { return int(a.Sent - b.Sent) })
	var found []time.Duration
	silent := time.Duration(-1) // since when
	for _, ask := range asks {
		switch {
		case ask.By == 0 && silent < 0:
			silent = ask.Sent
		case ask.By != 0 && silent >= 0:
			if d := ask.Sent - silent; d > 40*time.Millisecond {
				found = append(found, d)
			}
			silent = -1
		}
	}
	return found
}

// says waits until the node's status names a problem of that pattern.
func says(t *testing.T, n *lab.Node, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	eventually(t, func() error {
		s, err := n.Status(t.Context())
		if err != nil {
			return err
		}
		for _, problem := range s.Problems {
			if re.MatchString(problem) {
				t.Logf("%s says: %s", n.Name, problem)
				return nil
			}
		}
		return fmt.Errorf("%s says nothing of %q, but: %q", n.Name, pattern, s.Problems)
	})
}
