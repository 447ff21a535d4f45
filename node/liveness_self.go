package node

// This node's own silence. Whoever hears nothing of this node for quiet() waits no longer
// for its acknowledgement, and goes on with its lease (liveness_mark.go). Should nobody
// hear that one, this node must not find it dead before it has spoken again for so long
// that the other has heard it, and its lease has run out: while this node is silent it
// finds nobody dead, and when it speaks again it waits with every verdict for L and two
// intervals.

// Speak tells that this node sends a beacon now.
func (l *Liveness) Speak(now Time) {
	att := l.wake(now)
	if l.speechless() {
		latest := att - (l.detect.D - l.detect.L - 2*l.detect.Interval)
		for _, n := range l.neighbours {
			if n.standing == Alive {
				n.seenAt = max(n.seenAt, latest)
			}
		}
	}
	l.spokeAt = l.now
}

// Hush tells that this node speaks no more, and serves no more. So what it makes of others
// does no harm.
func (l *Liveness) Hush() { l.spokeAt = noTime }

// speechless reports whether this node has been silent for so long that its peers may
// soon go on without it.
func (l *Liveness) speechless() bool {
	return l.spokeAt != noTime && l.now-l.spokeAt >= l.detect.quiet()-l.detect.Interval
}

// behind reports whether beacons wait to be heard, for so long that those who seem to be
// silent may have spoken.
func (l *Liveness) behind() bool {
	return l.attends && l.now-l.slept-l.heardAll > 2*l.detect.Interval
}

// serves notes whether a neighbour serves, and since when.
func (l *Liveness) serves(n *neighbour, serving bool, att Time) {
	if serving && !n.serving {
		n.servesAt, n.servesFrom = att, l.now
	}
	n.serving = serving
}

// mayTake reports whether the neighbour may take over from those that it holds dead. One that
// is drained does not; it must have said for D that it is not, before it does.
func (l *Liveness) mayTake(n *neighbour) bool {
	return n.serving && !(n.phase == Drained && l.now-l.slept-n.heardAt < l.detect.A)
}

// mayHaveLostTo returns a neighbour to which this node may have lost its buckets if it has no
// lease: it has served for as long as it must before it takes over, and has had no sign
// of this node in all that time. One that was started anew may never have heard of this
// node, so that it neither waits for it nor holds it dead.
func (l *Liveness) mayHaveLostTo(now Time) *neighbour {
	att := l.wake(now)
	for _, n := range l.neighbours {
		if l.mayTake(n) && n.standing == Alive && att-n.seenAt < l.detect.D &&
			att-n.servesAt >= l.detect.D-l.detect.Interval && n.proven.Time() < n.servesFrom {
			return n
		}
	}
	return nil
}
