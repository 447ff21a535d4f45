package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
)

const (
	watchPeriod = time.Second
	screenWidth = 80
)

// newStatusCommand is `peervip status`.
func newStatusCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show this node and all others: who serves what, and what is wrong",
		Args:  usageArgs(cobra.NoArgs),
	}
	o := addOutputFlag(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again each second, until Ctrl-C")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := newClient(cmd)
		if watch {
			return watchStatus(cmd.Context(), client, *o, cmd.OutOrStdout())
		}
		s, err := client.Status(cmd.Context())
		if err != nil {
			return err
		}
		return printStatus(cmd.OutOrStdout(), *o, s)
	}
	return cmd
}

// watchStatus redraws the status each second; as JSON it prints one after the
// other. An agent that is away for a while is waited for.
func watchStatus(ctx context.Context, client *agent.Client, o output, w io.Writer) error {
	tick := time.NewTicker(watchPeriod)
	defer tick.Stop()
	for {
		s, err := client.Status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if o == outputTable {
			fmt.Fprint(w, "\x1b[H\x1b[2J") // home, and clear the screen
		}
		if err != nil {
			printError(w, err)
		} else if err := printStatus(w, o, s); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func printStatus(w io.Writer, o output, s agent.Status) error {
	if o == outputJSON {
		return printJSON(w, s)
	}
	fmt.Fprintf(w, "%s: node %s of cluster %s is %s\n", verdict(s), s.Node, s.Cluster, s.Phase)
	agreed := "agreed"
	if !s.Agreed {
		agreed = "NOT AGREED"
	}
	fmt.Fprintf(w, "address %s at %s, view %.8s %s\n", strings.Join(s.VIPs, ", "), s.MAC, s.View, agreed)
	fmt.Fprintf(w, "packets: %d accepted, %d dropped (the other nodes' share)\n\n", s.Counters["accepted_packets"], s.Counters["dropped_packets"])
	printNodes(w, s)
	if unfit := slices.DeleteFunc(slices.Clone(s.Health), func(h agent.HealthStatus) bool { return h.OK }); len(unfit) > 0 {
		fmt.Fprintln(w)
		for _, h := range unfit {
			wrap(w, "check  ", fmt.Sprintf("%s: %s: %s", h.Service, h.Check, h.Reason))
		}
	}
	if len(s.Problems) > 0 {
		fmt.Fprintln(w)
		for _, p := range s.Problems {
			wrap(w, "  !  ", p)
		}
	}
	return nil
}

// verdict says at a glance whether all is well.
func verdict(s agent.Status) string {
	for _, svc := range s.Services {
		if svc.Unclaimed > 0 {
			return fmt.Sprintf("NOT WELL, %d of %d buckets unclaimed", svc.Unclaimed, svc.Buckets)
		}
		if svc.ClaimedTwice > 0 {
			return fmt.Sprintf("NOT WELL, %d of %d buckets claimed twice", svc.ClaimedTwice, svc.Buckets)
		}
	}
	switch n := len(s.Problems); n {
	case 0:
		return "OK"
	case 1:
		return "1 PROBLEM"
	default:
		return fmt.Sprintf("%d PROBLEMS", n)
	}
}

// printNodes prints a line a node, in 80 columns unless names are long.
func printNodes(w io.Writer, s agent.Status) {
	width := len("NODE")
	for _, n := range s.Nodes {
		width = max(width, len(n.Name)+2)
	}
	total := 0
	for _, svc := range s.Services {
		total += svc.Buckets
	}
	fmt.Fprintf(w, "%-*s  %-15s  %-9s  %-6s %6s %8s %7s %7s\n", width, "NODE", "ADDRESS", "PHASE", "HEALTH", "WEIGHT", "BUCKETS", "SHARE", "FLOWS")
	for _, n := range s.Nodes {
		name, phase, health := n.Name, n.Phase, "ok"
		if n.Name == s.Node {
			name += " *"
		}
		buckets, flows := 0, 0
		for _, svc := range n.Services {
			buckets += svc.Own + svc.Adopt
			flows += svc.Flows
			if !svc.Healthy {
				health = "UNFIT"
			}
		}
		if !n.Alive {
			phase, health = "DEAD", "-"
		}
		line := fmt.Sprintf("%-*s  %-15s  %-9s  %-6s %6d %8d %6.1f%% %7d", width, name, n.Address, phase, health,
			n.Weight, buckets, 100*float64(buckets)/float64(max(total, 1)), flows)
		if n.Wish != "" {
			line += "  will be told to " + n.Wish
		}
		fmt.Fprintln(w, line)
	}
}

// wrap prints text in lines of 80 columns, the first with the mark, the others
// below its text.
func wrap(w io.Writer, mark, text string) {
	line := mark
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > screenWidth && strings.TrimSpace(line) != strings.TrimSpace(mark) {
			fmt.Fprintln(w, strings.TrimRight(line, " "))
			line = strings.Repeat(" ", len(mark))
		}
		line += word + " "
	}
	fmt.Fprintln(w, strings.TrimRight(line, " "))
}
