package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/node"
)

// screenWidth is what all tables fit in.
const screenWidth = 80

// statusTable is the status for people: whether all is well, who serves, and what
// is wrong, in 80 columns. Only a single word that is longer than that stands out.
func statusTable(s agent.Status) string {
	var b strings.Builder
	wrap(&b, "", fmt.Sprintf("%s: node %s of cluster %s is %s", s.Verdict(), s.Node, s.Cluster, s.Phase))
	agreed := "agreed"
	if !s.Agreed {
		agreed = "NOT AGREED"
	}
	wrap(&b, "", fmt.Sprintf("address %s at %s, view %.8s %s", strings.Join(s.VIPs, ", "), s.MAC, s.View, agreed))
	wrap(&b, "", leaseLine(s))
	wrap(&b, "", fmt.Sprintf("packets: %d accepted, %d dropped (the other nodes' share)",
		s.Counters["accepted_packets"], s.Counters["dropped_packets"]))
	if c := s.Conntrack; c != nil {
		wrap(&b, "", fmt.Sprintf("conntrack: %d of %d flows", c.Count, c.Max))
	}
	b.WriteString("\n")
	writeNodes(&b, s)
	others := slices.DeleteFunc(slices.Clone(s.Nodes), func(n agent.NodeStatus) bool { return n.Beacons == nil })
	writeList(&b, "beacons  ", others, func(n agent.NodeStatus) string { return n.Name + ": " + beaconLine(n.Beacons) })
	failing := slices.DeleteFunc(slices.Clone(s.Health), func(h agent.HealthStatus) bool { return h.OK || h.Tries == 0 })
	writeList(&b, "check  ", failing, func(h agent.HealthStatus) string {
		return fmt.Sprintf("%s: %s: %s", h.Service, h.Check, h.Reason)
	})
	writeList(&b, "  !  ", s.Problems, func(p string) string { return p })
	return b.String()
}

// leaseLine says whether the node may serve, and how often it had to be silent.
func leaseLine(s agent.Status) string {
	line := "lease " + s.Lease
	if s.Lease == agent.LeaseWaiting {
		line = "lease WAITING, this node is silent"
	}
	if p := s.Pauses; p.Count > 0 {
		pauses := "pauses"
		if p.Count == 1 {
			pauses = "pause"
		}
		line += fmt.Sprintf("; %d %s so far, the longest %s", p.Count, pauses, age(p.Longest))
	}
	return line
}

// beaconLine says what is heard of a node.
func beaconLine(b *agent.NodeBeacons) string {
	heard := func(m *agent.MediumStatus) string {
		if m == nil {
			return "never"
		}
		return age(m.Heard) + " ago"
	}
	line := fmt.Sprintf("on the wire %s, by unicast %s", heard(b.Wire), heard(b.Unicast))
	if b.Acked == nil {
		line += "; hears nothing of this node"
	} else {
		line += fmt.Sprintf("; heard this node %s ago", age(*b.Acked))
	}
	if b.Standing != node.Alive.String() {
		line = b.Standing + "; " + line
	}
	if b.Waits {
		line += "; THE LEASE WAITS for it"
	}
	return line
}

// age is a time in milliseconds, for people.
func age(ms float64) string {
	switch d := time.Duration(ms * float64(time.Millisecond)); {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(time.Second / 10).String()
	default:
		return d.Round(time.Second).String()
	}
}

func writeList[T any](b *strings.Builder, mark string, list []T, text func(T) string) {
	if len(list) > 0 {
		b.WriteString("\n")
	}
	for _, item := range list {
		wrap(b, mark, text(item))
	}
}

// column is one of a table; all but names are short.
type column struct {
	title string
	right bool // aligned: numbers
}

// nodeColumns follow the name.
var nodeColumns = []column{
	{"ADDRESS", false}, {"PHASE", false}, {"HEALTH", false}, {"WEIGHT", true}, {"BUCKETS", true}, {"SHARE", true}, {"FLOWS", true},
}

const columnGap = 2

// writeNodes writes a line for each node, this one marked. A name that leaves no
// room for the rest has a line of its own: cut, it could not be used in a command.
func writeNodes(b *strings.Builder, s agent.Status) {
	total := 0
	for _, svc := range s.Services {
		total += svc.Buckets
	}
	rows := make([][]string, len(s.Nodes))
	widths := make([]int, len(nodeColumns))
	for i, c := range nodeColumns {
		widths[i] = len(c.title)
	}
	for i, n := range s.Nodes {
		rows[i] = nodeRow(n, total)
		for j, cell := range rows[i] {
			widths[j] = max(widths[j], utf8.RuneCountInString(cell))
		}
	}
	room := screenWidth - columnGap // for the mark and the name
	for _, w := range widths {
		room -= w + columnGap
	}
	name := len("NODE")
	for _, n := range s.Nodes {
		if w := utf8.RuneCountInString(n.Name); w <= room {
			name = max(name, w)
		}
	}
	titles := make([]string, len(nodeColumns))
	for i, c := range nodeColumns {
		titles[i] = c.title
	}
	writeRow(b, "  ", "NODE", name, titles, widths)
	for i, n := range s.Nodes {
		mark := "  "
		if n.Name == s.Node {
			mark = "* "
		}
		shown := printable(n.Name)
		if utf8.RuneCountInString(shown) > name {
			fmt.Fprintf(b, "%s%s\n", mark, shown)
			mark, shown = "  ", ""
		}
		writeRow(b, mark, shown, name, rows[i], widths)
		for _, wish := range n.Wishes {
			what := "to " + string(wish)
			if wish == node.WantWeight {
				what = "its new weight"
			}
			fmt.Fprintf(b, "    will be told %s when it comes back\n", what)
		}
		if n.Waiting != nil {
			wrap(b, "    ", fmt.Sprintf("%v; %s", n.Waiting, agent.EndsThem(n.Name, n.Phase)))
		}
	}
}

func nodeRow(n agent.NodeStatus, total int) []string {
	phase, health, buckets, flows := n.Phase, "ok", 0, 0
	for _, svc := range n.Services {
		buckets += svc.Own + svc.Adopt
		flows += svc.Flows
		if !svc.Healthy {
			health = "UNFIT"
		}
	}
	if !n.Alive {
		health = "-"
		if phase != node.Restarting.String() {
			phase = "SILENT"
		}
	}
	if n.Unknown {
		return []string{n.Address, phase, "?", fmt.Sprint(n.Weight), "?", "?", "?"}
	}
	return []string{
		n.Address, phase, health, fmt.Sprint(n.Weight), fmt.Sprint(buckets),
		fmt.Sprintf("%.1f%%", 100*float64(buckets)/float64(max(total, 1))), fmt.Sprint(flows),
	}
}

func writeRow(b *strings.Builder, mark, name string, width int, cells []string, widths []int) {
	line := mark + pad(name, width, false)
	for i, cell := range cells {
		line += strings.Repeat(" ", columnGap) + pad(cell, widths[i], nodeColumns[i].right)
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}

func pad(text string, width int, right bool) string {
	space := strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
	if right {
		return space + text
	}
	return text + space
}

// wrap writes text in lines of 80 columns, the first with the mark, the others
// below its text.
func wrap(b *strings.Builder, mark, text string) {
	indent := strings.Repeat(" ", utf8.RuneCountInString(mark))
	line, empty := mark, true
	for _, word := range strings.Fields(printable(text)) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > screenWidth {
			b.WriteString(line + "\n")
			line, empty = indent, true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	b.WriteString(line + "\n")
}

// printable keeps what others say, such as a health check's program, from
// commanding the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		if unicode.IsSpace(r) {
			return ' '
		}
		return '?'
	}, text)
}
