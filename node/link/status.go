package link

import (
	"context"
	"fmt"
	"slices"
)

// Status is whether the node can serve, as far as the wire is concerned.
type Status struct {
	OK     bool
	Reason string // why not, in words for an operator; empty if OK
	// Moved: the node's own address is gone, and the interface has another one, which
	// Settle would choose.
	Moved bool
}

// status judges what was seen; the first thing that is wrong is the reason. The node's
// address may have been chosen by Settle, which then may choose another.
func (s sight) status(config Config, chosen bool) Status {
	name := config.Interface
	switch {
	case !s.found:
		return Status{Reason: fmt.Sprintf("interface %s does not exist", name)}
	case !s.up:
		return Status{Reason: fmt.Sprintf("interface %s is down", name)}
	case !s.carrier:
		return Status{Reason: fmt.Sprintf("interface %s has no carrier", name)}
	case !s.running:
		return Status{Reason: fmt.Sprintf("interface %s is not operational (802.1X or a lower interface)", name)}
	case !s.hasAddress:
		gone := fmt.Sprintf("address %s is gone from this host", config.Address)
		switch {
		case !chosen:
			return Status{Reason: gone + ": give it back, or set node.address to another one and restart the agent"}
		case s.source.IsUnspecified():
			return Status{Reason: fmt.Sprintf("%s, and %s has no other: give it one", gone, name)}
		}
		return Status{Reason: fmt.Sprintf("%s: this node goes on with %s", gone, s.source), Moved: true}
	}
	return Status{OK: true}
}

// tell hands a changed status to deliver, and says whether it has changed. It never
// blocks: there is one sender, and it empties the channel first.
func (w *watch) tell(status Status) bool {
	if w.told && status == w.status {
		return false
	}
	w.told, w.status = true, status
	var pending []Status
	for more := true; more; {
		select {
		case s := <-w.statuses:
			pending = append(pending, s)
		default:
			more = false
		}
	}
	for _, s := range coalesce(pending, status) {
		w.statuses <- s
	}
	return true
}

// coalesce adds a status to those that were not delivered: the newest is enough,
// and the outage before it, if it is over.
func coalesce(pending []Status, status Status) []Status {
	if status.OK {
		for _, s := range slices.Backward(pending) {
			if !s.OK {
				return []Status{s, status}
			}
		}
	}
	return []Status{status}
}

// deliver calls notify with each new status.
func deliver(ctx context.Context, statuses <-chan Status, notify func(Status)) error {
	var last *Status
	for {
		select {
		case <-ctx.Done():
			return nil
		case status := <-statuses:
			if last == nil || *last != status { // an outage may have ended and begun again
				last = &status
				notify(status)
			}
		}
	}
}
