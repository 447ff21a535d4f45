package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/peervip/peervip/agent"
)

// phased is the status of a cluster in which web-2 is in that phase.
func phased(phase string, own, flows int) step {
	s := exampleStatus()
	s.Nodes[1].Phase = phase
	s.Nodes[1].Services = map[string]agent.NodeServiceStatus{"other": {Healthy: true, Own: own, Flows: flows}}
	return step{status: s}
}

// waits makes web-2 wait for so many flows and seconds.
func waits(s step, flows int, left float64) step {
	s.status.Nodes[1].Waiting = &agent.WaitingStatus{Flows: flows, Left: left}
	return s
}

func TestDrainWait(t *testing.T) {
	dead, gone := phased("draining", 0, 0), phased("draining", 0, 0)
	dead.status.Nodes[1].Alive = false
	gone.status.Nodes = slices.Delete(gone.status.Nodes, 1, 2)
	away := fmt.Errorf("%w at /s", agent.ErrNotRunning)
	restarts := phased("restarting", 0, 5)
	restarts.status.Nodes[1].Alive = false // it has left, and is waited for
	lingers := phased("drained", 0, 7)
	lingers.status.Nodes[1].Services["other"] = agent.NodeServiceStatus{Healthy: true, Linger: 300, Flows: 7}
	for _, test := range []struct {
		name     string
		steps    []step
		progress string
		want     string // the error
	}{
		{"to its end",
			[]step{phased("draining", 341, 7), phased("draining", 341, 7), phased("draining", 20, 5), phased("drained", 0, 0)},
			"web-2: draining, 341 buckets left\nweb-2: draining, 20 buckets left\n", ""},
		{"by force",
			[]step{phased("drained", 341, 7), lingers, phased("drained", 0, 0)},
			"web-2: drained, 341 buckets left\nweb-2: drained, 0 buckets left, and open connections in 300\n", ""},
		{"it waits, and is then given less time",
			[]step{phased("draining", 341, 7), waits(phased("draining", 0, 9), 3, 280), waits(phased("draining", 0, 9), 3, 279), waits(phased("draining", 0, 9), 2, 278),
				waits(phased("draining", 0, 9), 1, 30), phased("drained", 0, 0)},
			"web-2: draining, 341 buckets left\nweb-2: draining, 0 buckets left, waiting for 3 open connections, at most 4m40s\n" +
				"web-2: draining, 0 buckets left, waiting for 2 open connections, at most 4m38s\nweb-2: draining, 0 buckets left, waiting for 1 open connection, at most 30s\n", ""},
		{"drained already", []step{phased("drained", 0, 0)}, "", ""},
		{"what the others know lags behind",
			[]step{phased("active", 341, 7), phased("active", 341, 7), phased("draining", 341, 7), phased("drained", 0, 0)},
			"web-2: active, 341 buckets left\nweb-2: draining, 341 buckets left\n", ""},
		{"of a node that joins", []step{phased("joining", 0, 0), phased("draining", 0, 0), phased("drained", 0, 0)},
			"web-2: joining, 0 buckets left\nweb-2: draining, 0 buckets left\n", ""},
		{"somebody resumes it", []step{phased("draining", 341, 7), phased("active", 300, 7)},
			"web-2: draining, 341 buckets left\n", "web-2 is active: somebody ended its drain"},
		{"it dies", []step{phased("draining", 341, 7), dead},
			"web-2: draining, 341 buckets left\n", "web-2 died while it drained; it stays drained when it comes back"},
		{"it leaves", []step{phased("leaving", 341, 7)}, "", "web-2 leaves"},
		{"it is gone", []step{gone}, "", "web-2 is no member any more"},
		{"it restarts", []step{phased("draining", 0, 5), phased("restarting", 0, 5), restarts, phased("joining", 0, 0), phased("draining", 0, 5), phased("drained", 0, 0)},
			"web-2: draining, 0 buckets left\nweb-2: restarting; it goes on to drain when it is back\n" +
				"web-2: joining, 0 buckets left\nweb-2: draining, 0 buckets left\n", ""},
		{"it restarts, and is the one that is asked", []step{phased("restarting", 0, 5), {err: away}, {err: agent.ErrUnavailable}, phased("drained", 0, 0)},
			"web-2: restarting; it goes on to drain when it is back\n", ""},
		{"it restarts, and does not come back", []step{restarts, gone},
			"web-2: restarting; it goes on to drain when it is back\n", "web-2 is no member any more"},
		{"the agent here ends", []step{phased("draining", 341, 7), {err: away}},
			"web-2: draining, 341 buckets left\n", "web-2 drains, but the wait for it has ended: no agent runs at /s"},
	} {
		var told bytes.Buffer
		d := drainWait{client: &script{steps: test.steps}, node: "web-2", progress: progress{out: &told}, period: quick}
		err := d.run(t.Context())
		if text := fmt.Sprint(err); text != test.want && (err != nil || test.want != "") {
			t.Errorf("%s: %s, want %s", test.name, text, test.want)
		}
		if told.String() != test.progress {
			t.Errorf("%s: %q, want %q", test.name, told.String(), test.progress)
		}
	}
	late := errors.New("too late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, late)
	defer cancel()
	d := drainWait{client: &script{steps: []step{phased("draining", 341, 7)}}, node: "web-2", progress: progress{out: &bytes.Buffer{}}, period: quick}
	if err := d.run(ctx); !errors.Is(err, late) {
		t.Errorf("a drain without end: %v", err)
	}
	d.progress = progress{out: brokenWriter{}}
	if err := d.run(t.Context()); err == nil || err.Error() != "writing the progress: disk full" {
		t.Errorf("to a full disk: %v", err)
	}
}

func TestDrainCommand(t *testing.T) {
	ok := agent.Reply{Node: "web-2"}
	kept := agent.Reply{Node: "web-2", Note: "web-2 is down; it will be told when it comes back", Kept: true}
	unsaved := agent.Reply{Node: "web-2", Note: "done, but a restart would forget it: disk full"}
	steps := []step{phased("draining", 341, 7), phased("drained", 0, 0)}
	const progress = "web-2: draining, 341 buckets left\n"
	for _, test := range []struct {
		args   []string
		reply  any
		stdout string
		asked  string
	}{
		{[]string{"drain", "web-2"}, ok, "web-2 drains; see `peervip status`\n", `{"node":"web-2","want":"drain"}`},
		{[]string{"drain"}, ok, "web-2 drains; see `peervip status`\n", `{"node":"","want":"drain"}`},
		{[]string{"drain", "--force", "web-2"}, ok, "web-2 drains; see `peervip status`\n", `{"node":"web-2","want":"drain","force":true}`},
		{[]string{"drain", "--grace", "30s", "web-2"}, ok, "web-2 drains; see `peervip status`\n", `{"node":"web-2","want":"drain","grace_ns":30000000000}`},
		{[]string{"drain", "--grace", "0s"}, ok, "web-2 drains; see `peervip status`\n", `{"node":"","want":"drain","grace_ns":0}`},
		{[]string{"drain", "web-2", "-o", "json"}, ok, "{\n  \"node\": \"web-2\"\n}\n", `{"node":"web-2","want":"drain"}`},
		{[]string{"drain", "web-2"}, kept, kept.Note + "\n", `{"node":"web-2","want":"drain"}`},
		{[]string{"drain", "web-2", "--wait"}, kept, kept.Note + "\n", `{"node":"web-2","want":"drain"}`},
		{[]string{"drain", "--wait"}, ok, progress + "web-2 is drained\n", `{"node":"","want":"drain"}`},
		{[]string{"drain", "--wait", "--timeout", "1m", "-o", "json"}, ok, "{\n  \"node\": \"web-2\"\n}\n", `{"node":"","want":"drain"}`},
		{[]string{"drain", "--wait"}, unsaved, progress + unsaved.Note + "\n", `{"node":"","want":"drain"}`},
	} {
		f := newFakeAgent(t)
		f.on("POST /v1/wish", http.StatusOK, test.reply)
		for _, s := range steps {
			f.statuses = append(f.statuses, s.status)
		}
		stdout, stderr, err := f.run(t, test.args...)
		if err != nil || stderr != "" || stdout != test.stdout {
			t.Errorf("%v: %q, %q, %v, want %q", test.args, stdout, stderr, err, test.stdout)
		}
		if asked := f.requests()[0]; asked != "POST /v1/wish "+test.asked {
			t.Errorf("%v asks %s, want %s", test.args, asked, test.asked)
		}
	}
	f := newFakeAgent(t)
	f.on("POST /v1/wish", http.StatusConflict, agent.Reply{Error: "no node is named \"web-9\"; `peervip status` lists them"})
	if _, _, err := f.run(t, "drain", "web-9", "--wait"); err == nil || err.Error() != "no node is named \"web-9\"; `peervip status` lists them" || exitCode(err) != exitFailure {
		t.Errorf("an unknown node: %v", err)
	}
	f.on("POST /v1/wish", http.StatusOK, ok)
	f.statuses = []agent.Status{phased("draining", 341, 7).status}
	stdout, _, err := f.run(t, "drain", "--wait", "--timeout", "300ms")
	if err == nil || err.Error() != "web-2 is not drained after 300ms; it goes on, see `peervip status`" || stdout != progress {
		t.Errorf("a drain without end: %q, %v", stdout, err)
	}
}

// What is wrong on the command line never reaches an agent.
func TestUsageOfCommands(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"drain", "web-1", "web-2"}, "want `peervip drain [NODE]`, got 2 arguments (see peervip drain --help)"},
		{[]string{"drain", ""}, "the node's name is empty: name one, or leave it out for this node (see peervip drain --help)"},
		{[]string{"drain", "--timeout", "1m"}, "--timeout is for --wait (see peervip drain --help)"},
		{[]string{"drain", "--wait", "--timeout", "0"}, "--timeout 0s: want more than 0 (see peervip drain --help)"},
		{[]string{"drain", "--wait", "--timeout", "-1s"}, "--timeout -1s: want more than 0 (see peervip drain --help)"},
		{[]string{"drain", "--grace", "-1s"}, "--grace -1s: want 0s (open connections are ended at once) to 168h0m0s (see peervip drain --help)"},
		{[]string{"drain", "--grace", "169h"}, "--grace 169h0m0s: want 0s (open connections are ended at once) to 168h0m0s (see peervip drain --help)"},
		{[]string{"leave", "--now", "--keep-flows"}, "--keep-flows keeps open connections, and --now ends them: give one of the two (see peervip leave --help)"},
		{[]string{"resume", ""}, "the node's name is empty: name one, or leave it out for this node (see peervip resume --help)"},
		{[]string{"resume", "a", "b"}, "want `peervip resume [NODE]`, got 2 arguments (see peervip resume --help)"},
		{[]string{"weight", "web-1"}, "want `peervip weight NODE N`, got 1 argument (see peervip weight --help)"},
		{[]string{"weight", "", "10"}, "the node's name is empty: name one, or leave it out for this node (see peervip weight --help)"},
		{[]string{"weight", "web-1", "0"}, `weight "0": want a number from 1 to 1000 (see peervip weight --help)`},
		{[]string{"weight", "web-1", "1001"}, `weight "1001": want a number from 1 to 1000 (see peervip weight --help)`},
		{[]string{"weight", "web-1", "1e2"}, `weight "1e2": want a number from 1 to 1000 (see peervip weight --help)`},
		{[]string{"join"}, "want `peervip join ADDR...`, got 0 arguments (see peervip join --help)"},
		{[]string{"join", "192.0.2.12", ""}, "an address is empty: give host or host:port (see peervip join --help)"},
		{[]string{"leave", "web-1"}, "want `peervip leave`, got 1 argument (see peervip leave --help)"},
		{[]string{"explain"}, "want `peervip explain ADDR[:PORT]`, got 0 arguments (see peervip explain --help)"},
		{[]string{"status", "-o", "yaml"}, `invalid argument "yaml" for "-o, --output" flag: want table or json (see peervip status --help)`},
	} {
		f := newFakeAgent(t)
		stdout, _, err := f.run(t, test.args...)
		if err == nil || err.Error() != test.want || exitCode(err) != exitUsage || stdout != "" {
			t.Errorf("%v: %q, %v, exit code %d, want %s", test.args, stdout, err, exitCode(err), test.want)
		}
		if asked := f.requests(); len(asked) > 0 {
			t.Errorf("%v asks %v", test.args, asked)
		}
	}
}

// Each command says how to start an agent that does not run.
func TestCommandsWithoutAnAgent(t *testing.T) {
	for _, args := range [][]string{
		{"status"}, {"drain"}, {"resume"}, {"leave"}, {"join", "192.0.2.1"}, {"explain", "192.0.2.1"}, {"weight", "web-1", "10"},
	} {
		_, _, err := runCommand(t, newRootCommand(), append(args, "--socket", "/nonexistent/s")...)
		if want := "no agent runs at /nonexistent/s: start it with `systemctl start peervip` or `peervip agent`, or name its socket with --socket"; err == nil || err.Error() != want || exitCode(err) != exitFailure {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestOtherCommands(t *testing.T) {
	explanation := agent.Explanation{
		Client: "192.0.2.7", Service: "other", Bucket: 5, Buckets: 16, Owner: "web-1", Holders: []string{"web-1", "web-2"},
		State: "own", Node: "web-1", Why: "its place among the nodes that are fit; claimed twice, about to be settled",
	}
	for _, test := range []struct {
		args    []string
		request string
		reply   any
		asked   string
		stdout  string
	}{
		{[]string{"resume", "web-2"}, "POST /v1/wish", agent.Reply{Node: "web-2"}, `POST /v1/wish {"node":"web-2","want":"resume"}`, "web-2 takes its share back\n"},
		{[]string{"resume"}, "POST /v1/wish", agent.Reply{Node: "web-1"}, `POST /v1/wish {"node":"","want":"resume"}`, "web-1 takes its share back\n"},
		{[]string{"weight", "web-2", "57"}, "POST /v1/wish", agent.Reply{Node: "web-2"}, `POST /v1/wish {"node":"web-2","want":"weight","weight":57}`,
			"web-2 has weight 60 until its restart; for good: node.weight in its configuration\n"},
		{[]string{"weight", "web-2", "1"}, "POST /v1/wish", agent.Reply{Node: "web-2", Note: "web-2 is down; it will be told when it comes back", Kept: true},
			`POST /v1/wish {"node":"web-2","want":"weight","weight":1}`, "web-2 is down; it will be told when it comes back\n"},
		{[]string{"join", "192.0.2.12", "web-3:7000"}, "POST /v1/join", agent.Reply{Node: "web-1", Note: "reached 2 nodes"},
			`POST /v1/join {"seeds":["192.0.2.12","web-3:7000"]}`, "reached 2 nodes\n"},
		{[]string{"join", "192.0.2.12", "-o", "json"}, "POST /v1/join", agent.Reply{Node: "web-1", Note: "reached 1 node"},
			`POST /v1/join {"seeds":["192.0.2.12"]}`, "{\n  \"note\": \"reached 1 node\",\n  \"node\": \"web-1\"\n}\n"},
		{[]string{"explain", "192.0.2.7:80"}, "GET /v1/explain", explanation, "GET /v1/explain?addr=192.0.2.7%3A80&service=", `client    192.0.2.7
service   other
bucket    5 of 0-15
owner     web-1
held by   web-1, web-2
here      own (in the kernel of web-1)
why       its place among the nodes that are fit; claimed twice, about to be settled
`},
		{[]string{"explain", "192.0.2.7", "--service", "other"}, "GET /v1/explain",
			agent.Explanation{Client: "192.0.2.7", Service: "other", Buckets: 16, State: "none", Node: "web-1", Why: "no node serves"},
			"GET /v1/explain?addr=192.0.2.7&service=other", `client    192.0.2.7
service   other
bucket    0 of 0-15
owner     nobody
held by   nobody
here      none (in the kernel of web-1)
why       no node serves
`},
	} {
		f := newFakeAgent(t)
		f.on(test.request, http.StatusOK, test.reply)
		stdout, stderr, err := f.run(t, test.args...)
		if err != nil || stderr != "" || stdout != test.stdout {
			t.Errorf("%v: %q, %q, %v, want %q", test.args, stdout, stderr, err, test.stdout)
		}
		if asked := f.requests(); !slices.Equal(asked, []string{test.asked}) {
			t.Errorf("%v asks %q, want %q", test.args, asked, test.asked)
		}
	}
	f := newFakeAgent(t)
	f.on("GET /v1/explain", http.StatusOK, explanation)
	if stdout, _, err := f.run(t, "explain", "192.0.2.7", "-o", "json"); err != nil || !strings.Contains(stdout, `"holders": [`) {
		t.Errorf("%q, %v", stdout, err)
	}
}

func booted(boot string) step {
	s := exampleStatus()
	s.Boot = boot
	return step{status: s}
}

// Leaving ends with the agent that was asked, whatever comes after it.
func TestLeave(t *testing.T) {
	away := step{err: fmt.Errorf("%w at /s", agent.ErrNotRunning)}
	stopping := step{err: fmt.Errorf("at the end: %w", agent.ErrUnavailable)}
	for _, test := range []struct {
		name  string
		keep  bool
		steps []step
		note  string
		want  string // the error
	}{
		{"for good", false, []step{booted("1"), booted("1"), booted("1"), stopping, stopping, away}, "", ""},
		{"restarted between two looks", false, []step{booted("1"), booted("1"), booted("2")},
			"web-1 has left, and was started again: to keep it out, stop its service, or drain it", ""},
		{"for a restart", true, []step{booted("1"), stopping, away}, "", ""},
		{"for a restart, and restarted", true, []step{booted("1"), booted("2")}, "web-1 was started again, with its open connections", ""},
		{"never", false, []step{booted("1")}, "", "web-1 has not left after 30ms: see its log"},
		{"hung at the end", false, []step{booted("1"), stopping}, "", "web-1 has not left after 30ms: see its log"},
		{"not running", false, []step{away}, "", "no agent runs at /s"},
	} {
		client := &script{steps: test.steps}
		timeout := 20 * time.Second
		if test.want != "" {
			timeout = 30 * time.Millisecond
		}
		r, err := leave(t.Context(), client, agent.LeaveRequest{KeepFlows: test.keep}, &progress{out: io.Discard}, quick, timeout)
		if text := fmt.Sprint(err); text != test.want && (err != nil || test.want != "") || r.Note != test.note {
			t.Errorf("%s: %+v, %v, want %q, %q", test.name, r, err, test.note, test.want)
		}
		if asked := client.left; (asked != nil) != (test.name != "not running") || asked != nil && asked.KeepFlows != test.keep {
			t.Errorf("%s: it was asked %+v", test.name, asked)
		}
	}
}

func TestLeaveCommand(t *testing.T) {
	for _, test := range []struct {
		args         []string
		stdout, body string
	}{
		{[]string{"leave"}, "web-1 has left, and was started again: to keep it out, stop its service, or drain it\n", "{}"},
		{[]string{"leave", "--now"}, "web-1 has left, and was started again: to keep it out, stop its service, or drain it\n", `{"now":true}`},
		{[]string{"leave", "--keep-flows"}, "web-1 was started again, with its open connections\n", `{"keep_flows":true}`},
	} {
		f := newFakeAgent(t)
		f.statuses = []agent.Status{booted("1").status, booted("1").status, booted("2").status}
		f.on("POST /v1/leave", http.StatusOK, agent.Reply{Node: "web-1"})
		stdout, _, err := f.run(t, test.args...)
		if err != nil || stdout != test.stdout {
			t.Errorf("%v: %q, %v", test.args, stdout, err)
		}
		if asked := f.requests(); !slices.Equal(asked, []string{"GET /v1/status", "POST /v1/leave " + test.body, "GET /v1/status", "GET /v1/status"}) {
			t.Errorf("%v asks %q", test.args, asked)
		}
	}
}
