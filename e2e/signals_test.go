package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// inLog waits until the node's log says it.
func inLog(t *testing.T, n *lab.Node, words string) {
	t.Helper()
	eventually(t, func() error {
		if log := n.Log(); !strings.Contains(log, words) {
			return fmt.Errorf("the log of %s does not say %q:\n%s", n.Name, words, log)
		}
		return nil
	})
}

// peervip runs the program on the node as an operator would, and returns its exit code.
func peervip(t *testing.T, n *lab.Node, args ...string) (code int, output string) {
	t.Helper()
	binary, err := tested()
	must(t, err)
	cmd := exec.CommandContext(patiently(t), "ip", append([]string{"netns", "exec", n.NS.Name, binary}, args...)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// A reload takes what it can and names the rest; a configuration that cannot be used
// changes nothing, whoever asks for it. No signal of an everyday mistake ends a node.
func TestSignalsThatEndNothing(t *testing.T) {
	l := cluster(t, 2)
	n := l.Nodes[0]
	pid := n.PID()
	kill := func(s syscall.Signal) {
		t.Helper()
		must(t, syscall.Kill(pid, s))
	}
	kill(syscall.SIGPIPE)
	kill(syscall.SIGHUP)
	inLog(t, n, "nothing has changed in the configuration")

	n.Config.Log.Level = "debug"
	n.Config.Node.Weight = 70
	must(t, n.WriteConfig())
	kill(syscall.SIGHUP)
	inLog(t, n, "reloaded: log.level")
	inLog(t, n, "for the next start (`systemctl restart peervip` breaks no connection): node.weight")

	file := filepath.Join(n.Dir, "peervip.yaml")
	must(t, os.WriteFile(file, []byte("node: {interface: eth0, wieght: 7}\nlog: {level: error}\n"), 0o600))
	kill(syscall.SIGHUP)
	inLog(t, n, "nothing is reloaded: node.wieght: unknown key: did you mean node.weight?")
	code, out := peervip(t, n, "reload", "--socket", n.Config.Control.Socket)
	if code != 78 || !strings.Contains(out, "peervip: node.wieght: unknown key") {
		t.Errorf("reload of a broken configuration: exit code %d\n%s", code, out)
	}
	if code, out := peervip(t, n, "agent", "--check-config", "--config", file); code != 78 {
		t.Errorf("a check of a broken configuration: exit code %d\n%s", code, out)
	}
	must(t, n.WriteConfig())
	if code, out := peervip(t, n, "reload", "--socket", n.Config.Control.Socket); code != 0 || !strings.Contains(out, "node.weight") {
		t.Errorf("reload: exit code %d\n%s", code, out)
	}
	if code, out := peervip(t, n, "agent", "--check-config", "--config", file); code != 0 || !strings.Contains(out, "is good") {
		t.Errorf("a check beside the running agent: exit code %d\n%s", code, out)
	}
	if code, out := peervip(t, n, "status", "--check", "--socket", n.Config.Control.Socket); code != 0 {
		t.Errorf("status --check: exit code %d\n%s", code, out)
	}
	if n.PID() != pid {
		t.Errorf("process %d is %d now", pid, n.PID())
	}
	settle(t, l, l.Nodes...)

	// timeout(1) sends it to the process, and to its group.
	kill(syscall.SIGTERM)
	kill(syscall.SIGTERM)
	must(t, n.WaitExit(patiently(t)))
	if log := n.Log(); !strings.Contains(log, "this node has left") || strings.Contains(log, "ending at once") {
		t.Errorf("two signals that are one:\n%s", log)
	}
	if code, out := peervip(t, n, "status", "--check", "--socket", n.Config.Control.Socket); code != 3 {
		t.Errorf("status --check without an agent: exit code %d\n%s", code, out)
	}
}

// An agent whose log nobody reads lives on, from its first line on, and says so.
func TestReaderOfTheLogEnds(t *testing.T) {
	l := build(t, 2)
	others, n := l.Nodes[:1], l.Nodes[1]
	start(t, others...)
	must(t, n.WriteConfig())
	binary, err := tested()
	must(t, err)
	cmd := exec.Command("ip", "netns", "exec", n.NS.Name, binary, "agent", "--config", filepath.Join(n.Dir, "peervip.yaml"))
	reader, writer, err := os.Pipe()
	must(t, err)
	must(t, reader.Close())
	cmd.Stderr = writer
	cmd.Env = append(os.Environ(), "PEERVIP_TYPO=1") // a line of log before anything else
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	must(t, writer.Close())
	says(t, n, "the log of this agent is lost: .*broken pipe")
	eventually(t, func() error {
		s, err := n.Status(t.Context())
		if err == nil && s.Phase != "active" {
			err = fmt.Errorf("it is %s", s.Phase)
		}
		return err
	})
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-ended:
		must(t, err)
	case <-time.After(patience):
		t.Error("it does not end")
		_ = cmd.Process.Kill()
	}
}

// What only an edit can cure ends the agent with 78, and leaves the host as it was.
func TestExitCodes(t *testing.T) {
	l := build(t, 1)
	n := l.Nodes[0]
	before := hostState(t, n)
	must(t, n.WriteConfig())
	file := filepath.Join(n.Dir, "peervip.yaml")
	for _, tt := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"no key", []string{"--config", file, "--key-file", "/nonexistent"}, 78, "cluster.key_file: /nonexistent does not exist"},
		{"an interface that cannot work", []string{"--config", file, "--interface", "lo"}, 78, "node.interface: lo reaches no other node"},
		{"no file", []string{"--config", "/nonexistent"}, 78, "/nonexistent"},
		{"a flag that there is not", []string{"--confg", file}, 2, "unknown flag"},
		{"a missing interface is waited for", []string{"--config", file, "--interface", "eth7", "--check-config"}, 0, "warning: node.interface: there is no interface eth7: this host has lo, eth0; the agent would wait for it"},
		{"a check that fails", []string{"--config", file, "--interface", "lo", "--check-config"}, 78, "node.interface: lo reaches no other node"},
	} {
		if code, out := peervip(t, n, append([]string{"agent"}, tt.args...)...); code != tt.code || !strings.Contains(out, tt.says) {
			t.Errorf("%s: exit code %d, want %d with %q:\n%s", tt.name, code, tt.code, tt.says, out)
		}
	}
	if after := hostState(t, n); after != before {
		t.Errorf("left behind:\n%s\nbefore it was:\n%s", after, before)
	}
}
