package main

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/node/health"
)

const (
	testKey1 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	testKey2 = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
)

func countUp(from byte) []byte {
	key := make([]byte, 32)
	for i := range key {
		key[i] = from + byte(i)
	}
	return key
}

// cleanEnvironment takes the tester's own PEERVIP_* variables away for a test.
func cleanEnvironment(t *testing.T) {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "PEERVIP_") {
			t.Setenv(name, "") // so that it is put back
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func writeFile(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// load runs loadConfig as the command `agent` of a root with --socket would.
func load(t testing.TB, args ...string) (agent.Config, []string, error) {
	t.Helper()
	var config agent.Config
	var warnings []string
	run := &cobra.Command{Use: "agent", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		var err error
		config, warnings, err = loadConfig(cmd)
		return err
	}}
	addConfigFlags(run)
	root := &cobra.Command{Use: "peervip", SilenceErrors: true, SilenceUsage: true}
	root.SetOut(new(bytes.Buffer))
	addSocketFlag(root)
	root.AddCommand(run)
	root.SetArgs(append([]string{"agent"}, args...))
	err := root.Execute()
	return config, warnings, err
}

// enough is the least that runs.
var enough = []string{"--name=n", "--interface=eth0", "--vip=192.0.2.100", "--insecure"}

func TestFlagsAloneAreEnough(t *testing.T) {
	cleanEnvironment(t)
	got, warnings, err := load(t, enough...)
	if err != nil {
		t.Fatal(err)
	}
	want := agent.Config{
		Name: "n", Interface: "eth0", Weight: 100, StateDir: "/var/lib/peervip",
		Cluster: "peervip", Insecure: true, Port: 7946, BeaconPort: 7947,
		Spec: agent.Spec{
			Revision: 1, VIPs: []netip.Addr{netip.MustParseAddr("192.0.2.100")}, MAC: "multicast", Buckets: 1024,
			Detect: agent.Detect{Interval: 20 * time.Millisecond, Misses: 10}, DrainTimeout: 5 * time.Minute, WhenNoneHealthy: agent.ServeAnyway,
			Services: []agent.Service{{Name: "other", Affinity: agent.AffinityClient, Mode: agent.ModeShared, Linger: agent.LingerTCP}},
		},
		Socket: "/run/peervip/peervip.sock", LogLevel: slog.LevelInfo, LogFormat: "text",
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if warnings != nil {
		t.Errorf("warnings %q", warnings)
	}
}

func TestTheNameIsTheHostsByDefault(t *testing.T) {
	cleanEnvironment(t)
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if !isName(hostname) {
		t.Fatalf("this machine's name %q is not fit for this test", hostname)
	}
	got, _, err := load(t, enough[1:]...)
	if err != nil || got.Name != hostname {
		t.Errorf("name %q, error %v, want %q", got.Name, err, hostname)
	}

	raw := rawDefaults()
	raw.Node.Interface, raw.Spec.VIPs, raw.Cluster.Insecure = "eth0", []string{"192.0.2.1"}, true
	for _, test := range []struct {
		hostname string
		err      error
		want     string
	}{
		{"bad host", nil, `not set, and the host name "bad host" is none: want 1 to 63 letters, digits, dots, dashes or underscores: set it, with --name or PEERVIP_NODE_NAME`},
		{"", errors.New("no /proc"), "not set, and the host name cannot be had: no /proc: set it, with --name or PEERVIP_NODE_NAME"},
	} {
		_, faults := parseConfig(raw, func() (string, error) { return test.hostname, test.err }, time.Millisecond)
		if diff := cmp.Diff([]keyError{{"node.name", test.want}}, faults, cmp.AllowUnexported(keyError{})); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

const everything = `
node:
  name: web-1
  interface: eth1
  address: 192.0.2.11
  weight: 200
  state_dir: /srv/peervip/
cluster:
  name: web
  key_file: KEYFILE
  join: [192.0.2.12, "web-3.example.org:7000", "[2001:db8::1]:7001", "2001:db8::2"]
  port: 8946
  beacon_port: 8947
spec:
  revision: 4
  vips: [192.0.2.100, 192.0.2.101]
  mac: 02-BF-01-02-03-04
  buckets: 512
  seed: 4294967295
  detect: {interval: 50ms, misses: 8}
  drain_timeout: 0s
  when_none_healthy: drop
  services:
    - name: other
      ports: []
      affinity: client
      mode: single
      preempt: true
      linger: none
      health:
        - {type: http, target: "https://127.0.0.1/healthz", interval: 5s, timeout: 4s, jitter: 0, fall: 4, rise: 1,
           status: 200, body: OK, host: www.example.org, skip_verify: true}
        - {type: tcp, target: "127.0.0.1:80"}
        - {type: exec, command: [/bin/check, -x]}
control: {socket: /run/x.sock}
http: {listen: ""}
hooks: {on_change: ""}
log: {level: debug, format: json}
`

func TestEveryKey(t *testing.T) {
	cleanEnvironment(t)
	keys := writeFile(t, "key", testKey1+"\n# the old one\n"+testKey2+"\n", 0o600)
	file := writeFile(t, "peervip.yaml", strings.Replace(everything, "KEYFILE", keys, 1), 0o644)
	got, _, err := load(t, "--config", file)
	if err != nil {
		t.Fatal(err)
	}
	want := agent.Config{
		Name: "web-1", Interface: "eth1", Address: netip.MustParseAddr("192.0.2.11"), Weight: 200, StateDir: "/srv/peervip",
		Cluster: "web", Keys: agent.Keyring{countUp(0), countUp(0x20)},
		Join: []string{"192.0.2.12:8946", "web-3.example.org:7000", "[2001:db8::1]:7001", "[2001:db8::2]:8946"},
		Port: 8946, BeaconPort: 8947,
		Spec: agent.Spec{
			Revision: 4, VIPs: []netip.Addr{netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("192.0.2.101")},
			MAC: "02:bf:01:02:03:04", Buckets: 512, Seed: 1<<32 - 1,
			Detect: agent.Detect{Interval: 50 * time.Millisecond, Misses: 8}, WhenNoneHealthy: agent.DropAll,
			Services: []agent.Service{{Name: "other", Affinity: agent.AffinityClient, Mode: agent.ModeSingle, Preempt: true, Linger: agent.LingerNone, Health: []health.Check{
				{Type: health.HTTP, Target: "https://127.0.0.1/healthz", Interval: 5 * time.Second, Timeout: 4 * time.Second, Rise: 1, Fall: 4,
					Status: []health.StatusRange{{From: 200, To: 200}}, Body: "OK", Host: "www.example.org", SkipVerify: true},
				{Type: health.TCP, Target: "127.0.0.1:80", Interval: 2 * time.Second, Timeout: time.Second, Jitter: 0.1, Rise: 2, Fall: 3},
				{Type: health.Exec, Command: []string{"/bin/check", "-x"}, Interval: 2 * time.Second, Timeout: time.Second, Jitter: 0.1, Rise: 2, Fall: 3},
			}}},
		},
		Socket: "/run/x.sock", LogLevel: slog.LevelDebug, LogFormat: "json",
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Defaults, file, environment, flags: the later wins, key by key.
func TestTheLaterWins(t *testing.T) {
	cleanEnvironment(t)
	file := writeFile(t, "c.yaml", "node: {name: file, weight: 2, interface: file0}\ncluster: {join: [file], insecure: true}\nspec: {vips: [192.0.2.1, 192.0.2.2]}\ncontrol: {socket: /file}", 0o644)
	for _, test := range []struct {
		name                    string
		env                     map[string]string
		args                    []string
		wantName                string
		wantWeight              int
		wantJoin, wantInterface string
		wantSocket              string
		wantVIPs                int
	}{
		{"the file alone", nil, nil, "file", 2, "file:7946", "file0", "/file", 2},
		{"an empty variable is none", map[string]string{"PEERVIP_NODE_NAME": "", "PEERVIP_NODE_WEIGHT": ""}, nil, "file", 2, "file:7946", "file0", "/file", 2},
		{"environment over file", map[string]string{"PEERVIP_NODE_NAME": "env", "PEERVIP_NODE_WEIGHT": "3", "PEERVIP_CLUSTER_JOIN": "env1, env2", "PEERVIP_CONTROL_SOCKET": "/env"}, nil,
			"env", 3, "env1:7946 env2:7946", "file0", "/env", 2},
		{"flags over environment", map[string]string{"PEERVIP_NODE_NAME": "env", "PEERVIP_NODE_WEIGHT": "3", "PEERVIP_CLUSTER_JOIN": "env1,env2", "PEERVIP_SPEC_VIPS": "192.0.2.3"},
			[]string{"--name=flag", "--weight=4", "--join=flag1,flag2", "--join", "[::1]:9", "--interface=flag0", "--socket=/flag", "--vip", "192.0.2.4", "--vip", "192.0.2.5"},
			"flag", 4, "flag1:7946 flag2:7946 [::1]:9", "flag0", "/flag", 2},
		{"a flag over a variable that cannot be read", map[string]string{"PEERVIP_NODE_WEIGHT": "heavy"}, []string{"--weight=100"}, "file", 100, "file:7946", "file0", "/file", 2},
		{"a variable of the name of a section hides nothing", map[string]string{"PEERVIP_NODE": "x", "PEERVIP_SPEC": "y"}, nil, "file", 2, "file:7946", "file0", "/file", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			got, _, err := load(t, append([]string{"--config", file}, test.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			if got.Name != test.wantName || got.Weight != test.wantWeight || strings.Join(got.Join, " ") != test.wantJoin ||
				got.Interface != test.wantInterface || got.Socket != test.wantSocket || len(got.Spec.VIPs) != test.wantVIPs {
				t.Errorf("%+v", got)
			}
		})
	}
	t.Run("the file by environment", func(t *testing.T) {
		t.Setenv("PEERVIP_CONFIG", file)
		if got, warnings, err := load(t); err != nil || got.Name != "file" || warnings != nil {
			t.Errorf("%q, %q, %v", got.Name, warnings, err)
		}
		other := writeFile(t, "d.yaml", "node: {name: other}", 0o644)
		if got, _, err := load(t, append(enough[1:], "--config", other)...); err != nil || got.Name != "other" {
			t.Errorf("%q, %v", got.Name, err)
		}
	})
}

// Every key outside of lists can be set by its variable.
func TestEveryVariable(t *testing.T) {
	cleanEnvironment(t)
	keys := writeFile(t, "key", testKey1, 0o600)
	values := map[string]string{
		"node.name": "e", "node.interface": "eth7", "node.address": "192.0.2.7", "node.weight": "7", "node.state_dir": "/7",
		"cluster.name": "c7", "cluster.key_file": keys, "cluster.insecure": "false", "cluster.join": "a:7,b:8", "cluster.port": "77", "cluster.beacon_port": "78",
		"spec.revision": "7", "spec.vips": "192.0.2.107,192.0.2.108", "spec.mac": "unicast", "spec.buckets": "77", "spec.seed": "4000000000",
		"spec.detect.interval": "77ms", "spec.detect.misses": "17", "spec.drain_timeout": "7m", "spec.when_none_healthy": "drop",
		"control.socket": "/7.sock", "http.listen": "", "hooks.on_change": "", "log.level": "warn", "log.format": "json",
	}
	for _, k := range leaves(reflect.ValueOf(rawDefaults()), "") {
		value, ok := values[k.key]
		if !ok {
			t.Errorf("the test sets no value for %s", k.key)
		}
		t.Setenv(envName(k.key), value)
	}
	got, warnings, err := load(t)
	if err != nil {
		t.Fatal(err)
	}
	want := agent.Config{
		Name: "e", Interface: "eth7", Address: netip.MustParseAddr("192.0.2.7"), Weight: 7, StateDir: "/7",
		Cluster: "c7", Keys: agent.Keyring{countUp(0)}, Join: []string{"a:7", "b:8"}, Port: 77, BeaconPort: 78,
		Spec: agent.Spec{
			Revision: 7, VIPs: []netip.Addr{netip.MustParseAddr("192.0.2.107"), netip.MustParseAddr("192.0.2.108")}, MAC: "unicast", Buckets: 77, Seed: 4000000000,
			Detect: agent.Detect{Interval: 77 * time.Millisecond, Misses: 17}, DrainTimeout: 7 * time.Minute, WhenNoneHealthy: agent.DropAll,
			Services: []agent.Service{{Name: "other", Affinity: agent.AffinityClient, Mode: agent.ModeShared, Linger: agent.LingerTCP}},
		},
		Socket: "/7.sock", LogLevel: slog.LevelWarn, LogFormat: "json",
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if warnings != nil {
		t.Errorf("warnings %q", warnings)
	}
}

func TestUnknownVariablesAreWarnedOf(t *testing.T) {
	got := unknownVariables([]string{
		"HOME=/root", "PEERVIP_NODE_NAME=a", "PEERVIP_CONFIG=f", "PEERVIPX=1",
		"PEERVIP_SPEC_SERVICES=x", "PEERVIP_PORT=tcp://10.0.0.1:80", "PEERVIP_NODE_NAMES=web", "PEERVIP_LOGLEVEL=debug",
	})
	want := []string{
		"environment variable PEERVIP_LOGLEVEL sets nothing: did you mean PEERVIP_LOG_LEVEL?",
		"environment variable PEERVIP_NODE_NAMES sets nothing: did you mean PEERVIP_NODE_NAME?",
		"environment variable PEERVIP_PORT sets nothing",
		"environment variable PEERVIP_SPEC_SERVICES sets nothing: services are set in the file only",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestSocketPath(t *testing.T) {
	cleanEnvironment(t)
	for _, test := range []struct {
		env  string
		args []string
		want string
	}{
		{"", nil, "/run/peervip/peervip.sock"},
		{"/env", nil, "/env"},
		{"/env", []string{"--socket=/flag"}, "/flag"},
		{"", []string{"--socket", "/flag"}, "/flag"},
	} {
		t.Setenv("PEERVIP_CONTROL_SOCKET", test.env)
		got := ""
		root := &cobra.Command{Use: "peervip"}
		addSocketFlag(root)
		root.AddCommand(&cobra.Command{Use: "status", Run: func(cmd *cobra.Command, _ []string) { got = socketPath(cmd) }})
		root.SetArgs(append([]string{"status"}, test.args...))
		if err := root.Execute(); err != nil || got != test.want {
			t.Errorf("PEERVIP_CONTROL_SOCKET=%s %v: %q, %v, want %q", test.env, test.args, got, err, test.want)
		}
	}
}
