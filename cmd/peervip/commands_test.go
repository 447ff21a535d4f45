package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// rootOf is a root as main has it, with only these commands.
func rootOf(commands ...*cobra.Command) *cobra.Command {
	root := &cobra.Command{Use: "peervip", SilenceErrors: true, SilenceUsage: true, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	root.SetFlagErrorFunc(usageFlags)
	root.AddCommand(commands...)
	return root
}

func runCommand(t *testing.T, root *cobra.Command, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errOut)
	root.SetArgs(args)
	err = root.Execute()
	return out.String(), errOut.String(), err
}

func TestKeygen(t *testing.T) {
	seen := make(map[string]bool)
	for range 10 {
		stdout, stderr, err := runCommand(t, rootOf(newKeygenCommand()), "keygen")
		if err != nil || stderr != "" {
			t.Fatalf("error %v, stderr %q", err, stderr)
		}
		key, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(stdout, "\n"))
		if err != nil || len(key) != 32 || strings.Count(stdout, "\n") != 1 {
			t.Fatalf("%q: %d bytes, error %v", stdout, len(key), err)
		}
		if seen[stdout] {
			t.Fatalf("%q twice", stdout)
		}
		seen[stdout] = true
		if keys, err := parseKeys([]byte(stdout)); err != nil || string(keys[0]) != string(key) {
			t.Errorf("as a key file: %d keys, error %v", len(keys), err)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestKeygenSaysWhenTheKeyIsLost(t *testing.T) {
	root := rootOf(newKeygenCommand())
	root.SetOut(brokenWriter{})
	root.SetArgs([]string{"keygen"})
	if err := root.Execute(); err == nil || err.Error() != "writing the key: disk full" {
		t.Errorf("error %v", err)
	}
}

// On a terminal, and only there, a hint follows, on the error output.
func TestKeygenHintOnATerminal(t *testing.T) {
	master, terminal := openTerminal(t)
	defer master.Close()
	defer terminal.Close()
	plain, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for _, test := range []struct {
		out  *os.File
		want string
	}{
		{terminal, "Keep it in a file: (umask 077; peervip keygen > /etc/peervip/key), and copy that file to every node.\n"},
		{plain, ""},
	} {
		var stderr bytes.Buffer
		root := rootOf(newKeygenCommand())
		root.SetOut(test.out)
		root.SetErr(&stderr)
		root.SetArgs([]string{"keygen"})
		if err := root.Execute(); err != nil || stderr.String() != test.want {
			t.Errorf("%s: error %v, stderr %q, want %q", test.out.Name(), err, stderr.String(), test.want)
		}
	}
}

// openTerminal makes a pseudoterminal (pty(7)).
func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, terminal
}

func TestVersion(t *testing.T) {
	stdout, stderr, err := runCommand(t, rootOf(newVersionCommand()), "version")
	if err != nil || stderr != "" || !strings.HasPrefix(stdout, "peervip ") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("%q, %q, %v", stdout, stderr, err)
	}
	build := func(version string, settings ...string) *debug.BuildInfo {
		info := &debug.BuildInfo{Main: debug.Module{Version: version}}
		for i := 0; i < len(settings); i += 2 {
			info.Settings = append(info.Settings, debug.BuildSetting{Key: settings[i], Value: settings[i+1]})
		}
		return info
	}
	const revision = "0123456789abcdef0123456789abcdef01234567"
	for _, test := range []struct {
		version string
		info    *debug.BuildInfo
		want    string
	}{
		{"", nil, "peervip (devel) (go"},
		{"v1.2.3", nil, "peervip v1.2.3 (go"},
		{"", build("v0.9.0"), "peervip v0.9.0 (go"},
		{"v1.2.3", build("v0.9.0", "vcs.revision", revision, "vcs.modified", "false"), "peervip v1.2.3 (commit 0123456789ab, go"},
		{"", build("(devel)", "vcs.revision", revision, "vcs.modified", "true"), "peervip (devel) (commit 0123456789ab with changes, go"},
		{"", build("", "vcs.revision", "012"), "peervip (devel) (commit 012, go"},
	} {
		if got := versionLine(test.version, test.info); !strings.HasPrefix(got, test.want) {
			t.Errorf("%q, want %q…", got, test.want)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		stdout, stderr, err := runCommand(t, newRootCommand(), "completion", shell)
		if err != nil || stderr != "" || !strings.Contains(stdout, "peervip") {
			t.Errorf("%s: %d bytes, stderr %q, error %v", shell, len(stdout), stderr, err)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, test := range []struct {
		args    []string
		code    int
		message string
	}{
		{[]string{"version"}, 0, ""},
		{[]string{"--help"}, 0, ""},
		{[]string{"no-such-command"}, 2, `unknown command "no-such-command" (see peervip --help)`},
		{[]string{"keyge"}, 2, `unknown command "keyge": did you mean keygen? (see peervip --help)`},
		{[]string{"--no-such-flag"}, 2, "unknown flag: --no-such-flag (see peervip --help)"},
		{[]string{"keygen", "--no-such-flag"}, 2, "unknown flag: --no-such-flag (see peervip keygen --help)"},
		{[]string{"keygen", "x"}, 2, "want `peervip keygen`, got 1 argument (see peervip keygen --help)"},
		{[]string{"lab", "x"}, 2, "want `peervip lab`, got 1 argument (see peervip lab --help)"},
		{[]string{"lab", "--nodes", "1"}, 2, "--nodes 1: choose 2 to 12 (see peervip lab --help)"},
		{[]string{"lab", "--clients", "0"}, 2, "--clients 0: choose 1 to 64 (see peervip lab --help)"},
		{[]string{"version", "x"}, 2, "want `peervip version`, got 1 argument (see peervip version --help)"},
	} {
		stdout, _, err := runCommand(t, newRootCommand(), test.args...)
		message := ""
		if err != nil {
			message = err.Error()
		}
		if code := exitCode(err); code != test.code || message != test.message {
			t.Errorf("%v: exit code %d, error %q, want %d, %q", test.args, code, message, test.code, test.message)
		}
		if (err == nil) == (stdout == "") {
			t.Errorf("%v: standard output %q", test.args, stdout)
		}
	}
	if code := exitCode(&configError{[]string{"x"}}); code != exitConfig {
		t.Errorf("a bad configuration: exit code %d", code)
	}
	var out bytes.Buffer
	printError(&out, &configError{[]string{"a: b", "c: d"}})
	if out.String() != "peervip: a: b\npeervip: c: d\n" {
		t.Errorf("%q", out.String())
	}
}
