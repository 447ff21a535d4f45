package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/node"
)

const (
	exitFailure = 1 // something went wrong
	exitUsage   = 2 // the command line is wrong
	// exitConfig, EX_CONFIG of sysexits.h: only an edit can cure it. The unit has systemd
	// not start the agent again after it.
	exitConfig = 78
)

// codeError is an error with an exit code of its own.
type codeError struct {
	error
	code int
}

func (e *codeError) Unwrap() error { return e.error }

// usageError is a command line that cannot be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usageArgs marks what a command says of its arguments as a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
		}
		return nil
	}
}

// argCount takes from least to most arguments, and says otherwise how the command line looks.
func argCount(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if n := len(args); n < least || n > most {
			return fmt.Errorf("want `%s`, got %s", strings.TrimSuffix(cmd.UseLine(), " [flags]"), node.Count(n, "arguments"))
		}
		return nil
	}
}

// usageFlags does the same as usageArgs for flags; it is for SetFlagErrorFunc of the root.
func usageFlags(cmd *cobra.Command, err error) error {
	return &usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
}

// exitCode is the process's exit code after err.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if coded, ok := errors.AsType[*codeError](err); ok {
		return coded.code
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if errors.As(err, new(*configError)) || errors.As(err, new(*agent.EditError)) {
		return exitConfig
	}
	return exitFailure
}

// commandCode is the exit code of the command that args has asked for. To `status --check`
// 2 is a node that is not well, so a command line that is wrong is 3 there.
func commandCode(cmd *cobra.Command, args []string, err error) int {
	if _, usage := errors.AsType[*usageError](err); usage && cmd.Name() == "status" && slices.Contains(args, "--check") {
		return checkFailed
	}
	return exitCode(err)
}

// printError writes the error, each of its lines under the program's name.
func printError(w io.Writer, err error) { printErrorAs(w, "peervip: ", err) }

func printErrorAs(w io.Writer, prefix string, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(w, prefix+line)
	}
}
