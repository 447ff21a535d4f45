package e2e

import "testing"

// The kernel of one node refuses every change of its buckets.
func TestKernelRefuses(t *testing.T) {
	l := cluster(t, 4)
	first, faulty, third, last := l.Nodes[0], l.Nodes[1], l.Nodes[2], l.Nodes[3]
	undo, err := faulty.RefuseChanges()
	must(t, err)
	o := endure(t, l)
	o.step("it weighs more", func() { run(t, faulty, "weight", faulty.Name, "300") })
	o.say("this node cannot serve.*kernel", faulty)
	o.say("node-2 cannot serve.*kernel", first, third, last)
	o.step("another drains", func() { run(t, first, "drain") })
	o.step("another resumes", func() { run(t, first, "resume") })
	o.step("it drains", func() { run(t, faulty, "drain") })
	o.step("it resumes", func() { run(t, faulty, "resume") })
	o.step("another leaves", func() { must(t, third.Stop(patiently(t))) })
	o.step("another joins", func() { start(t, third) })
	o.step("another dies", func() { must(t, last.PowerOff()) })
	o.say("this node cannot serve.*kernel", faulty)
	o.say("node-2 cannot serve.*kernel", first, third)
	must(t, undo())
	must(t, last.PowerOn())
	start(t, last)
	run(t, faulty, "weight", faulty.Name, "100")
	settle(t, l, l.Nodes...)
}
