package lab

import (
	"slices"
	"time"
)

// Trace is what one client source asked, in order of asking, and what it heard.
// All times are on the lab's clock.
type Trace []Ask

// Ask is one request and its answer.
type Ask struct {
	Sent time.Duration
	// Delay is the time until the first answer; meaningless without one.
	Delay time.Duration
	// By is who answered first, Again who answered once more; 0 is nobody.
	By, Again NodeID
}

// NodeID is a node's index plus one. 0 is nobody, Stranger none of the lab's.
type NodeID uint8

// Stranger is an answer that names no node of the lab.
const Stranger NodeID = 255

// ID is the node's number in traces.
func (n *Node) ID() NodeID { return NodeID(n.Index + 1) }

// Window is a stretch of the lab's clock: From is in it, To is not.
type Window struct{ From, To time.Duration }

// during returns the asks that were sent within the window.
func (t Trace) during(w Window) Trace {
	bySent := func(a Ask, at time.Duration) int {
		if a.Sent < at {
			return -1
		}
		return 1
	}
	from, _ := slices.BinarySearchFunc(t, w.From, bySent)
	to, _ := slices.BinarySearchFunc(t, w.To, bySent)
	return t[from:max(from, to)]
}

// LongestSilence is the longest time for which the source, having asked within
// the window, waited until anything that it asked from then on was answered:
// the maximum over the asks i of min(j >= i: answered[j]) - sent[i]. While all is
// well it is one round trip. The sender's own pauses do not count, for it has
// asked nothing then. A silence that lasts until the end of the trace is counted
// up to end, when the trace was read.
func (t Trace) LongestSilence(w Window, end time.Duration) time.Duration {
	var longest time.Duration
	heard := end // the earliest answer to this ask or a later one
	for i := len(t) - 1; i >= 0 && t[i].Sent >= w.From; i-- {
		if t[i].By != 0 {
			heard = min(heard, t[i].Sent+t[i].Delay)
		}
		if t[i].Sent < w.To {
			longest = max(longest, heard-t[i].Sent)
		}
	}
	return longest
}

// ServedBy is who answered the source last before the time, 0 if nobody did.
func (t Trace) ServedBy(at time.Duration) NodeID {
	before := t.during(Window{0, at})
	for i := len(before) - 1; i >= 0; i-- {
		if before[i].By != 0 {
			return before[i].By
		}
	}
	return 0
}

// waiting is when the last request before the time was sent, if it had no answer
// by then.
func (t Trace) waiting(at time.Duration) (sent time.Duration, waits bool) {
	before := t.during(Window{0, at})
	if len(before) == 0 {
		return 0, false
	}
	last := before[len(before)-1]
	return last.Sent, last.By == 0 || last.Sent+last.Delay > at
}

// Spread is a median and a maximum.
type Spread struct{ Median, Max time.Duration }

// spread sorts d. Of an even number of values it takes the upper middle one.
func spread(d []time.Duration) Spread {
	if len(d) == 0 {
		return Spread{}
	}
	slices.Sort(d)
	return Spread{Median: d[len(d)/2], Max: d[len(d)-1]}
}

// Noticed is the silence from which on a source counts as having noticed.
const Noticed = 50 * time.Millisecond

// Silences is the longest silence of each of some sources.
type Silences struct {
	Sources int
	Noticed int
	Longest Spread
}

func silences(longest []time.Duration) Silences {
	s := Silences{Sources: len(longest), Longest: spread(longest)}
	for _, d := range longest {
		if d > Noticed {
			s.Noticed++
		}
	}
	return s
}

// TalkReport is what the talkers saw of one step.
type TalkReport struct {
	// Affected are the sources that the node that the step befalls served at the
	// step's beginning or at its end, Others the rest. Without such a node all
	// are others.
	Affected, Others Silences
	// Sent and Lost are datagrams of the step; Lost were never answered.
	Sent, Lost int
	// Twice were answered twice. Doubles says by whom, first and again.
	Twice   int
	Doubles map[[2]NodeID]int
	// Answers counts first answers by node, Sources the sources that the node
	// was the last to answer.
	Answers, Sources map[NodeID]int
	// Pause is the longest that the lab itself was late with a datagram or its
	// answer: silences that are hardly longer are its own.
	Pause time.Duration
}

// inFlight is how long an unanswered datagram may still be under way when the
// traces are read, so that it is not yet lost.
const inFlight = 250 * time.Millisecond

// reportTalk says what the sources saw in the window; read is when the traces
// were read, affected the node that the step befalls, 0 for none.
func reportTalk(traces []Trace, w Window, affected NodeID, read time.Duration) TalkReport {
	t := newTally(w, affected, read)
	for _, trace := range traces {
		t.add(trace)
	}
	return t.report()
}

// tally makes a report of one trace after the other.
type tally struct {
	w           Window
	affected    NodeID
	read        time.Duration
	r           TalkReport
	hit, spared []time.Duration
}

func newTally(w Window, affected NodeID, read time.Duration) *tally {
	return &tally{w: w, affected: affected, read: read,
		r: TalkReport{Doubles: map[[2]NodeID]int{}, Answers: map[NodeID]int{}, Sources: map[NodeID]int{}}}
}

func (t *tally) add(trace Trace) {
	longest := trace.LongestSilence(t.w, t.read)
	before, after := trace.ServedBy(t.w.From), trace.ServedBy(t.w.To)
	if t.affected != 0 && (before == t.affected || after == t.affected) {
		t.hit = append(t.hit, longest)
	} else {
		t.spared = append(t.spared, longest)
	}
	t.r.Sources[after]++
	for _, a := range trace.during(t.w) {
		t.r.Sent++
		switch {
		case a.By != 0:
			t.r.Answers[a.By]++
		case a.Sent+inFlight < t.read:
			t.r.Lost++
		}
		if a.Again != 0 {
			t.r.Twice++
			t.r.Doubles[[2]NodeID{a.By, a.Again}]++
		}
	}
}

func (t *tally) report() TalkReport {
	t.r.Affected, t.r.Others = silences(t.hit), silences(t.spared)
	return t.r
}
