package node

import (
	"fmt"
	"slices"
	"strings"
)

// What the log says of the view, so that whoever reads of buckets that move knows why.

// difference says what has changed from one view to the next, as in "web-2 has gone";
// "" if nothing has of the members.
func (v View) difference(next View, self string) string {
	var parts []string
	say := func(m Member, what string) {
		who := m.Name
		if m.Name == self {
			who = "this node"
		}
		parts = append(parts, who+" "+what)
	}
	for _, m := range v.members {
		i := slices.IndexFunc(next.members, func(n Member) bool { return n.Name == m.Name })
		if i < 0 {
			say(m, "has gone")
			continue
		}
		switch n := next.members[i]; {
		case n.Incarnation != m.Incarnation:
			say(n, "is back")
		case n.Phase != m.Phase:
			say(n, "is "+n.Phase.String())
		case n.CutOff && !m.CutOff:
			say(n, map[bool]string{true: "cannot serve", false: "is cut off"}[n.Lame != Sound])
		case !n.CutOff && m.CutOff && m.Lame != Sound:
			say(n, "can serve again")
		case !n.CutOff && m.CutOff:
			say(n, "is heard on the wire again")
		case len(n.Unfit) > len(m.Unfit):
			say(n, "is unfit")
		case len(n.Unfit) < len(m.Unfit):
			say(n, "is fit again")
		case n.Weight != m.Weight:
			say(n, fmt.Sprintf("has weight %d", n.Weight*10))
		}
	}
	for _, n := range next.members {
		if !v.Has(n.Name) {
			say(n, "has come")
		}
	}
	return strings.Join(parts, ", ")
}

// because ends a sentence about buckets that move.
func (c *Core) because() string {
	if c.viewChange == "" {
		return ""
	}
	return ", since " + c.viewChange
}

// tellPhases tells what the peers are about, once each.
func (c *Core) tellPhases() {
	for p := range c.alivePeers() {
		if p.said == nil {
			continue
		}
		phase := p.member().Phase
		if p.phaseTold && phase != p.phase && phase != Joining {
			c.notice(false, "%s is %s", p.Name, phase)
		}
		p.phase, p.phaseTold = phase, true
	}
}
