package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// busyFor is how long the machine is kept busy.
const busyFor = time.Minute

// With each processor claimed by two programs that never rest, three agents with the
// default detection hold nobody dead, and none of them pauses. The agents are as
// they are delivered: the race detector would make them ten times as heavy. No other
// test runs beside this one. Where the host of a virtual machine takes the processors
// away, a node may pause each time, since nothing here can be on time then.
func TestOnTimeOnABusyMachine(t *testing.T) {
	binary, err := measured()
	must(t, err)
	l, err := lab.New(t.Context(), lab.Config{Binary: binary, Nodes: 3})
	must(t, err)
	t.Cleanup(func() { finish(t, l, t.Failed()) })
	start(t, l.Nodes...)
	settle(t, l, l.Nodes...)
	before := make([]timeliness, len(l.Nodes))
	for i, n := range l.Nodes {
		before[i] = timelinessOf(t, n)
	}

	host := watchHost(t)
	rest := hog(t, 2*runtime.NumCPU())
	time.Sleep(busyFor)
	rest()
	away := host.end()
	t.Logf("the host had the processors %d times for over %v", away, hostTook)

	for i, n := range l.Nodes {
		after := timelinessOf(t, n)
		t.Logf("%s: beacons late by at most %.1f ms, %d pauses", n.Name, after.Beacons.LateMax, after.Pauses.Count-before[i].Pauses.Count)
		if pauses := after.Pauses.Count - before[i].Pauses.Count; pauses > away {
			t.Errorf("%s paused %d times, the longest for %v ms", n.Name, pauses, after.Pauses.Longest)
		}
		if strings.Contains(n.Log(), "is silent or dead") {
			t.Errorf("%s held somebody dead", n.Name)
		}
	}
	settle(t, l, l.Nodes...)
}

// timeliness is the part of a status that tells how an agent keeps time.
type timeliness struct {
	Pauses struct {
		Count   uint64  `json:"count"`
		Longest float64 `json:"longest_ms"`
	} `json:"pauses"`
	Beacons struct {
		LateMax float64 `json:"late_max_ms"`
	} `json:"beacons"`
}

func timelinessOf(t *testing.T, n *lab.Node) timeliness {
	t.Helper()
	var s timeliness
	must(t, json.Unmarshal([]byte(run(t, n, "status", "-o", "json")), &s))
	return s
}

// hog starts that many programs that use all the time they get, at the priority of
// ordinary programs.
func hog(t *testing.T, programs int) (rest func()) {
	t.Helper()
	var hogs []*exec.Cmd
	rest = func() {
		for _, h := range hogs {
			h.Process.Kill()
			h.Wait() // it says only that it was killed
		}
		hogs = nil
	}
	t.Cleanup(func() { rest() })
	for i := range programs {
		h := exec.Command("sh", "-c", "while :; do :; done")
		h.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := h.Start(); err != nil {
			t.Fatal(fmt.Errorf("starting hog %d: %w", i, err))
		}
		hogs = append(hogs, h)
	}
	return rest
}
