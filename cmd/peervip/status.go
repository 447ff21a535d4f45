package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
)

const watchPeriod = time.Second

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
			w := watcher{client: client, output: *o, out: cmd.OutOrStdout(), errors: cmd.ErrOrStderr(), period: watchPeriod}
			return w.run(cmd.Context())
		}
		s, err := client.Status(cmd.Context())
		if err != nil {
			return err
		}
		return printStatus(cmd.OutOrStdout(), *o, s)
	}
	return cmd
}

// watcher shows the status again and again: the table in place, JSON one after
// the other. An agent that is away is waited for.
type watcher struct {
	client interface {
		Status(context.Context) (agent.Status, error)
	}
	output      output
	out, errors io.Writer
	period      time.Duration
}

// redraw is home, and clear the screen (ECMA-48: CUP, ED).
const redraw = "\x1b[H\x1b[2J"

func (w *watcher) run(ctx context.Context) error {
	tick := time.NewTicker(w.period)
	defer tick.Stop()
	for {
		s, err := w.client.Status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := w.show(s, err); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// show writes at once what is to be seen at once: a screen that is cleared and
// filled in steps flickers.
func (w *watcher) show(s agent.Status, failed error) error {
	var screen bytes.Buffer
	if w.output == outputTable {
		screen.WriteString(redraw)
	}
	switch {
	case failed == nil:
		if err := printStatus(&screen, w.output, s); err != nil {
			return err
		}
	case w.output == outputTable:
		printError(&screen, failed)
	default:
		printError(w.errors, failed)
		return nil
	}
	if _, err := w.out.Write(screen.Bytes()); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}

func printStatus(w io.Writer, o output, s agent.Status) error {
	if o == outputJSON {
		return printJSON(w, s)
	}
	if _, err := io.WriteString(w, statusTable(s)); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}
