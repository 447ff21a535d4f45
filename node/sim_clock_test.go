package node

// simClock is a node's own clock. It has begun at another time than the world's, and runs
// faster or slower. The zero value is the world's.
type simClock struct {
	origin Time
	drift  float64 // 0.01: it gains a hundredth
}

// here is what the clock shows at that time of the world.
func (c simClock) here(t Time) Time { return t + c.origin + Time(float64(t)*c.drift) }

// there is the first time of the world at which the clock shows that. It must not be far
// from the present.
func (c simClock) there(at Time) Time {
	if c == (simClock{}) {
		return at
	}
	t := Time(float64(at-c.origin)/(1+c.drift)) - 1
	for c.here(t) < at {
		t++
	}
	return t
}

// span is how long a span of the node's clock takes in the world.
func (c simClock) span(d Time) Time { return Time(float64(d) / (1 + c.drift)) }

// time is what the node's clock shows now.
func (w *world) time(n *simNode) Time { return n.clock.here(w.now) }

// drift makes the node's clock run so much faster from now on.
func (w *world) drift(n *simNode, by float64) {
	w.log("the clock of %s gains %.1f %%", n.name, 100*by)
	shows := w.time(n)
	n.clock.drift = by
	n.clock.origin += shows - w.time(n)
}
