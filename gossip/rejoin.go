package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

const (
	// alonePeriod is how often a node without any member tries to find one.
	alonePeriod = 500 * time.Millisecond
	// refusedSoon is how often a node that was refused tries again at first, and
	// refusedSoonTries how often: the name may be that of its own former life, at another
	// address, which is soon found to be dead. Then it does each refusedPeriod.
	refusedSoon      = time.Second
	refusedSoonTries = 10
	refusedPeriod    = 15 * time.Second
)

// round is one try to reach everybody who is not a member.
type round struct {
	seen    map[netip.AddrPort]bool // whom it has tried
	tried   bool                    // there was somebody to try, or a name to look up
	reached int
	errs    SeedErrors
}

// rejoin tries who is heard, and then all seeds and lost members that are not members now.
// A name server that is dead takes seconds: whoever has an address is tried meanwhile.
func (g *Gossip) rejoin() {
	var addresses, names []string
	for _, seed := range g.cfg.Seeds {
		if isName(seed) {
			names = append(names, seed)
		} else {
			addresses = append(addresses, seed)
		}
	}
	type found struct {
		targets []target
		errs    SeedErrors
	}
	lookedUp := make(chan found, 1)
	go func() {
		targets, errs := g.resolve(names)
		lookedUp <- found{targets, errs}
	}()
	r := round{seen: map[netip.AddrPort]bool{}}
	met := g.joinHeard()
	g.try(&r, addresses)
	for waits := true; waits; {
		select {
		case named := <-lookedUp:
			r.contact(g, named.targets, named.errs)
			waits = false
		case <-g.again: // whoever asks for a round is not to wait for a name server
			met += g.joinHeard()
			again := round{seen: map[netip.AddrPort]bool{}}
			g.try(&again, addresses)
			again.reached, again.tried = again.reached+r.reached, again.tried || r.tried
			r = again
		}
	}
	g.concluded(&r, met)
}

// try contacts the seeds that are addresses, and the lost members.
func (g *Gossip) try(r *round, addresses []string) {
	targets, errs := g.resolve(addresses)
	for _, p := range g.table.lost() {
		targets = append(targets, target{fmt.Sprintf("%s (%s)", p.Name, p.Addr), p.Addr, true})
	}
	r.contact(g, targets, errs)
}

// contact contacts those of the targets who are not members and were not tried yet.
func (r *round) contact(g *Gossip, targets []target, errs SeedErrors) {
	members := g.table.addrs()
	targets = slices.DeleteFunc(targets, func(t target) bool {
		skip := g.isOwn(t) || members[t.addr] || r.seen[t.addr]
		r.seen[t.addr] = true
		return skip
	})
	r.tried = r.tried || len(targets)+len(errs) > 0
	if !r.tried {
		return
	}
	reached, err := g.contact(targets, append(r.errs, errs...))
	r.reached += reached
	r.errs = nil
	errors.As(err, &r.errs)
}

// concluded tells what came of a round.
func (g *Gossip) concluded(r *round, met int) {
	if !r.tried {
		g.table.event(Attempt{Reached: met}) // everybody is a member: that is an outcome too
		return
	}
	if g.ctx.Err() != nil {
		return
	}
	var err error
	if len(r.errs) > 0 {
		err = r.errs
	}
	refused := errors.Is(err, ErrWrongKey) || errors.Is(err, ErrNameTaken)
	if !refused {
		g.refusals, g.refusal = 0, ""
	}
	switch {
	case err == nil:
	case refused:
		g.refusals++
		if g.refusal != err.Error() { // once, however long it lasts
			g.refusal = err.Error()
			g.cfg.Log.Warn("joining the cluster was refused, and will be tried again", "error", err)
		}
	case g.table.alone():
		g.log.limited(slog.LevelInfo, "no other node was reached yet", "error", err)
	default:
		g.log.limited(slog.LevelDebug, "some nodes were not reached", "error", err)
	}
	g.table.event(Attempt{Reached: met + r.reached, Err: err})
}

// joinHeard tries those whom Rejoin has named and who are not members, and returns how many
// were reached. What keeps it from the others is no fault of the configuration.
func (g *Gossip) joinHeard() (reached int) {
	heard := g.heard.Swap(nil)
	if heard == nil {
		return 0
	}
	members := g.table.addrs()
	var targets []target
	for _, addr := range *heard {
		t := target{addr.String(), netip.AddrPortFrom(addr, g.cfg.Bind.Port()), true}
		if !g.isOwn(t) && !members[t.addr] {
			targets = append(targets, t)
		}
	}
	reached, err := g.contact(targets, nil)
	if err != nil {
		g.log.limited(slog.LevelInfo, "a node whose beacons come was not reached by gossip", "error", err)
	}
	return reached
}

func (g *Gossip) rejoinPeriod() time.Duration {
	switch {
	case g.refusals > refusedSoonTries:
		return min(refusedPeriod, g.cfg.Rejoin)
	case g.refusals > 0:
		return min(refusedSoon, g.cfg.Rejoin)
	case g.table.alone():
		return min(alonePeriod, g.cfg.Rejoin)
	}
	return g.cfg.Rejoin
}
