package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/peervip/peervip/e2e/lab"
)

// programs is where the built programs are.
var programs string

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "peervip-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// At most so many labs at a time, unless the command line says otherwise: two
	// cores bear them, and so does the one neighbour table of all namespaces.
	if err := flag.Set("test.parallel", "4"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Who runs the tests by nohup(1) tests agents that are not run by it: a program that
	// a process starts ignores what the process ignores, and not what it catches.
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		fmt.Print(figureTable())
		os.RemoveAll(programs)
		os.Exit(code)
	}))
}

// compile builds peervip once for each set of flags.
func compile(name string, flags ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		file := filepath.Join(programs, name)
		args := append(append([]string{"build"}, flags...), "-o", file, "../cmd/peervip")
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("building peervip: %w\n%s", err, out)
		}
		return file, nil
	})
}

var (
	// tested is the program that the tests run, with the race detector.
	tested = compile("tested", "-race")
	// measured is the program that the benchmarks run, as it is delivered.
	measured = compile("measured")
)

// patience is how long anything may take: much longer than it should, for the
// machine may be loaded and the race detector is slow.
const patience = time.Minute

func patiently(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// standard is the detection that the tests run with: the default. A starved agent
// pauses, and is perhaps taken for dead; nothing is answered twice for it.
var standard = lab.DetectSection{Interval: "20ms", Misses: 10}

// build makes a lab whose agents are not started, for as long as the test lasts.
// Tests with labs run beside each other: most of their time they wait.
func build(t *testing.T, nodes int, change ...func(index int, c *lab.AgentConfig)) *lab.Lab {
	t.Helper()
	t.Parallel()
	l := raise(t, nodes, change...)
	t.Cleanup(func() { finish(t, l, t.Failed()) })
	return l
}

// raise is build without an end: that is for finish.
func raise(t *testing.T, nodes int, change ...func(index int, c *lab.AgentConfig)) *lab.Lab {
	t.Helper()
	binary, err := tested()
	must(t, err)
	l, err := lab.New(t.Context(), lab.Config{
		Binary: binary, Nodes: nodes,
		Agent: func(i int, c *lab.AgentConfig) {
			c.Spec.Detect = standard
			for _, f := range change {
				f(i, c)
			}
		},
	})
	must(t, err)
	return l
}

// finish ends a lab. No agent may have raced or panicked; if something has failed,
// the agents' logs are printed.
func finish(t *testing.T, l *lab.Lab, failed bool) {
	t.Helper()
	for _, n := range l.Nodes {
		log := n.Log()
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if strings.Contains(log, bad) {
				t.Errorf("%s: %s", n.Name, bad)
				failed = true
			}
		}
		if failed {
			t.Logf("log of %s:\n%s", n.Name, log)
			if n.Running() { // t's context has ended
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				status, err := n.Peervip(ctx, "status")
				cancel()
				t.Logf("status of %s (%v):\n%s", n.Name, err, status)
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// cluster makes a lab whose agents run and have settled.
func cluster(t *testing.T, nodes int, change ...func(index int, c *lab.AgentConfig)) *lab.Lab {
	t.Helper()
	l := build(t, nodes, change...)
	start(t, l.Nodes...)
	settle(t, l, l.Nodes...)
	return l
}

func start(t *testing.T, nodes ...*lab.Node) {
	t.Helper()
	for _, n := range nodes {
		must(t, n.Start())
	}
}

// settle waits until the serving nodes share everything, and nobody else serves.
func settle(t *testing.T, l *lab.Lab, serving ...*lab.Node) lab.Status {
	t.Helper()
	s, err := l.WaitSettled(patiently(t), serving...)
	must(t, err)
	return s
}

// run runs a peervip command on the node, which must succeed.
func run(t *testing.T, n *lab.Node, command string, args ...string) string {
	t.Helper()
	out, err := n.Peervip(patiently(t), command, args...)
	must(t, err)
	return out
}

// refused runs a peervip command that must fail with one line that holds the words.
func refused(t *testing.T, words string, n *lab.Node, command string, args ...string) {
	t.Helper()
	_, err := n.Peervip(patiently(t), command, args...)
	var failed *lab.CommandError
	if !errors.As(err, &failed) {
		t.Fatalf("peervip %s %v: %v, want a refusal", command, args, err)
	}
	if !strings.Contains(failed.Stderr, words) || strings.Contains(failed.Stderr, "\n") {
		t.Errorf("peervip %s %v says %q, want one line with %q", command, args, failed.Stderr, words)
	}
}

// eventually waits until check says nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	must(t, lab.Poll(patiently(t), check))
}

// audience is what watches the VIP from the client host during a test.
type audience struct {
	*lab.Talkers
	l *lab.Lab
}

// pace is how fast the sources talk: several labs share the machine.
var pace = lab.TalkConfig{Interval: 20 * time.Millisecond}

// listen lets all sources talk. Whatever happens later in the test, no datagram
// may be answered twice.
func listen(t *testing.T, l *lab.Lab) audience {
	t.Helper()
	talkers, err := l.Talk(pace)
	must(t, err)
	from := l.Now()
	t.Cleanup(func() {
		talkers.Stop()
		if r := talkers.Report(lab.Window{From: from, To: l.Now()}, nil); r.Twice > 0 {
			t.Errorf("%d datagrams answered twice, first and again by: %v", r.Twice, r.Doubles)
		}
	})
	return audience{talkers, l}
}

// allServed waits until every source is answered, and returns by whom.
func (a audience) allServed(t *testing.T) []lab.NodeID {
	t.Helper()
	from := a.l.Now()
	by := make([]lab.NodeID, len(a.l.Sources))
	eventually(t, func() error {
		for i, trace := range a.Traces() {
			answered := false
			for _, ask := range trace {
				if ask.Sent >= from && ask.By != 0 {
					by[i], answered = ask.By, true
				}
			}
			if !answered {
				return fmt.Errorf("client %s is not answered", a.l.Sources[i])
			}
		}
		return nil
	})
	return by
}

// quiet waits for a second in which no client loses anything. While nothing happens
// that is the first one, unless the machine is so starved that a lease runs out.
func (a audience) quiet(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		w := lab.Window{From: a.l.Now()}
		time.Sleep(time.Second)
		w.To = a.l.Now()
		time.Sleep(300 * time.Millisecond) // until what was under way is answered or lost
		if r := a.Report(w, nil); r.Lost > 0 || r.Sent == 0 {
			t.Logf("while nothing happened, %d of %d datagrams were lost", r.Lost, r.Sent)
			return fmt.Errorf("of %d datagrams in a quiet second, %d were lost", r.Sent, r.Lost)
		}
		return nil
	})
}

// unmoved checks that the sources that kept their node lost nothing since the
// time, and returns how many changed it.
func (a audience) unmoved(t *testing.T, since time.Duration, before, after []lab.NodeID) int {
	t.Helper()
	w := lab.Window{From: since, To: a.l.Now()}
	time.Sleep(300 * time.Millisecond)
	moved := 0
	for i, trace := range a.Traces() {
		if before[i] != after[i] {
			moved++
			continue
		}
		lost := 0
		for _, ask := range trace {
			if ask.Sent >= w.From && ask.Sent < w.To && ask.By == 0 {
				lost++
			}
		}
		if lost > 0 {
			a.demand(t, since, "client %s stayed with node-%d and lost %d datagrams", a.l.Sources[i], before[i], lost)
		}
	}
	return moved
}

// returned waits until every source is served by the node that it was served by
// before.
func (a audience) returned(t *testing.T, before []lab.NodeID) {
	t.Helper()
	eventually(t, func() error {
		for i, by := range a.allServed(t) {
			if by != before[i] {
				return fmt.Errorf("client %s was served by node-%d before and is served by node-%d after", a.l.Sources[i], before[i], by)
			}
		}
		return nil
	})
}

// starving is a time for which the measuring program does not run only on a machine
// that is starved. The agents go before it, but what holds it up for so long may
// hold them up for long enough to let a lease run out, or to be held dead.
const starving = 100 * time.Millisecond

// demand is an error of the test unless the machine was starved since the time:
// then the design allows pauses, and takeovers. It never allows two answers.
func (a audience) demand(t *testing.T, since time.Duration, format string, args ...any) {
	t.Helper()
	said := fmt.Sprintf(format, args...)
	if starved := a.Report(lab.Window{From: since, To: a.l.Now()}, nil).Pause; starved >= starving {
		t.Logf("on a machine that lets nobody run for %v: %s", starved, said)
		return
	}
	t.Error(said)
}

// count is how many sources the node serves.
func count(by []lab.NodeID, n *lab.Node) int {
	c := 0
	for _, id := range by {
		if id == n.ID() {
			c++
		}
	}
	return c
}

// nothingLeft checks that a node whose agent stopped cleanly has nothing of it
// left in its kernel.
func nothingLeft(t *testing.T, n *lab.Node) {
	t.Helper()
	for _, cmd := range [][]string{
		{"nft", "list", "ruleset"},
		{"ip", "address", "show", "to", lab.VIP.String()},
	} {
		out, err := n.NS.Run(cmd[0], cmd[1:]...)
		must(t, err)
		if out != "" {
			t.Errorf("%s: %v after a clean stop: %s", n.Name, cmd, out)
		}
	}
}
