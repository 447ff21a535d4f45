package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// named lists the named namespaces that begin with the prefix.
func named(t *testing.T, prefix string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(namedDir, prefix+"*"))
	must(t, err)
	return found
}

func TestALabLeavesNothingBehind(t *testing.T) {
	links := func() int {
		l, err := netlink.LinkList()
		must(t, err)
		return len(l)
	}
	before := links()
	l, err := New(t.Context(), Config{Nodes: 2, Sources: 4})
	must(t, err)
	if got := named(t, l.Prefix); len(got) != 4 {
		t.Errorf("namespaces of the lab: %v, want a switch, a client and two nodes", got)
	}
	_, err = l.Talk(TalkConfig{})
	must(t, err)
	l.Browse(BrowseConfig{Timeout: 100 * ms})
	l.Hold(HoldConfig{})
	for range 2 { // the second does nothing
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := named(t, l.Prefix); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	if _, err := os.Stat(l.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was left behind: %v", l.Dir, err)
	}
	if got := links(); got != before {
		t.Errorf("the machine had %d links before the lab, now %d", before, got)
	}
}

func TestALabThatCannotBeMadeLeavesNothingBehind(t *testing.T) {
	_, err := New(t.Context(), Config{Nodes: 2, Binary: "/nonexistent/peervip"})
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/peervip") {
		t.Errorf("error %v does not name the program that is missing", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		New(t.Context(), Config{Agent: func(int, *AgentConfig) { panic("in the middle") }})
	}()
	if got := mine(t); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

// A lab that is killed outright takes its agents with it, and the next lab takes
// away the names of its namespaces.
func TestAKilledLabIsSweptAway(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asDoomedLab+"=1")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var name string
	var child int
	_, err = fmt.Fscan(out, &name, &child)
	must(t, errors.Join(err, cmd.Process.Kill()))
	cmd.Wait() // "signal: killed"

	must(t, Poll(patience(t), func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			return fmt.Errorf("the child of the killed lab lives: %s", stat)
		}
		return nil
	}))
	living, err := NewNamespace(UniquePrefix() + "n")
	must(t, err)
	defer living.Close()
	if got := named(t, name); len(got) != 1 {
		t.Fatalf("namespaces called %s: %v", name, got)
	}
	must(t, Sweep())
	if got := named(t, name); len(got) != 0 {
		t.Errorf("%v was not swept away", got)
	}
	if got := named(t, living.Name); len(got) != 1 {
		t.Errorf("a living lab's %s was swept away", living.Name)
	}
}

// FailNow inside Do ends the test, a panic inside it reaches the caller.
func TestPanicAndExitLeaveTheNamespace(t *testing.T) {
	ns, err := NewNamespace(UniquePrefix() + "n")
	must(t, err)
	defer ns.Close()
	func() {
		defer func() {
			if p, _ := recover().(string); !strings.HasPrefix(p, "ouch") {
				t.Errorf("recovered %q", p)
			}
		}()
		ns.Do(func() error { panic("ouch") })
	}()
	went := make(chan bool)
	go func() {
		defer close(went)
		ns.Do(func() error { runtime.Goexit(); return nil })
		went <- true
	}()
	if <-went {
		t.Error("Goexit inside Do did not end the caller")
	}
}

func TestProcessRunsInItsNamespace(t *testing.T) {
	ns, err := NewNamespace(UniquePrefix() + "n")
	must(t, err)
	defer ns.Close()
	p, err := startProcess(ns, exec.Command("sleep", "60"))
	must(t, err)
	must(t, Poll(patience(t), func() error { // it has little before it is loaded
		u, err := usage(p.pid())
		if err == nil && (u.RSS < 100_000 || u.CPU == 0 || u.CPU > time.Second) {
			err = fmt.Errorf("usage of a sleeping process: %+v", u)
		}
		return err
	}))
	out, err := exec.Command("ip", "netns", "identify", strconv.Itoa(p.pid())).Output()
	must(t, err)
	if got := strings.TrimSpace(string(out)); got != ns.Name {
		t.Errorf("it runs in %q, want %q", got, ns.Name)
	}
	must(t, p.signal(os.Kill))
	<-p.done
	if p.running() || p.err == nil {
		t.Errorf("killed, and running is %v, error %v", p.running(), p.err)
	}
	if _, err := startProcess(ns, exec.Command("/nonexistent")); err == nil {
		t.Error("a program that does not exist was started")
	}
}
