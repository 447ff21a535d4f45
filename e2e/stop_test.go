package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// A stop waits for the connections that are open, says so everywhere, and is cut short
// by `leave --now`: they are reset, and those of the other nodes notice nothing.
func TestStopThatWaitsIsCutShort(t *testing.T) {
	l := cluster(t, 2)
	node, other := l.Nodes[0], l.Nodes[1]
	held := l.Hold(lab.HoldConfig{})
	must(t, held.WaitOpen(patiently(t)))
	from := l.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- node.Stop(patiently(t)) }()
	flows := 0
	for _, asked := range l.Nodes {
		eventually(t, func() error {
			s, err := asked.Status(t.Context())
			if err != nil {
				return err
			}
			n, _ := s.Find(node.Name)
			if n.Phase != "leaving" || n.Waiting == nil || n.Waiting.Flows == 0 || n.Waiting.Left <= 0 {
				return fmt.Errorf("%s says of the node that stops: %+v", asked.Name, n)
			}
			flows = n.Waiting.Flows
			return nil
		})
	}
	settle(t, l, other)
	time.Sleep(2 * time.Second)
	select {
	case err := <-stopped:
		t.Fatalf("it did not wait for %d connections: %v", flows, err)
	default:
	}
	if log := node.Log(); !strings.Contains(log, "leaving: waiting for ") || !strings.Contains(log, "peervip leave --now") {
		t.Errorf("its log does not say what it waits for:\n%s", log)
	}
	before := held.Report(lab.Window{From: from, To: l.Now()}, node)
	if before.Reset > 0 || before.Stalled > 0 {
		t.Errorf("while it waited: %+v", before)
	}
	run(t, node, "leave", "--now")
	select {
	case err := <-stopped:
		must(t, err)
	case <-time.After(patience):
		t.Fatal("it has not stopped")
	}
	nothingLeft(t, node)
	held.Stop()
	if r := held.Report(lab.Window{From: from, To: l.Now()}, node); r.Reset < 1 || r.OthersBroken > 0 {
		t.Errorf("in the end, of %d connections here: %+v", flows, r)
	}
}

// A drain with a grace of its own ends the connections when that is over, and says from
// the first line what it waits for.
func TestDrainWithAGrace(t *testing.T) {
	l := cluster(t, 2)
	node := l.Nodes[0]
	held := l.Hold(lab.HoldConfig{})
	must(t, held.WaitOpen(patiently(t)))
	from := time.Now()
	told, err := l.Nodes[1].Peervip(patiently(t), "drain", node.Name, "--grace", "3s", "--wait")
	must(t, err)
	if took := time.Since(from); took < 3*time.Second || took > 3*time.Second+patience {
		t.Errorf("it took %v", took)
	}
	if !strings.Contains(told, "waiting for ") || strings.Contains(told, "waiting for no open") && strings.Index(told, "waiting for no open") < strings.Index(told, " open connection") {
		t.Errorf("the command said:\n%s", told)
	}
	run(t, node, "resume")
}
