package e2e

import (
	"flag"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// restarts is how many rolling restarts TestRollingRestarts does. For figures:
//
//	go test -count=1 -v ./e2e -run 'TestRollingRestarts$' -e2e.restarts 60 -e2e.busy
var (
	restarts = flag.Int("e2e.restarts", 6, "how many rolling restarts TestRollingRestarts does")
	busy     = flag.Bool("e2e.busy", false, "load the machine with a busy loop for each processor during TestRollingRestarts")
)

// TestRollingRestarts restarts the nodes one after another, under 40 new connections a second:
// nobody is refused, and nobody's lease waits for who has left.
func TestRollingRestarts(t *testing.T) {
	l := cluster(t, 3)
	if *busy {
		for range runtime.NumCPU() { // not in this process, which measures
			loop := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
			must(t, loop.Start())
			t.Cleanup(func() { _ = loop.Wait() }) // its context has ended
		}
	}
	clients := visitors{audience: listen(t, l), Browsers: l.Browse(lab.BrowseConfig{Interval: 25 * time.Millisecond, Timeout: 2 * patience})}
	t.Cleanup(clients.Browsers.Stop)
	clients.allServed(t)
	pauses := func(nodes []*lab.Node) (sum int) {
		for _, n := range nodes {
			sum += mustStatus(t, n).Pauses.Count
		}
		return sum
	}
	lost := 0
	host := watchHost(t)
	for i := range *restarts {
		node := l.Nodes[i%len(l.Nodes)]
		others := without(l.Nodes, node)
		before := pauses(others)
		run(t, node, "leave", "--keep-flows")
		must(t, node.WaitExit(patiently(t)))
		time.Sleep(2 * detectionTime)
		if n := pauses(others) - before; n > 0 {
			lost += n
			t.Logf("restart %d, of %s: the others have lost %d leases", i+1, node.Name, n)
		}
		start(t, node)
		settle(t, l, l.Nodes...)
	}
	clients.served(t)
	r := clients.Browsers.Report(lab.Window{To: l.Now()})
	t.Logf("%d restarts: of %d new connections %d failed; the others lost %d leases", *restarts, r.Begun, r.Failed+r.Reset+r.TimedOut, lost)
	away := host.end()
	t.Logf("the host had the processors %d times for over %v", away, hostTook)
	// A loaded machine alone may cost a lease now and then, and its host one of each node.
	if limit := 1 + *restarts/10 + int(away)*(len(l.Nodes)-1); lost > limit {
		t.Errorf("%d leases were lost at the others, in %d restarts", lost, *restarts)
	}
	clients.quiet(t)
}

// TestStoppedServiceCostsASecond: the web server of one of three nodes is stopped. Its clients
// are refused until the node has given its buckets away, and a quick restart moves nothing.
func TestStoppedServiceCostsASecond(t *testing.T) {
	l := cluster(t, 3, func(_ int, c *lab.AgentConfig) {
		check := lab.HTTPCheck()
		check.Interval, check.Timeout, check.Fall = "2s", "1s", 3 // the defaults
		c.Spec.Services = []lab.ServiceSection{{Name: "other", Health: []lab.CheckSection{check}}}
	})
	node, others := l.Nodes[0], l.Nodes[1:]
	clients := listen(t, l)
	before := clients.allServed(t)
	from := l.Now()
	must(t, node.StopWeb())
	time.Sleep(300 * time.Millisecond)
	must(t, node.StartWeb())
	time.Sleep(2 * time.Second)
	settle(t, l, l.Nodes...)
	clients.unmoved(t, from, before, clients.allServed(t))

	browsers := l.Browse(lab.BrowseConfig{Interval: 10 * time.Millisecond})
	t.Cleanup(browsers.Stop)
	time.Sleep(time.Second)
	stopped := l.Now()
	must(t, node.StopWeb())
	settle(t, l, others...)
	time.Sleep(time.Second)
	browsers.Stop()
	refused, last := 0, time.Duration(0)
	for _, v := range browsers.Visits() {
		if v.Err != nil {
			refused++
			last = max(last, v.Start-stopped)
		}
	}
	t.Logf("a stopped web server: %d of its clients' connections refused, over %v", refused, last)
	if refused == 0 || last > 10*time.Second {
		t.Errorf("%d connections were refused, the last %v after the end of the server", refused, last)
	}
	must(t, node.StartWeb())
	settle(t, l, l.Nodes...)
	clients.returned(t, before)
	clients.quiet(t)
}
