package node

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var liveRuns = flag.Int("liveness.runs", 0, "runs of each row of the Monte Carlo table, and of chaos; 0: a few")

// liveRow is one row of the table: nodes, what becomes of their links, and what
// happens to one of them within the first tenth of a second.
type liveRow struct {
	name  string
	nodes int
	loss  float64 // of every link
	// then makes the trouble.
	then func(w *liveWorld)
	// What is allowed in a run of 30 seconds: pauses on average, verdicts over a
	// node that is up, and for how long one may meet a valid lease.
	pauses      float64
	falseDeaths bool
	double      Time
	// sick: the trouble does not end.
	sick bool
}

// lossy makes every link lose a share, and those that are cut everything.
func (w *liveWorld) lossy(loss float64, cut func(from, to int, m Medium) bool) {
	w.loss = func(from, to int, m Medium) float64 {
		if cut != nil && cut(from, to, m) {
			return 1
		}
		return loss
	}
}

const anyPauses = 1e9

func liveRows(nodes int) []liveRow {
	cut := func(loss float64, cut func(from, to int, m Medium) bool) func(w *liveWorld) {
		return func(w *liveWorld) { w.lossy(loss, cut) }
	}
	kill := func(w *liveWorld) { w.nodes[0].kill() }
	heal := func(w *liveWorld) { w.at(w.now+3*time.Second, func() { w.lossy(0, nil); w.forget() }) }
	both := func(from, to int, _ Medium) bool { return from == 0 && to == 1 }
	wire := func(from, to int, m Medium) bool { return from == 0 && to == 1 && m == Wire }
	rows := []liveRow{
		{name: "no loss"},
		{name: "loss", loss: .1, pauses: .2},
		{name: "loss", loss: .3, pauses: 1},
		{name: "power-off", then: kill},
		{name: "power-off", loss: .1, then: kill, pauses: .2},
		{name: "power-off", loss: .3, then: kill, pauses: 1},
		{name: "all wires cut", then: cut(0, func(_, _ int, m Medium) bool { return m == Wire })},
		{name: "one way cut, wire", then: cut(0, wire)},
		// Ten in a row of the one medium that is left: once in a hundred runs.
		{name: "one way cut, wire", loss: .3, then: cut(.3, wire), pauses: 5, falseDeaths: true},
		{name: "deaf on all", then: cut(0, func(_, to int, _ Medium) bool { return to == 0 }), falseDeaths: true, sick: true},
		{name: "mute on all", then: cut(0, func(from, _ int, _ Medium) bool { return from == 0 }), falseDeaths: true, sick: true},
		{name: "stalls", then: liveStalls, pauses: anyPauses},
		{name: "frozen", then: func(w *liveWorld) { w.nodes[0].freeze(2 * time.Second) }, pauses: 1, double: 25 * mil},
		{name: "split, healed", then: func(w *liveWorld) {
			w.lossy(0, func(from, to int, _ Medium) bool { return (from == 0) != (to == 0) })
			heal(w)
		}, pauses: float64(nodes), falseDeaths: true, double: 25 * mil},
	}
	if nodes == 2 {
		rows = append(rows,
			liveRow{name: "one way cut", then: cut(0, both), falseDeaths: true, sick: true},
			liveRow{name: "one way cut", loss: .3, then: cut(.3, both), falseDeaths: true, sick: true, pauses: 1})
	} else {
		rows = append(rows,
			liveRow{name: "one way cut", then: cut(0, both), pauses: 1},
			liveRow{name: "one way cut", loss: .3, then: cut(.3, both), pauses: anyPauses},
			liveRow{name: "two cannot hear each other", then: cut(0, func(from, to int, _ Medium) bool { return from+to == 1 }), pauses: 1})
	}
	if nodes > 3 { // what is of interest among many, since they take their time
		rows = slices.DeleteFunc(rows, func(r liveRow) bool {
			return !slices.Contains([]string{"loss", "power-off", "one way cut", "frozen", "split, healed"}, r.name)
		})
	}
	for i := range rows {
		rows[i].nodes = nodes
	}
	return rows
}

// liveStalls stops a node for up to half a second, again and again.
func liveStalls(w *liveWorld) {
	if w.now < 28*time.Second {
		w.nodes[0].stall(Time(w.rng.Int64N(int64(500 * mil))))
		w.at(w.now+2*time.Second, func() { liveStalls(w) })
	}
}

// liveSum adds up the runs of a row.
type liveSum struct {
	liveWorld
	runs int
}

func (s *liveSum) add(w *liveWorld) {
	s.runs++
	s.falseDeaths += w.falseDeaths
	s.doubles += w.doubles
	s.doubleTime = max(s.doubleTime, w.doubleTime)
	s.pauses += w.pauses
	s.pauseTime += w.pauseTime
	s.longest = max(s.longest, w.longest)
	s.slowest = max(s.slowest, w.slowest)
}

func (row *liveRow) run(t *testing.T, seed uint64, detect Detect) *liveWorld {
	w := newLiveWorld(seed, row.nodes, detect, 1+uint8(seed%2))
	w.run(2 * time.Second)
	if err := w.healthy(); err != nil {
		t.Fatalf("%s, %d nodes, seed %d: at the start: %v", row.name, row.nodes, seed, err)
	}
	w.forget()
	w.lossy(row.loss, nil)
	if row.then != nil {
		w.at(w.now+Time(w.rng.Int64N(int64(100*mil))), func() { row.then(w) })
	}
	w.run(32 * time.Second)
	if err := w.healthy(); err != nil && row.loss == 0 && !row.sick {
		t.Errorf("%s, %d nodes, seed %d: at the end: %v", row.name, row.nodes, seed, err)
	}
	return w
}

func (row *liveRow) check(t *testing.T, sum *liveSum) {
	fail := func(format string, args ...any) {
		t.Errorf("%s, %d nodes, %.0f %% loss: %s", row.name, row.nodes, 100*row.loss, fmt.Sprintf(format, args...))
	}
	if sum.doubles > 0 && sum.doubleTime >= row.double {
		fail("%d verdicts met a valid lease, for up to %v", sum.doubles, sum.doubleTime)
	}
	if sum.falseDeaths > 0 && !row.falseDeaths {
		fail("%d false deaths", sum.falseDeaths)
	}
	if pauses := float64(sum.pauses) / float64(sum.runs); pauses > row.pauses {
		fail("%.2f pauses a run", pauses)
	}
}

// TestLossesPauseRarelyAndNeverDouble: random losses and what comes with them, at the
// default timing: 30 seconds a run. -v prints the figures.
func TestLossesPauseRarelyAndNeverDouble(t *testing.T) {
	t.Parallel()
	detect := NewDetect(20*mil, 10)
	var table strings.Builder
	line := "%-27s %5v %5v %5v %7v %9v %6v %8v %8v %8v %8v\n"
	fmt.Fprintf(&table, line, "trouble", "nodes", "loss", "runs", "double", "for up to", "false", "pauses", "mean", "longest", "found in")
	for _, nodes := range []int{2, 3, 8} {
		runs := map[int]int{2: 10, 3: 6, 8: 2}[nodes]
		if *liveRuns > 0 {
			runs = *liveRuns
		}
		for _, row := range liveRows(nodes) {
			var sum liveSum
			for seed := range runs {
				sum.add(row.run(t, uint64(seed), detect))
			}
			row.check(t, &sum)
			fmt.Fprintf(&table, line, row.name, nodes, fmt.Sprintf("%.0f%%", 100*row.loss), runs,
				sum.doubles, sum.doubleTime.Round(mil), sum.falseDeaths,
				fmt.Sprintf("%.2f", float64(sum.pauses)/float64(runs)), (sum.pauseTime / max(1, Time(sum.pauses))).Round(mil),
				sum.longest.Round(mil), sum.slowest.Round(mil))
		}
	}
	t.Logf("20 ms x 10, 30 s a run; double: verdicts of death over a node whose lease is valid;\nfalse: over one that is up; pauses: of a lease, in a run\n%s", &table)
}

// TestVerdictsMeetNoLeaseInChaos holds the proof in liveness_mark.go against links
// that come and go in each direction, stalls, and restarts: a verdict meets a valid
// lease only if its holder had no sign of life of the judge when it prolonged it.
// When the trouble ends all serve again.
func TestVerdictsMeetNoLeaseInChaos(t *testing.T) {
	t.Parallel()
	runs := 30
	if *liveRuns > 0 {
		runs = *liveRuns
	}
	excused := 0
	for seed := range runs {
		w := liveChaos(uint64(seed), false)
		excused += w.doubles - w.unexcused
		err := w.healthy()
		if w.unexcused == 0 && err == nil {
			continue
		}
		w = liveChaos(uint64(seed), true)
		t.Fatalf("seed %d: %d verdicts met a lease; at the end: %v\n%s", seed, w.unexcused, err, strings.Join(w.trace[max(0, len(w.trace)-60):], "\n"))
	}
	t.Logf("%d runs; verdicts over a lease of a node split from its judge: %d", runs, excused)
}

// liveChaos runs for 20 seconds, and 10 more without trouble. In every other run clocks
// are as far apart, and beacons as late, as they may be.
func liveChaos(seed uint64, tracing bool) *liveWorld {
	detect := NewDetect(20*mil, 10)
	apart := clocksApart * float64(seed/8%2)
	w := newLiveWorldApart(seed, 2+int(seed%4), detect, 1+uint8(seed/4%2), apart, Time(seed/8%2)*detect.MaxLate())
	w.tracing = tracing
	slots := len(w.nodes)
	w.run(time.Second)
	losses := map[[3]int]float64{}
	w.loss = func(from, to int, m Medium) float64 { return losses[[3]int{from, to, int(m)}] }
	nonce := uint64(100)
	for w.now < 20*time.Second {
		switch n := w.nodes[w.rng.IntN(len(w.nodes))]; w.rng.IntN(12) {
		case 0:
			n.stall(Time(w.rng.Int64N(int64(400 * mil))))
		case 1:
			if !n.down {
				n.kill()
				nonce++
				w.start(n.slot, nonce)
			}
		case 2:
			clear(losses)
		default:
			link := [3]int{w.rng.IntN(slots), w.rng.IntN(slots), w.rng.IntN(mediums)}
			losses[link] = []float64{0, .3, .6, 1}[w.rng.IntN(4)]
			if w.rng.IntN(2) == 0 { // both mediums alike
				link[2] = 1 - link[2]
				losses[link] = losses[[3]int{link[0], link[1], 1 - link[2]}]
			}
		}
		w.run(w.now + Time(w.rng.Int64N(int64(300*mil))))
	}
	clear(losses)
	w.run(30 * time.Second)
	return w
}

// TestPairsThatAreDeaf: a node does not hear another, for ever, one way or both, or hears its
// neighbours in a chain only. Their leases then wait for words that come through others,
// and must not run out again and again.
func TestPairsThatAreDeaf(t *testing.T) {
	t.Parallel()
	runs := 2
	if *liveRuns > 0 {
		runs = *liveRuns
	}
	cuts := map[string]func(from, to int, _ Medium) bool{
		"one way":   func(from, to int, _ Medium) bool { return from == 0 && to == 1 },
		"both ways": func(from, to int, _ Medium) bool { return from+to == 1 },
		"a chain":   func(from, to int, _ Medium) bool { return from-to > 1 || to-from > 1 },
	}
	for _, name := range sortedKeys(cuts) {
		for _, nodes := range []int{3, 4, 8} {
			first, then, runTime := 0, 0, Time(0)
			var longest Time
			for seed := range runs {
				w := newLiveWorld(uint64(seed), nodes, NewDetect(20*mil, 10), 1+uint8(seed%2))
				w.run(2 * time.Second)
				w.forget()
				w.lossy(0, cuts[name])
				w.run(4 * time.Second)
				first += w.pauses
				w.forget()
				w.run(34 * time.Second)
				then, longest, runTime = then+w.pauses, max(longest, w.longest), runTime+30*time.Second
				if w.doubles > 0 && name != "a chain" {
					t.Errorf("%s, %d nodes, seed %d: %d verdicts met a valid lease", name, nodes, seed, w.doubles)
				}
			}
			t.Logf("%s, %d nodes: %d pauses within 2 s in %d runs, then %d in %v, the longest %v", name, nodes, first, runs, then, runTime, longest.Round(mil))
			if then > 0 {
				t.Errorf("%s, %d nodes: the lease runs out again and again", name, nodes)
			}
		}
	}
}
