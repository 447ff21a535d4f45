package e2e

import (
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// Messages of one node get lost, all of them or one way; its beacons are heard.
func TestMessagesOfOneAreLost(t *testing.T) {
	for _, tt := range []struct {
		name    string
		out, in bool
	}{{"both ways", true, true}, {"that it sends", true, false}, {"that it is sent", false, true}} {
		t.Run(tt.name, func(t *testing.T) {
			l := cluster(t, 4)
			first, faulty, third, last := l.Nodes[0], l.Nodes[1], l.Nodes[2], l.Nodes[3]
			o := endure(t, l)
			if tt.out {
				must(t, l.Break(lab.Fault{From: names(faulty), Traffic: lab.Messages}))
			}
			if tt.in {
				must(t, l.Break(lab.Fault{To: names(faulty), Traffic: lab.Messages}))
			}
			o.step("another drains", func() { run(t, first, "drain") })
			o.step("another resumes", func() { run(t, first, "resume") })
			o.step("it drains", func() { run(t, faulty, "drain") })
			o.say("messages.*node-2|node-2.*messages", first, third, last)
			o.step("it resumes", func() { run(t, faulty, "resume") })
			o.step("another leaves", func() { must(t, third.Stop(patiently(t))) })
			o.step("another joins", func() { start(t, third) })
			o.step("another dies", func() { must(t, last.PowerOff()) })
			o.say("messages.*node-2|node-2.*messages", first, third)
			o.say("messages", faulty)
			must(t, l.Heal())
			must(t, last.PowerOn())
			start(t, last)
			settle(t, l, l.Nodes...)
		})
	}
}
