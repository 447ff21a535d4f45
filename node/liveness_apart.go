package node

// Nodes that are more than one step apart. "Alive" reaches one step: this node hears
// somebody who hears the other. It cannot reach further, since the proof of the lease goes
// there and back, and A is three intervals. In a chain n1-n2-n3-n4, in which each hears its
// neighbours only, n1 therefore holds n4 dead, which serves with n2 and n3.
//
// n1 must not take what n4 has. It sees that something is wrong: n2 holds n4 alive. If
// there is any way from a node o to this one, over however many steps, and this node holds o
// dead, then some node on that way is two steps from a neighbour of this node and three from
// itself: the neighbour holds it alive, and this node does not. So as long as anybody whom this
// node hears holds somebody alive whom it holds dead, it takes nothing unless all agree;
// and they cannot, since their views differ by that node.
//
// With a death it is no different for a moment: others find it a little later. They agree
// on it then, and nothing is lost by the wait.

// apart returns those, by key, who are held alive by somebody whom this node hears, and
// have been dead to this node for another D.
func (l *Liveness) apart(now Time) []*neighbour {
	att := l.wake(now)
	var far []*neighbour
	for _, n := range l.neighbours {
		if n.standing == Dead && att-n.seenAt >= 2*l.detect.D && att-n.vouchedAt < l.detect.D {
			far = append(far, n)
		}
	}
	return far
}

// meet gives its standing to a neighbour of which the first sign of life has come. Who serves
// and does not hold this node alive, which serves as well, has begun to serve while the two
// were split: nobody begins to serve before those who do have heard it. It may never have
// been held dead here, as when it was started anew in the other half, or after a split of
// so long that it was forgotten. Each holds the other dead then, as after any other split,
// and so one of them yields at once (yieldsTo), whether messages pass between them or not.
func (l *Liveness) meet(n *neighbour, apart bool) {
	if apart && l.serving {
		l.turn(n, Dead)
		return
	}
	l.turn(n, Alive)
}
