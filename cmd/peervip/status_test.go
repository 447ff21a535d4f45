package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/health"
)

func exampleNode(name, address string, own, flows int) agent.NodeStatus {
	return agent.NodeStatus{
		Name: name, Address: address, Phase: "active", Alive: true, Weight: 100,
		Services: map[string]agent.NodeServiceStatus{"other": {Healthy: true, Own: own, Flows: flows}},
	}
}

func exampleStatus() agent.Status {
	return agent.Status{
		Cluster: "web", Node: "web-1", Phase: "active", View: "9f2c1a2b3c4d5e6f", Agreed: true, Lease: "held",
		VIPs: []string{"192.0.2.100"}, MAC: "01:00:5e:7f:02:64",
		Nodes: []agent.NodeStatus{
			exampleNode("web-1", "192.0.2.11", 342, 12), exampleNode("web-2", "192.0.2.12", 341, 7), exampleNode("web-3", "192.0.2.13", 341, 1234567),
		},
		Services: []agent.ServiceStatus{{Name: "other", Buckets: 1024}},
		Counters: map[string]uint64{"accepted_packets": 123456, "dropped_packets": 234567},
	}
}

func TestStatusTable(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*agent.Status)
		want   string
	}{
		{"all is well", func(s *agent.Status) { s.Conntrack = &agent.ConntrackStatus{Count: 1234586, Max: 2097152} }, `
OK: node web-1 of cluster web is active
address 192.0.2.100 at 01:00:5e:7f:02:64, view 9f2c1a2b agreed
lease held
packets: 123456 accepted, 234567 dropped (the other nodes' share)
conntrack: 1234586 of 2097152 flows

  NODE   ADDRESS     PHASE   HEALTH  WEIGHT  BUCKETS  SHARE    FLOWS
* web-1  192.0.2.11  active  ok         100      342  33.4%       12
  web-2  192.0.2.12  active  ok         100      341  33.3%        7
  web-3  192.0.2.13  active  ok         100      341  33.3%  1234567
`},
		{"one is dead, one is sick, one is drained", func(s *agent.Status) {
			s.Nodes[0].Phase, s.Phase = "drained", "drained"
			s.Nodes[0].Services = map[string]agent.NodeServiceStatus{"other": {Healthy: true}}
			s.Nodes[1].Alive, s.Nodes[1].Wishes = false, []node.WishKind{"drain", "weight"}
			s.Nodes[1].Services = map[string]agent.NodeServiceStatus{"other": {}}
			s.Nodes[2].Weight = 1000
			s.Nodes[2].Services = map[string]agent.NodeServiceStatus{"other": {Own: 1000, Adopt: 24, Flows: 3}}
			s.Health = []agent.HealthStatus{
				{Service: "other", Result: health.Result{Check: "tcp 127.0.0.1:80", Reason: "connection refused", Tries: 3}},
				{Service: "other", Result: health.Result{Check: "tcp 127.0.0.1:81", OK: true, Tries: 3}},
				{Service: "other", Result: health.Result{Check: "tcp 127.0.0.1:82"}},
			}
			s.Problems = []string{
				"service other: this node is unfit: tcp 127.0.0.1:80: connection refused",
				"web-2 is silent or dead; its buckets have gone to the others until it is back",
			}
		}, `
2 PROBLEMS: node web-1 of cluster web is drained
address 192.0.2.100 at 01:00:5e:7f:02:64, view 9f2c1a2b agreed
lease held
packets: 123456 accepted, 234567 dropped (the other nodes' share)

  NODE   ADDRESS     PHASE    HEALTH  WEIGHT  BUCKETS   SHARE  FLOWS
* web-1  192.0.2.11  drained  ok         100        0    0.0%      0
  web-2  192.0.2.12  SILENT   -          100        0    0.0%      0
    will be told to drain when it comes back
    will be told its new weight when it comes back
  web-3  192.0.2.13  active   UNFIT     1000     1024  100.0%      3

check  other: tcp 127.0.0.1:80: connection refused

  !  service other: this node is unfit: tcp 127.0.0.1:80: connection refused
  !  web-2 is silent or dead; its buckets have gone to the others until it is
     back
`},
		{"what others have is not known, and one waits", func(s *agent.Status) {
			s.Nodes[1].Unknown = true
			s.Nodes[2].Phase, s.Nodes[2].Waiting = "draining", &agent.WaitingStatus{Flows: 3, Left: 280}
		}, `
OK: node web-1 of cluster web is active
address 192.0.2.100 at 01:00:5e:7f:02:64, view 9f2c1a2b agreed
lease held
packets: 123456 accepted, 234567 dropped (the other nodes' share)

  NODE   ADDRESS     PHASE     HEALTH  WEIGHT  BUCKETS  SHARE    FLOWS
* web-1  192.0.2.11  active    ok         100      342  33.4%       12
  web-2  192.0.2.12  active    ?          100        ?      ?        ?
  web-3  192.0.2.13  draining  ok         100      341  33.3%  1234567
    waiting for 3 open connections, at most 4m40s; ` + "`peervip drain web-3 --grace" + `
    0s` + "` ends them" + `
`},
		{"one has left and will be back", func(s *agent.Status) {
			s.Nodes[1] = agent.NodeStatus{Name: "web-2", Phase: "restarting", Services: map[string]agent.NodeServiceStatus{"other": {}}}
		}, `
OK: node web-1 of cluster web is active
address 192.0.2.100 at 01:00:5e:7f:02:64, view 9f2c1a2b agreed
lease held
packets: 123456 accepted, 234567 dropped (the other nodes' share)

  NODE   ADDRESS     PHASE       HEALTH  WEIGHT  BUCKETS  SHARE    FLOWS
* web-1  192.0.2.11  active      ok         100      342  33.4%       12
  web-2              restarting  -            0        0   0.0%        0
  web-3  192.0.2.13  active      ok         100      341  33.3%  1234567
`},
		{"nobody has some", func(s *agent.Status) {
			s.Agreed, s.Services[0].Unclaimed, s.Services[0].ClaimedTwice = false, 3, 5
			s.Nodes = s.Nodes[:1]
		}, `
NOT WELL, 3 of 1024 buckets unclaimed: node web-1 of cluster web is active
address 192.0.2.100 at 01:00:5e:7f:02:64, view 9f2c1a2b NOT AGREED
lease held
packets: 123456 accepted, 234567 dropped (the other nodes' share)

  NODE   ADDRESS     PHASE   HEALTH  WEIGHT  BUCKETS  SHARE  FLOWS
* web-1  192.0.2.11  active  ok         100      342  33.4%     12
`},
		{"long names and many addresses", func(s *agent.Status) {
			s.Node, s.Cluster = "frontend-01.example.com", strings.Repeat("c", 63)
			s.Nodes[0].Name, s.Nodes[1].Name, s.Nodes[2].Name = s.Node, "web-02.examp", strings.Repeat("n", 63)
			s.VIPs = []string{"192.0.2.100", "192.0.2.101", "192.0.2.102", "192.0.2.103", "192.0.2.104"}
			s.Nodes[0].Address, s.Nodes[2].Phase = "203.0.113.111", "restarting"
		}, `
OK: node frontend-01.example.com of cluster
ccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc is active
address 192.0.2.100, 192.0.2.101, 192.0.2.102, 192.0.2.103, 192.0.2.104 at
01:00:5e:7f:02:64, view 9f2c1a2b agreed
lease held
packets: 123456 accepted, 234567 dropped (the other nodes' share)

  NODE  ADDRESS        PHASE       HEALTH  WEIGHT  BUCKETS  SHARE    FLOWS
* frontend-01.example.com
        203.0.113.111  active      ok         100      342  33.4%       12
  web-02.examp
        192.0.2.12     active      ok         100      341  33.3%        7
  nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn
        192.0.2.13     restarting  ok         100      341  33.3%  1234567
`},
		{"beacons", func(s *agent.Status) {
			acked := 7.4
			s.Lease, s.Pauses = "waiting", agent.PausesStatus{Count: 2, Longest: 61.7}
			s.Nodes[1].Beacons = &agent.NodeBeacons{
				Standing: "alive", Wire: &agent.MediumStatus{Heard: 12.4}, Unicast: &agent.MediumStatus{Heard: 940}, Acked: &acked,
			}
			s.Nodes[2].Beacons = &agent.NodeBeacons{Standing: "dead", Unicast: &agent.MediumStatus{Heard: 61_000}, Waits: true}
		}, `
NOT WELL, this node is silent: node web-1 of cluster web is active
address 192.0.2.100 at 01:00:5e:7f:02:64, view 9f2c1a2b agreed
lease WAITING, this node is silent; 2 pauses so far, the longest 62ms
packets: 123456 accepted, 234567 dropped (the other nodes' share)

  NODE   ADDRESS     PHASE   HEALTH  WEIGHT  BUCKETS  SHARE    FLOWS
* web-1  192.0.2.11  active  ok         100      342  33.4%       12
  web-2  192.0.2.12  active  ok         100      341  33.3%        7
  web-3  192.0.2.13  active  ok         100      341  33.3%  1234567

beacons  web-2: on the wire 12ms ago, by unicast 940ms ago; heard this node 7ms
         ago
beacons  web-3: dead; on the wire never, by unicast 1m1s ago; hears nothing of
         this node; THE LEASE WAITS for it
`},
		{"nothing yet", func(s *agent.Status) {
			*s = agent.Status{Cluster: "web", Node: "web-1", Phase: "joining", Lease: "none", View: "0", Services: []agent.ServiceStatus{{Name: "other", Buckets: 16, Unclaimed: 16}},
				Nodes: []agent.NodeStatus{{Name: "web-1", Phase: "joining", Alive: true, Weight: 10}}, Problems: []string{"not serving yet: the seeds are being tried"}}
		}, `
NOT SERVING: node web-1 of cluster web is joining
address at , view 0 NOT AGREED
lease none
packets: 0 accepted, 0 dropped (the other nodes' share)

  NODE   ADDRESS  PHASE    HEALTH  WEIGHT  BUCKETS  SHARE  FLOWS
* web-1           joining  ok          10        0   0.0%      0

  !  not serving yet: the seeds are being tried
`},
	} {
		s := exampleStatus()
		test.change(&s)
		if diff := cmp.Diff(test.want[1:], statusTable(s)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", test.name, diff)
		}
	}
}

func TestVerdict(t *testing.T) {
	for want, change := range map[string]func(*agent.Status){
		"OK":                                    func(*agent.Status) {},
		"NOT SERVING":                           func(s *agent.Status) { s.Phase, s.Problems = "joining", []string{"x"} },
		"SETTLING":                              func(s *agent.Status) { s.Agreed = false },
		"NOT WELL, no beacon comes on the wire": func(s *agent.Status) { s.Alert, s.Problems = "no beacon comes on the wire", []string{"x"} },
		"1 PROBLEM":                             func(s *agent.Status) { s.Problems, s.Agreed = []string{"x"}, false },
		"3 PROBLEMS":                            func(s *agent.Status) { s.Problems = []string{"x", "y", "z"} },
		"NOT WELL, 5 of 1024 buckets claimed twice": func(s *agent.Status) { s.Services[0].ClaimedTwice, s.Problems = 5, []string{"x"} },
		"NOT WELL, 2 of 1024 buckets unclaimed":     func(s *agent.Status) { s.Services[0].Unclaimed, s.Services[0].ClaimedTwice = 2, 5 },
	} {
		s := exampleStatus()
		change(&s)
		if got := s.Verdict(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// "status fits 80 columns", whatever the names, and shows each name whole.
func TestStatusFitsTheScreen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[A-Za-z0-9._-]{1,63}`)
		count := rapid.IntRange(0, 1<<30)
		s := exampleStatus()
		s.Cluster, s.Services[0].Buckets = name.Draw(t, "cluster"), 16384
		s.Nodes = nil
		for range rapid.IntRange(1, 8).Draw(t, "nodes") {
			n := exampleNode(name.Draw(t, "name"), rapid.SampledFrom([]string{"192.0.2.1", "255.255.255.255", ""}).Draw(t, "address"),
				rapid.IntRange(0, 16384).Draw(t, "own"), count.Draw(t, "flows"))
			n.Phase = rapid.SampledFrom([]string{"active", "restarting", "leaving"}).Draw(t, "phase")
			n.Alive, n.Weight = rapid.Bool().Draw(t, "alive"), rapid.IntRange(10, 1000).Draw(t, "weight")
			s.Nodes = append(s.Nodes, n)
		}
		s.Node = s.Nodes[0].Name
		s.Counters["accepted_packets"], s.Counters["dropped_packets"] = rapid.Uint64().Draw(t, "accepted"), rapid.Uint64().Draw(t, "dropped")
		s.Problems = rapid.SliceOf(rapid.StringMatching(`([a-zé\x1b]{1,60} ){0,9}`)).Draw(t, "problems")
		table := statusTable(s)
		for line := range strings.SplitSeq(table, "\n") {
			if n := utf8.RuneCountInString(line); n > screenWidth {
				t.Fatalf("%d columns: %s", n, line)
			}
			if strings.TrimRight(line, " ") != line && !strings.Contains(line, "!") {
				t.Fatalf("blanks at the end of %q", line)
			}
		}
		if strings.Contains(table, "\x1b") {
			t.Fatal("the terminal is commanded")
		}
		for _, n := range s.Nodes {
			if !strings.Contains(table, n.Name) {
				t.Fatalf("%s is not shown whole", n.Name)
			}
		}
	})
}

func TestStatusCommand(t *testing.T) {
	f := newFakeAgent(t)
	f.statuses = []agent.Status{exampleStatus()}
	stdout, stderr, err := f.run(t, "status")
	if err != nil || stderr != "" || stdout != statusTable(exampleStatus()) {
		t.Errorf("%q, %q, %v", stdout, stderr, err)
	}
	stdout, _, err = f.run(t, "status", "-o", "json")
	var got agent.Status
	if err != nil || json.Unmarshal([]byte(stdout), &got) != nil {
		t.Fatalf("%q, %v", stdout, err)
	}
	if diff := cmp.Diff(exampleStatus(), got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if _, _, err = f.run(t, "status", "-o", "xml"); exitCode(err) != exitUsage {
		t.Errorf("-o xml: %v", err)
	}
	if _, _, err = f.run(t, "status", "web-1"); exitCode(err) != exitUsage {
		t.Errorf("an argument: %v", err)
	}
	root := newRootCommand()
	root.SetOut(brokenWriter{})
	root.SetArgs([]string{"status", "--socket", f.socket})
	if err := root.Execute(); err == nil || err.Error() != "writing the status: disk full" {
		t.Errorf("to a full disk: %v", err)
	}
}

// The exit code of `status --check`, as the process has it.
func TestStatusCheckExitCode(t *testing.T) {
	well, problems, alert, joining := exampleStatus(), exampleStatus(), exampleStatus(), exampleStatus()
	well.Problems, well.Alert = nil, ""
	problems.Problems, problems.Alert = []string{"one"}, ""
	alert.Problems, alert.Alert = []string{"one"}, "strangers on the wire"
	joining.Problems, joining.Phase = []string{"not serving yet"}, "joining"
	for _, test := range []struct {
		name   string
		status agent.Status
		args   []string
		want   int
	}{
		{"well", well, nil, 0},
		{"problems", problems, nil, 1},
		{"not well", alert, nil, 2},
		{"not serving", joining, nil, 2},
		{"a wrong flag", well, []string{"--chek"}, 3},
		{"a wrong value", well, []string{"-o", "xml"}, 3},
		{"an argument", well, []string{"web-1"}, 3},
		{"with --watch", well, []string{"--watch"}, 3},
		{"no agent", well, []string{"--socket", "/nonexistent/s"}, 3},
	} {
		f := newFakeAgent(t)
		f.statuses = []agent.Status{test.status}
		root := newRootCommand()
		root.SetOut(io.Discard)
		args := append([]string{"status", "--check", "--socket", f.socket}, test.args...)
		root.SetArgs(args)
		cmd, err := root.ExecuteC()
		if code := commandCode(cmd, args, err); code != test.want {
			t.Errorf("%s: exit code %d (%v), want %d", test.name, code, err, test.want)
		}
	}
}

// A watch outlives the agent that it watches.
func TestWatchWaitsForTheAgent(t *testing.T) {
	gone := fmt.Errorf("%w at /s: start it", agent.ErrNotRunning)
	again := exampleStatus()
	again.Phase = "joining"
	for _, o := range []output{outputTable, outputJSON} {
		ctx, cancel := context.WithCancel(t.Context())
		client := &script{steps: []step{{status: exampleStatus()}, {err: gone}, {err: gone}, {status: again}}}
		var errs bytes.Buffer
		seen := &notingWriter{text: "joining", seen: cancel} // that is Ctrl-C
		w := watcher{client: client, output: o, out: seen, errors: &errs, period: quick}
		done := make(chan error, 1)
		go func() { done <- w.run(ctx) }()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it goes on")
		}
		if o == outputJSON {
			d := json.NewDecoder(&seen.all)
			for _, phase := range []string{"active", "joining"} {
				var s agent.Status
				if err := d.Decode(&s); err != nil || s.Phase != phase {
					t.Errorf("%s, %v, want %s", s.Phase, err, phase)
				}
			}
			if errs.String() != strings.Repeat("peervip: "+gone.Error()+"\n", 2) {
				t.Errorf("on the error output: %q", errs.String())
			}
			continue
		}
		table, message := redraw+statusTable(exampleStatus()), redraw+"peervip: "+gone.Error()+"\n"
		if text := seen.all.String(); !strings.HasPrefix(text, table+message+message+redraw+statusTable(again)) || errs.Len() > 0 {
			t.Errorf("%q, %q", text, errs.String())
		}
	}
}

// notingWriter calls seen when the text goes by.
type notingWriter struct {
	all  bytes.Buffer
	text string
	seen func()
}

func (w *notingWriter) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(w.text)) {
		w.seen()
	}
	return w.all.Write(p)
}

func TestWatchEndsWithItsScreen(t *testing.T) {
	w := watcher{client: &script{steps: []step{{status: exampleStatus()}}}, output: outputTable, out: brokenWriter{}, period: quick}
	if err := w.run(t.Context()); err == nil || err.Error() != "writing the status: disk full" {
		t.Errorf("%v", err)
	}
	w.client, w.output, w.errors = &script{steps: []step{{err: errors.New("x")}}}, outputJSON, brokenWriter{}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.run(ctx); err != nil {
		t.Errorf("%v", err)
	}
}

// The verdict stays on a screen that is too small for the rest.
func TestWatchOnASmallScreen(t *testing.T) {
	s := exampleStatus()
	whole := statusTable(s)
	for rows, want := range map[int]int{0: 9, 2: 9, 40: 9, 10: 9, 9: 8, 5: 4, 3: 2} {
		var out bytes.Buffer
		w := watcher{out: &out, output: outputTable, rows: func() int { return rows }}
		if err := w.show(s, nil); err != nil {
			t.Fatal(err)
		}
		text := strings.TrimPrefix(out.String(), redraw)
		if n := strings.Count(text, "\n"); n != want || !strings.HasPrefix(text, "OK: node web-1") || (want < 9) != strings.Contains(text, "lines more: `peervip status` shows all") {
			t.Errorf("%d rows: %d lines, want %d:\n%s", rows, n, want, text)
		}
	}
	if n := strings.Count(whole, "\n"); n != 9 {
		t.Errorf("the test takes the table for one of 9 lines, and it has %d", n)
	}
}
