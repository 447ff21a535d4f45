package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

// Each fault is one line with the key and the cure. The file of each row is
// completed with what is required, unless it is there.
func TestFaults(t *testing.T) {
	cleanEnvironment(t)
	const names = "want 1 to 63 letters, digits, dots, dashes or underscores"
	const nodeKeys = "name, interface, address, weight, state_dir"
	for _, test := range []struct{ name, yaml, want string }{
		// keys
		{"a misspelt key", "node: {nmae: x}", "node.nmae: unknown key: did you mean node.name?"},
		{"a misspelt section", "clutser: {name: x}", "clutser: unknown key: did you mean cluster?"},
		{"a misspelt key in a list", "spec: {services: [{name: other, helth: []}]}", "spec.services[0].helth: unknown key: did you mean spec.services[0].health?"},
		{"a misspelt key in a list in a list", "spec: {services: [{name: other, health: [{type: tcp}, {type: tcp, tagret: x}]}]}",
			"spec.services[0].health[1].tagret: unknown key: did you mean spec.services[0].health[1].target?"},
		{"a key of another section", "vips: [192.0.2.1]", "vips: unknown key: did you mean spec.vips?"},
		{"a key of a list", "node: {affinity: client}", "node.affinity: unknown key: did you mean spec.services[].affinity?"},
		{"nothing like it", "node: {colour: red}", "node.colour: unknown key: known here are " + nodeKeys},
		{"another case", "Node: {name: x}", "Node: unknown key: did you mean node?"},
		{"dots", "node.name: x", "node.name: unknown key: known here are node, cluster, spec, control, http, hooks, log"},
		{"an unknown empty section", "metrics:", "metrics: unknown key: known here are node, cluster, spec, control, http, hooks, log"},
		{"an unknown empty map", "node: {x: {}}", "node.x: unknown key: known here are " + nodeKeys},
		{"a key with a line end", `node: {"a\nb": x}`, `node."a\nb": unknown key: known here are ` + nodeKeys},
		{"a number for a key", "node: {1: x}", "node: want a section with the keys " + nodeKeys + ", got a section"},
		{"several faults, a line each", "node: {nmae: x, weight: heavy}\nlogs: {}",
			`logs: unknown key: did you mean log?
node.nmae: unknown key: did you mean node.name?
node.weight: want a whole number, got the text "heavy"`},

		// types
		{"a text for a section", "node: web-1", "node: want a section with the keys " + nodeKeys + `, got the text "web-1"`},
		{"a list for a section", "node: [a]", "node: want a section with the keys " + nodeKeys + ", got a list"},
		{"a number for a text", "node: {name: 17}", "node.name: want text: put it in quotes, got the number 17"},
		{"a truth for a text", "node: {name: true}", "node.name: want text: put it in quotes, got true"},
		{"a date for a text", "node: {name: 2024-01-31}", `node.name: want text: put it in quotes, got "2024-01-31 00:00:00 +0000 UTC"`},
		{"a text for a truth", `cluster: {insecure: "true"}`, `cluster.insecure: want true or false, got the text "true"`},
		{"a text for a number", `node: {weight: "100"}`, `node.weight: want a whole number, got the text "100"`},
		{"half a node", "node: {weight: 1.5}", "node.weight: want a whole number, got the number 1.5"},
		{"a number for a time", "spec: {detect: {interval: 20}}", "spec.detect.interval: want a time like 20ms, 5s or 1m30s, got the number 20"},
		{"a time without unit", `spec: {drain_timeout: "20"}`, `spec.drain_timeout: "20": want a time like 20ms, 5s or 1m30s`},
		{"a text for a list", "cluster: {join: 192.0.2.1}", `cluster.join: want a list like [a, b], got the text "192.0.2.1"`},
		{"a number in a list", "cluster: {join: [a, 1]}", "cluster.join[1]: want text: put it in quotes, got the number 1"},
		{"a hole in a list", "cluster: {join: [a, ~]}", "cluster.join[1]: empty: fill it in or take it out"},
		{"a section for a list", "spec: {services: {name: other}}", "spec.services: want a list like [a, b], got a section"},
		{"a text in a list of sections", "spec: {services: [other]}", `spec.services[0]: want a section with the keys name, ports, affinity, mode, preempt, linger, health, got the text "other"`},
		{"jitter in words", "spec: {services: [{name: other, health: [{type: tcp, jitter: much}]}]}", `spec.services[0].health[0].jitter: want a number, got the text "much"`},
		{"a number too big", "spec: {seed: 18446744073709551615}", "spec.seed: want a whole number, got the number 18446744073709551615"},

		// node
		{"no interface", "node: {interface: }", "node.interface: required: name the network interface that carries the VIPs: in the file, with --interface or PEERVIP_NODE_INTERFACE"},
		{"lo", "node: {interface: lo}", "node.interface: lo reaches no other node: name the network interface that carries the VIPs"},
		{"an interface's name too long", "node: {interface: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}", "node.interface: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"… is no name of an interface: see `ip link`"},
		{"an interface's name with a slash", "node: {interface: eth0/1}", "node.interface: \"eth0/1\" is no name of an interface: see `ip link`"},
		{"a name with a blank", "node: {name: web 1}", `node.name: "web 1": ` + names},
		{"a name with an umlaut", "node: {name: wéb}", `node.name: "wéb": ` + names},
		{"a name too long", "node: {name: " + strings.Repeat("x", 64) + "}", `node.name: "` + strings.Repeat("x", 64) + `": ` + names},
		{"an address of a network", "node: {address: 192.0.2.1/24}", `node.address: "192.0.2.1/24": want an address without the length of its network`},
		{"no address", "node: {address: web-1}", `node.address: "web-1" is no IP address`},
		{"an IPv6 address", `node: {address: "2001:db8::1"}`, "node.address: 2001:db8::1: IPv6 is not supported yet: use an IPv4 address"},
		{"weight 0", "node: {weight: 0}", "node.weight: 0: want 1 to 1000"},
		{"weight 1001", "node: {weight: 1001}", "node.weight: 1001: want 1 to 1000"},
		{"a relative directory", "node: {state_dir: lib/peervip}", `node.state_dir: "lib/peervip": want an absolute path, one that begins with /`},

		// cluster
		{"an empty cluster name", `cluster: {name: ""}`, `cluster.name: "": ` + names},
		{"no key", "cluster: {insecure: false}", "cluster.key_file: required: make a key with `(umask 077; peervip keygen > FILE)`, copy FILE to every node and name it here or with --key-file; or, where nobody else reaches the network, set cluster.insecure: true"},
		{"a key and none", "cluster: {insecure: true, key_file: /x}", "cluster.key_file: set together with cluster.insecure: true: take one of them out"},
		{"port 0", "cluster: {port: 0}", "cluster.port: 0: want 1 to 65535"},
		{"port 65536", "cluster: {beacon_port: 65536}", "cluster.beacon_port: 65536: want 1 to 65535"},
		{"one port for two", "cluster: {port: 7000, beacon_port: 7000}", "cluster.beacon_port: 7000 is cluster.port too: both are UDP ports: give them different numbers"},
		{"seeds", `cluster: {join: ["", "http://a", "a:b", "a:0", "a b", "0.0.0.0", "224.0.0.1:1", "[::1", ":7946", "-x"]}`,
			fill("cluster.join[%]: %: want HOST or HOST:PORT (an IPv6 address with a port: [2001:db8::1]:7946)",
				`""`, `"http://a"`, `"a:b"`, `"a:0"`, `"a b"`, `"0.0.0.0"`, `"224.0.0.1:1"`, `"[::1"`, `":7946"`, `"-x"`)},

		// spec
		{"revision 0", "spec: {revision: 0}", "spec.revision: 0: want 1 to 2147483647"},
		{"no VIP", "spec: {vips: []}", "spec.vips: required: give the address that the nodes share: in the file, with --vip or PEERVIP_SPEC_VIPS"},
		{"an IPv6 VIP", `spec: {vips: [192.0.2.1, "2001:db8::100"]}`, "spec.vips[1]: 2001:db8::100: IPv6 is not supported yet: use an IPv4 address"},
		{"an IPv4 VIP in IPv6", `spec: {vips: ["::ffff:192.0.2.1"]}`, "spec.vips[0]: ::ffff:192.0.2.1: IPv6 is not supported yet: use an IPv4 address"},
		{"no address for a VIP", "spec: {vips: [www.example.org]}", `spec.vips[0]: "www.example.org" is no IP address`},
		{"a VIP with a length", "spec: {vips: [192.0.2.1/32]}", `spec.vips[0]: "192.0.2.1/32": want an address without the length of its network`},
		{"a VIP twice", "spec: {vips: [192.0.2.1, 192.0.2.2, 192.0.2.1]}", "spec.vips[2]: 192.0.2.1 is there twice: take one out"},
		{"a VIP of no machine", "spec: {vips: [0.0.0.0, 255.255.255.255]}", "spec.vips[0]: 0.0.0.0 is no address of a machine\nspec.vips[1]: 255.255.255.255 is no address of a machine"},
		{"a loopback VIP", "spec: {vips: [127.0.0.1]}", "spec.vips[0]: 127.0.0.1 is a loopback address: no other machine reaches it"},
		{"a multicast VIP", "spec: {vips: [239.255.0.1]}", "spec.vips[0]: 239.255.0.1 is a multicast address: want one of a machine"},
		{"the node's address as VIP", "node: {address: 192.0.2.9}\nspec: {vips: [192.0.2.9]}", "spec.vips[0]: 192.0.2.9 is node.address: a VIP must not be any node's own address"},
		{"an unknown mac", "spec: {mac: broadcast}", `spec.mac: "broadcast": want multicast, unicast or an address like 02:bf:01:02:03:04`},
		{"a mac of eight bytes", `spec: {mac: "02:bf:01:02:03:04:05:06"}`, `spec.mac: "02:bf:01:02:03:04:05:06": want multicast, unicast or an address like 02:bf:01:02:03:04`},
		{"broadcast", `spec: {mac: "ff:ff:ff:ff:ff:ff"}`, "spec.mac: ff:ff:ff:ff:ff:ff is no address of a cluster: want multicast, unicast or an address like 02:bf:01:02:03:04"},
		{"a mac of switches", `spec: {mac: "01:80:c2:00:00:0e"}`, "spec.mac: 01:80:c2:00:00:0e is kept by switches for themselves and never passed on: use another"},
		{"15 buckets", "spec: {buckets: 15}", "spec.buckets: 15: want 16 to 16384"},
		{"16385 buckets", "spec: {buckets: 16385}", "spec.buckets: 16385: want 16 to 16384"},
		{"too many buckets of all services", "spec: {buckets: 16384, services: [{name: other}, {name: web}]}", "spec.services[1].name: web: services of their own are not supported yet: only other, the service of all traffic\nspec.services: 2 services (with the default one) of 16384 buckets each (spec.buckets) make 32768, and all together may have at most 16384: set spec.buckets to 8192 or less, on all nodes"},
		{"seed below 0", "spec: {seed: -1}", "spec.seed: -1: want 0 (made from cluster.name) to 4294967295"},
		{"seed too big", "spec: {seed: 4294967296}", "spec.seed: 4294967296: want 0 (made from cluster.name) to 4294967295"},
		{"interval too short", "spec: {detect: {interval: 4ms, misses: 20}}", "spec.detect.interval: 4ms: want 5ms to 10s"},
		{"too few misses", "spec: {detect: {misses: 7}}", "spec.detect.misses: 7: want 8 to 1000 (with fewer, a few lost beacons pause a node or pass for its death)"},
		{"drain in the past", "spec: {drain_timeout: -1s}", "spec.drain_timeout: -1s: want 0s (cut at once) or more"},
		{"an unknown word", "spec: {when_none_healthy: panic}", `spec.when_none_healthy: "panic": want serve or drop`},

		// services
		{"a service without a name", "spec: {services: [{affinity: client}]}", "spec.services[0].name: required: want other, the service of all traffic"},
		{"a service of its own", "spec: {services: [{name: other}, {name: web, ports: [tcp/80]}]}", "spec.services[1].name: web: services of their own are not supported yet: only other, the service of all traffic"},
		{"other twice", "spec: {services: [{name: other}, {name: other}]}", "spec.services[1].name: other is there twice: take one out"},
		{"ports of other", "spec: {services: [{name: other, ports: [tcp/80]}]}", "spec.services[0].ports: other is the service of all traffic that no service names: it has no ports: take them out"},
		{"affinity later", "spec: {services: [{name: other, affinity: network}]}", "spec.services[0].affinity: network is not supported yet: want client"},
		{"affinity never", "spec: {services: [{name: other, affinity: love}]}", `spec.services[0].affinity: "love": want client`},
		{"mode later", "spec: {services: [{name: other, mode: disabled}]}", "spec.services[0].mode: disabled is not supported yet: want shared or single"},
		{"preempt of all", "spec: {services: [{name: other, preempt: true}]}", "spec.services[0].preempt: true: only for mode single, in which it sends the service back to the node of the highest weight: take it out"},
		{"linger never", "spec: {services: [{name: other, linger: udp}]}", `spec.services[0].linger: "udp": want tcp, all or none`},
		{"health", "spec: {services: [{name: other, health: [{type: tcp, target: 'a:1'}, {type: http, rise: 0, timeout: 3s}]}]}",
			`spec.services[0].health[1].timeout: 3s is longer than the interval of 2s: lower it, or raise interval
spec.services[0].health[1].rise: 0: want a number from 1 to 1000
spec.services[0].health[1].target: required for type http: want an address like http://127.0.0.1/healthz`},

		// the rest
		{"a relative socket", "control: {socket: peervip.sock}", `control.socket: "peervip.sock": want an absolute path, one that begins with /`},
		{"a long socket", "control: {socket: /" + strings.Repeat("x", 107) + "}", "control.socket: 108 bytes long: a unix socket's path has at most 107"},
		{"metrics", "http: {listen: '127.0.0.1:7948'}", "http.listen: metrics and dashboard are not supported yet: leave it out"},
		{"hooks", "hooks: {on_change: /etc/peervip/notify}", "hooks.on_change: hooks are not supported yet: leave it out"},
		{"log level", "log: {level: INFO}", `log.level: "INFO": want debug, info, warn or error`},
		{"log format", "log: {format: xml}", `log.format: "xml": want text or json`},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := writeFile(t, "c.yaml", completed(test.yaml), 0o644)
			_, _, err := load(t, "--config", file)
			if err == nil {
				t.Fatal("no error")
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasSuffix(line, " ("+file+")") {
					t.Errorf("the line does not name the file: %s", line)
				}
			}
			if diff := cmp.Diff(test.want, strings.ReplaceAll(err.Error(), " ("+file+")", "")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if code := exitCode(err); code != exitConfig {
				t.Errorf("exit code %d, want 1", code)
			}
		})
	}
}

// completed adds what is required and not there, in flow style under the keys of
// the row's sections.
func completed(yaml string) string {
	add := func(section, key, value string) {
		switch {
		case strings.Contains(yaml, key+":") || strings.Contains(yaml, section+": w") || strings.Contains(yaml, section+": ["):
		case strings.Contains(yaml, section+": {"):
			yaml = strings.Replace(yaml, section+": {", section+": {"+key+": "+value+", ", 1)
		default:
			yaml += "\n" + section + ": {" + key + ": " + value + "}"
		}
	}
	add("node", "name", "n")
	add("node", "interface", "eth0")
	add("cluster", "insecure", "true")
	add("spec", "vips", "[192.0.2.100]")
	return yaml
}

// fill makes a line of the format for each value: the first % is its number.
func fill(format string, values ...string) string {
	var lines []string
	for i, value := range values {
		line := strings.Replace(format, "%", string(rune('0'+i)), 1)
		lines = append(lines, strings.Replace(line, "%", value, 1))
	}
	return strings.Join(lines, "\n")
}

func TestFaultsNameTheirSource(t *testing.T) {
	cleanEnvironment(t)
	file := writeFile(t, "c.yaml", "node: {name: a b}", 0o644)
	t.Setenv("PEERVIP_SPEC_BUCKETS", "many")
	t.Setenv("PEERVIP_SPEC_VIPS", "192.0.2.1,,192.0.2.2")
	t.Setenv("PEERVIP_CLUSTER_INSECURE", "yes")
	t.Setenv("PEERVIP_SPEC_DETECT_INTERVAL", "20")
	_, _, err := load(t, "--config", file)
	want := `cluster.insecure: "yes": want true or false (PEERVIP_CLUSTER_INSECURE)
spec.vips: an empty entry: take one comma out (PEERVIP_SPEC_VIPS)
spec.buckets: "many": want a whole number (PEERVIP_SPEC_BUCKETS)
spec.detect.interval: "20": want a time like 20ms, 5s or 1m30s (PEERVIP_SPEC_DETECT_INTERVAL)`
	if err == nil || err.Error() != want {
		t.Errorf("(-want +got)\n%s", cmp.Diff(want, err.Error()))
	}
	t.Setenv("PEERVIP_SPEC_BUCKETS", "3")
	t.Setenv("PEERVIP_SPEC_VIPS", "x")
	t.Setenv("PEERVIP_CLUSTER_INSECURE", "true")
	t.Setenv("PEERVIP_SPEC_DETECT_INTERVAL", "")
	_, _, err = load(t, "--config", file, "--interface", "lo", "--join", "a:b")
	want = `node.name: "a b": want 1 to 63 letters, digits, dots, dashes or underscores (` + file + `)
node.interface: lo reaches no other node: name the network interface that carries the VIPs (--interface)
cluster.join[0]: "a:b": want HOST or HOST:PORT (an IPv6 address with a port: [2001:db8::1]:7946) (--join)
spec.vips[0]: "x" is no IP address (PEERVIP_SPEC_VIPS)
spec.buckets: 3: want 16 to 16384 (PEERVIP_SPEC_BUCKETS)`
	if err == nil || err.Error() != want {
		t.Errorf("(-want +got)\n%s", cmp.Diff(want, err.Error()))
	}
}

func TestFileFaults(t *testing.T) {
	cleanEnvironment(t)
	for _, test := range []struct{ name, yaml, want string }{
		{"no mapping", "- a\n- b", "want keys and their values, like node: {interface: eth0}"},
		{"a text", "hello", "want keys and their values, like node: {interface: eth0}"},
		{"bad syntax", "node: {name: [}", "did not find expected node content"},
		{"a tab", "node:\n\tname: x", "line 2: a tab: YAML wants spaces"},
		{"a tab after blanks", "node:\n  name: x\n  \tweight: 3\n", "line 3: a tab: YAML wants spaces"},
		{"a key twice", "node: {name: a}\nnode: {name: b}", `line 2: mapping key "node" already defined at line 1`},
		{"two documents", "node: {name: a}\n---\nnode: {name: b}\n", "more than one YAML document: leave out all from the second line of --- on"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := writeFile(t, "c.yaml", test.yaml, 0o644)
			_, _, err := load(t, append(enough, "--config", file)...)
			want := "reading the configuration " + file + ": " + test.want
			if err == nil || err.Error() != want {
				t.Errorf("error\n%v\nwant\n%s", err, want)
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		_, _, err := load(t, append(enough, "--config", "/no/such/file")...)
		if want := "reading the configuration: open /no/such/file: no such file or directory"; err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	})
	for name, yaml := range map[string]string{
		"empty": "", "comments": "# nothing\n", "null": "~", "empty sections": "node:\ncluster:\nspec: {vips: , detect: , services: }\nlog:\n",
		"one marked document": "%YAML 1.1\n# c\n---\nnode: {}\n...\n", "JSON": `{"node": {"weight": 100}}`,
		"anchors": "log: &l {level: info}\n", "no dashes": "node: {weight: 100}\n# ---\n",
	} {
		t.Run("fine: "+name, func(t *testing.T) {
			if _, _, err := load(t, append(enough, "--config", writeFile(t, "c.yaml", yaml, 0o644))...); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whatever is in the file: no panic, and either a configuration within its
// bounds or lines without control characters.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		everything, "", "node:", "node: {name: x}", "spec: {services: [{name: other, health: [{type: http}]}]}", "? [a]\n: b", "a: &a [*a]",
		"node: !!binary aGk=", "spec: {detect: {interval: 5ms, misses: 20}}", "<<: {node: {weight: 3}}", "node: {1: 2, x: ~}", "\x00", "\"\\x01\": 1",
		"cluster: {join: ['[::1]:7'], key_file: \"a\\nb\"}", "spec: {seed: 0x10, vips: ['::1%\\n', 10.0.0.1]}", "log: {level: .nan}", "spec: {mac: 10:20:30:40:50:59}",
	} {
		f.Add([]byte(seed))
	}
	example, err := os.ReadFile("../../docs/peervip.example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	file := filepath.Join(f.TempDir(), "c.yaml")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := load(t, append(enough, "--config", file)...)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if line == "" || strings.ContainsFunc(line, unicode.IsControl) {
					t.Fatalf("line %q", line)
				}
			}
			return
		}
		if c.Name != "n" || len(c.Spec.VIPs) != 1 || c.Weight < 1 || c.Weight > 1000 || c.Port == 0 || c.Port == c.BeaconPort ||
			c.Spec.Buckets < 16 || c.Spec.Buckets > 16384 || c.Spec.Detect.Validate(time.Millisecond) != nil || c.Spec.DrainTimeout < 0 ||
			len(c.Spec.Services) != 1 || len(c.Socket) > 107 || !filepath.IsAbs(c.StateDir) || !isName(c.Cluster) {
			t.Fatalf("out of bounds: %+v", c)
		}
		for _, check := range c.Spec.Services[0].Health {
			if err := check.Validate(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"health", "health", 0}, {"helth", "health", 1}, {"nmae", "name", 1},
		{"clutser", "cluster", 1}, {"kitten", "sitting", 3}, {"ca", "abc", 3}, {"vip", "vips", 1},
	} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
		if got := distance(test.b, test.a); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.b, test.a, got, test.want)
		}
	}
}

// Each field of the raw structs has a key: lower case, once in its section.
func TestRawStructsAreWellTagged(t *testing.T) {
	var walk func(section reflect.Type)
	walk = func(section reflect.Type) {
		seen := make(map[string]bool)
		for _, f := range sectionFields(reflect.Zero(section)) {
			if f.key == "" || f.key != strings.ToLower(f.key) || strings.ContainsAny(f.key, ".- ,") || seen[f.key] {
				t.Errorf("%v: key %q", section, f.key)
			}
			seen[f.key] = true
			switch {
			case isSection(f.typ):
				walk(f.typ)
			case isListOfSections(f.typ):
				walk(f.typ.Elem())
			}
		}
	}
	walk(reflect.TypeFor[rawConfig]())
}
