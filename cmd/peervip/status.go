package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/node"
)

const watchPeriod = time.Second

// newStatusCommand is `peervip status`.
func newStatusCommand() *cobra.Command {
	var watch, check bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show this node and all others: who serves what, and what is wrong",
		Long: `Shows this node and all others, as this one sees them. With --check the exit code
says how it is, for scripts and monitoring: 0 well (draining and drained nodes
are), 1 problems, 2 not well or not serving, 3 no answer or a usage error.
Without it the exit code is 0 whenever the agent answers.`,
		Args: usageArgs(argCount(0, 0)),
	}
	o := addOutputFlag(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again each second, until Ctrl-C")
	cmd.Flags().BoolVar(&check, "check", false, "exit with 0, 1, 2 or 3: how it is")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := newClient(cmd)
		if watch && check {
			return &usageError{errors.New("--watch and --check exclude each other (see peervip status --help)")}
		}
		if watch {
			w := watcher{client: client, output: *o, out: cmd.OutOrStdout(), errors: cmd.ErrOrStderr(), period: watchPeriod,
				rows: func() int { return rowsOf(cmd.OutOrStdout()) }}
			return w.run(cmd.Context())
		}
		s, err := client.Status(cmd.Context())
		if err != nil && check {
			return &codeError{err, checkFailed}
		}
		if err == nil {
			err = printStatus(cmd.OutOrStdout(), *o, s)
		}
		if err == nil && check {
			err = checked(s)
		}
		return err
	}
	return cmd
}

// The exit codes of --check, those of monitoring plugins.
const (
	checkProblems = 1
	checkNotWell  = 2
	checkFailed   = 3
)

// errNotWell is all that --check has to say by its exit code: the status is printed.
var errNotWell = errors.New("not all is well")

// checked is nil if all is well.
func checked(s agent.Status) error {
	switch text := s.Verdict(); {
	case strings.HasPrefix(text, "NOT "):
		return &codeError{errNotWell, checkNotWell}
	case len(s.Problems) > 0:
		return &codeError{errNotWell, checkProblems}
	}
	return nil
}

// watcher shows the status again and again: the table in place, JSON one after
// the other. An agent that is away is waited for.
type watcher struct {
	client interface {
		Status(context.Context) (agent.Status, error)
	}
	output      output
	out, errors io.Writer
	rows        func() int // of the screen; 0, or nil: as many as there are lines
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
	seen := screen.Bytes()
	if w.output == outputTable && w.rows != nil {
		seen = firstRows(seen, w.rows())
	}
	if _, err := w.out.Write(seen); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}

// firstRows is what fits on a screen of so many rows, so that the verdict does not
// scroll away; 0: the whole.
func firstRows(text []byte, rows int) []byte {
	lines := bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	if rows < 3 || len(lines) < rows {
		return text
	}
	kept := rows - 2 // the cursor needs the last row
	more := fmt.Sprintf("... and %s more: `peervip status` shows all\n", node.Count(len(lines)-kept, "lines"))
	return append(bytes.Join(lines[:kept], nil), more...)
}

// rowsOf is how many rows the terminal has; 0: it is none.
func rowsOf(out io.Writer) int {
	file, ok := out.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Row)
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
