package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// In a container with a user namespace of its own (LXD, rootless podman) root may not
// force the size of a socket's buffer, lock memory or take a real-time class. The agent
// does with what it gets, and serves.
func TestAnUnprivilegedContainerServes(t *testing.T) {
	t.Parallel()
	program, err := tested()
	must(t, err)
	neighbour, err := lab.NewNamespace(lab.UniquePrefix() + "-peer")
	must(t, err)
	t.Cleanup(func() { must(t, neighbour.Close()) })
	shell := func(format string, args ...any) {
		t.Helper()
		if out, err := neighbour.Run("sh", "-ec", fmt.Sprintf(format, args...)); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// The container is a process that waits; what joins its namespaces is in it.
	container := exec.Command("unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo ready; exec sleep 600")
	out, err := container.StdoutPipe()
	must(t, err)
	must(t, container.Start())
	t.Cleanup(func() {
		container.Process.Kill()
		container.Wait()
	})
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	inside := func(args ...string) *exec.Cmd {
		return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(container.Process.Pid), "-U", "-n", "--preserve-credentials"}, args...)...)
	}
	shell("ip link add eth1 type veth peer name eth0 netns %d; ip addr add 192.0.2.50/24 dev eth1; ip link set eth1 up", container.Process.Pid)
	if out, err := inside("sh", "-ec", "ip link set lo up; ip addr add 192.0.2.11/24 dev eth0; ip link set eth0 up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, lab.WriteKey(t.Context(), program, filepath.Join(dir, "key")))
	config := fmt.Sprintf(`
node: {name: n1, interface: eth0, state_dir: %[1]s/state}
cluster: {name: t, key_file: %[1]s/key, join: [192.0.2.50]}
control: {socket: %[1]s/sock}
spec: {vips: [192.0.2.100], buckets: 4096}
`, dir)
	must(t, os.WriteFile(filepath.Join(dir, "c.yaml"), []byte(config), 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	defer log.Close()
	agent := inside(program, "agent", "--config", filepath.Join(dir, "c.yaml"))
	agent.Stdout, agent.Stderr = log, log
	must(t, agent.Start())
	ended := make(chan error, 1)
	go func() { ended <- agent.Wait() }()
	defer func() {
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s", text)
		}
	}()
	eventuallyServes := time.Now().Add(patience)
	for {
		if out, err := neighbour.Run("ping", "-c", "1", "-W", "1", "192.0.2.100"); err == nil {
			break
		} else if time.Now().After(eventuallyServes) {
			t.Errorf("it does not serve: %s", out)
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("the agent has ended: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	text, err := exec.CommandContext(ctx, program, "status", "--socket", filepath.Join(dir, "sock"), "-o", "json").Output()
	must(t, err)
	var status struct{ Beacons struct{ Untuned string } }
	must(t, json.Unmarshal(text, &status))
	if !strings.Contains(status.Beacons.Untuned, "nice value") {
		t.Errorf("what was refused is told as %q", status.Beacons.Untuned)
	}
	must(t, agent.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-ended:
		must(t, err)
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	left, err := inside("sh", "-c", "nft list ruleset; ip -o addr show dev lo; cat /proc/sys/net/ipv4/conf/eth0/arp_ignore").CombinedOutput()
	if err != nil || strings.Contains(string(left), "peervip") || strings.Contains(string(left), "192.0.2.100") || !strings.HasSuffix(strings.TrimSpace(string(left)), "0") {
		t.Errorf("left in the container: %s (%v)", left, err)
	}
}
