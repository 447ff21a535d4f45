package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
)

// output is how a command prints its answer: for people, or for programs.
type output string

const (
	outputTable output = "table"
	outputJSON  output = "json"
)

func (o *output) String() string { return string(*o) }
func (o *output) Type() string   { return "table|json" }
func (o *output) Set(text string) error {
	switch output(text) {
	case outputTable, outputJSON:
		*o = output(text)
		return nil
	}
	return fmt.Errorf("want table or json")
}

// addOutputFlag gives a command -o.
func addOutputFlag(cmd *cobra.Command) *output {
	o := outputTable
	cmd.Flags().VarP(&o, "output", "o", "how to print the answer")
	return &o
}

func newClient(cmd *cobra.Command) *agent.Client { return agent.NewClient(socketPath(cmd)) }

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// nodeArg is the node that a command is about: its argument, else "", which is
// the node that is asked.
func nodeArg(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return ""
}

// printReply prints what a command has done, and what was special about it.
func printReply(cmd *cobra.Command, o output, r agent.Reply, done string) error {
	if o == outputJSON {
		return printJSON(cmd.OutOrStdout(), r)
	}
	if r.Note != "" {
		done = r.Note
	}
	fmt.Fprintln(cmd.OutOrStdout(), done)
	return nil
}
