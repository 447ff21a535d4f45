package lab

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// talk starts the talkers and waits until every source has been answered.
func talk(t *testing.T, l *Lab) *Talkers {
	t.Helper()
	talkers, err := l.Talk(TalkConfig{Interval: 5 * ms})
	must(t, err)
	t.Cleanup(talkers.Stop)
	waitAnswered(t, l, talkers)
	return talkers
}

// waitAnswered waits until every source is being answered.
func waitAnswered(t *testing.T, l *Lab, talkers *Talkers) {
	t.Helper()
	from := l.Now()
	must(t, Poll(patience(t), func() error {
		for i, trace := range talkers.Traces() {
			if trace.during(Window{from, l.Now()}).ServedBy(l.Now()) == 0 {
				return fmt.Errorf("source %d is not answered", i)
			}
		}
		return nil
	}))
}

func TestSourcesAreSharedAndEachAnsweredOnce(t *testing.T) {
	l := newLab(t, 3, MaxSources)
	talkers := talk(t, l)
	w := l.during(func() { time.Sleep(500 * ms) })
	talkers.Stop()
	r := talkers.Report(w, nil)
	if r.Lost != 0 || r.Twice != 0 || r.Others.Sources != MaxSources || r.Affected.Sources != 0 {
		t.Errorf("in steady state: %+v", r)
	}
	for _, n := range l.Nodes {
		if r.Sources[n.ID()] < 5 || r.Answers[n.ID()] == 0 {
			t.Errorf("%s serves %d sources with %d answers", n.Name, r.Sources[n.ID()], r.Answers[n.ID()])
		}
	}
	if r.Sent < 500 {
		t.Errorf("%d datagrams sent in %v", r.Sent, w.To-w.From)
	}
}

func TestAnswersOfTwoNodesAreCounted(t *testing.T) {
	l := newLab(t, 2, 16)
	talkers := talk(t, l)
	own(t, l.Nodes[1], 0, 1) // all of them, node-1's too
	time.Sleep(50 * ms)
	w := l.during(func() { time.Sleep(300 * ms) })
	own(t, l.Nodes[1], 1)
	time.Sleep(50 * ms)
	after := l.during(func() { time.Sleep(100 * ms) })
	talkers.Stop()
	r := talkers.Report(w, nil)
	// Whoever node-1 serves is answered by both.
	both := 0
	for i, trace := range talkers.Traces() {
		asked := trace.during(w)
		twice := 0
		for _, a := range asked {
			if a.Again != 0 {
				twice++
			}
		}
		if twice != 0 && twice != len(asked) {
			t.Errorf("source %d: %d of %d datagrams answered twice, want all or none", i, twice, len(asked))
		}
		both += twice
	}
	if both == 0 || r.Twice != both {
		t.Errorf("%d answered twice, the report says %d", both, r.Twice)
	}
	byWhom := r.Doubles[[2]NodeID{1, 2}] + r.Doubles[[2]NodeID{2, 1}]
	if byWhom != r.Twice {
		t.Errorf("%d answered twice, by whom: %v", r.Twice, r.Doubles)
	}
	if r := talkers.Report(after, nil); r.Twice != 0 {
		t.Errorf("%d answered twice after it was over", r.Twice)
	}
}

func TestAGapOfKnownLengthIsMeasured(t *testing.T) {
	l := newLab(t, 2, 16)
	talkers := talk(t, l)
	const gap = 300 * ms
	var w Window
	// A source that does not ask hears no silence: on a loaded machine, look again.
	for range 20 {
		w = l.during(func() {
			own(t, l.Nodes[0])
			time.Sleep(gap)
			own(t, l.Nodes[0], 0)
			waitAnswered(t, l, talkers)
		})
		if talkers.Report(w, nil).Pause < 50*ms {
			break
		}
	}
	talkers.Stop()
	r := talkers.Report(w, l.Nodes[0])
	if r.Affected.Sources == 0 || r.Affected.Noticed != r.Affected.Sources || r.Lost == 0 {
		t.Errorf("every source of the silent node should have noticed: %+v", r)
	}
	// A source asks every 5 ms: the silence that it sees is shorter by so much.
	if got := r.Affected.Longest.Median; got < gap-20*ms-r.Pause || got > w.To-w.From {
		t.Errorf("a gap of %v, and not more than %v, was measured as %v", gap, w.To-w.From, got)
	}
	for i, trace := range talkers.Traces() {
		if by := trace.ServedBy(w.From); by != l.Nodes[0].ID() && trace.ServedBy(w.To) == by {
			if r := reportTalk([]Trace{trace}, w, 0, l.Now()); r.Lost > 0 {
				t.Errorf("source %d, of the other node, lost %d datagrams", i, r.Lost)
			}
		}
	}
}

func TestVisitsAreServedFailedResetAndRetransmitted(t *testing.T) {
	l := newLab(t, 1, 8)
	n := l.Nodes[0]
	browse := func() BrowseReport {
		b := l.Browse(BrowseConfig{Interval: 10 * ms, Timeout: 1500 * ms})
		w := l.during(func() { time.Sleep(200 * ms) })
		b.Stop()
		return b.Report(w)
	}
	if r := browse(); r.Begun == 0 || r.By[n.ID()] != r.Begun || r.Took.Max == 0 {
		t.Errorf("all well: %+v", r)
	}
	rules := func(rule string) {
		t.Helper()
		for _, cmd := range []string{"add table inet hand", "flush table inet hand",
			"add chain inet hand input { type filter hook input priority 0; }", rule} {
			_, err := n.NS.Run("nft", strings.Fields(cmd)...)
			must(t, err)
		}
	}
	rules("add rule inet hand input tcp dport 80 reject with tcp reset")
	if r := browse(); r.Begun == 0 || r.Failed != r.Begun || !errors.Is(r.FirstError, unix.ECONNREFUSED) {
		t.Errorf("refused: %+v", r)
	}
	// The handshake passes, the request is answered by a reset.
	rules("add rule inet hand input tcp dport 80 tcp flags & (syn|psh) == psh reject with tcp reset")
	if r := browse(); r.Begun == 0 || r.Reset != r.Begun || !errors.Is(r.FirstError, unix.ECONNRESET) {
		t.Errorf("reset: %+v", r)
	}
	rules("add rule inet hand input tcp dport 80 tcp flags & (syn|psh) == psh drop")
	if r := browse(); r.Begun == 0 || r.TimedOut != r.Begun {
		t.Errorf("no answer: %+v", r)
	}
	rules("add rule inet hand input tcp dport 80 drop")
	if r := browse(); r.Begun == 0 || r.TimedOut != r.Begun || r.Took.Max != 0 {
		t.Errorf("no handshake: %+v", r)
	}
	// The first SYN of every connection is lost: a second later all is well.
	rules("add rule inet hand input tcp dport 80 tcp flags syn ct state new ct mark != 1 drop")
	b := l.Browse(BrowseConfig{Interval: 10 * ms, Timeout: 20 * time.Second})
	w := l.during(func() { time.Sleep(200 * ms) })
	rules("add rule inet hand input counter")
	b.Stop()
	if r := b.Report(w); r.Begun == 0 || r.By[n.ID()] != r.Begun || r.Retransmitted < r.Begun/2 || r.Took.Max < 500*ms {
		t.Errorf("SYNs lost for a while: %+v", r)
	}
}

func TestAConnectionAnsweredByAnotherNodeHasMoved(t *testing.T) {
	w := Window{time.Second, 2 * time.Second}
	line := func(at time.Duration, by NodeID) Ask { return Ask{Sent: at, Delay: ms, By: by} }
	lives := []Life{
		{By: 1, Trace: Trace{line(900*ms, 1), line(1100*ms, 1), line(1200*ms, 0)}},
		{By: 1, Trace: Trace{line(900*ms, 1), line(1100*ms, 2)}},
		{By: 2, Trace: Trace{line(800*ms, 2), line(900*ms, 1), line(1100*ms, 2)}}, // before
	}
	if r := reportLives(lives, w, 0, 1300*ms); r != (HoldReport{Held: 3, Moved: 1}) {
		t.Errorf("%+v", r)
	}
}

func TestOpenConnectionsAreResetStalledOrGoOn(t *testing.T) {
	l := newLab(t, 2, 16)
	h := l.Hold(HoldConfig{Interval: 20 * ms})
	must(t, h.WaitOpen(patience(t)))
	quiet := l.during(func() { time.Sleep(300 * ms) })
	if r := h.Report(quiet, nil); r != (HoldReport{Held: 16}) {
		t.Errorf("all well: %+v", r)
	}
	stall := l.during(func() {
		own(t, l.Nodes[0])
		time.Sleep(StalledAfter + 500*ms)
	})
	stalled := h.Report(stall, l.Nodes[0])
	if stalled.Held != 16 || stalled.Stalled == 0 || stalled.Stalled == 16 || stalled.Reset != 0 || stalled.OthersBroken != 0 {
		t.Errorf("one node silent: %+v", stalled)
	}
	// The other node knows nothing of the connections and resets them. They are
	// opened anew, there.
	own(t, l.Nodes[1], 0, 1)
	must(t, Poll(patience(t), func() error {
		r := h.Report(Window{stall.From, l.Now()}, l.Nodes[0])
		if r != (HoldReport{Held: 16, Reset: stalled.Stalled}) {
			return fmt.Errorf("taken over by a node that does not know %d of them: %+v", stalled.Stalled, r)
		}
		return nil
	}))
	must(t, h.WaitOpen(patience(t)))
	again := l.Now()
	h.Stop()
	if r := h.Report(Window{again, l.Now()}, nil); r != (HoldReport{Held: 16}) {
		t.Errorf("the end of the measurement broke connections: %+v", r)
	}
}

func TestHealthzFollowsSetHealthy(t *testing.T) {
	l := newLab(t, 1, 1)
	get := func() int {
		t.Helper()
		var code int
		must(t, l.Nodes[0].NS.Do(func() error {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", WebPort))
			if err != nil {
				return err
			}
			defer conn.Close()
			fmt.Fprint(conn, "GET /healthz HTTP/1.0\r\n\r\n")
			_, err = fmt.Fscanf(conn, "HTTP/1.0 %d", &code)
			return err
		}))
		return code
	}
	if got := get(); got != 200 {
		t.Errorf("at the start: %d", got)
	}
	l.Nodes[0].SetHealthy(false)
	if got := get(); got != 503 {
		t.Errorf("unhealthy: %d", got)
	}
	l.Nodes[0].SetHealthy(true)
	if got := get(); got != 200 {
		t.Errorf("healthy again: %d", got)
	}
}
