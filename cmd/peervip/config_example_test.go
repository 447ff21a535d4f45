package main

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"

	"github.com/peervip/peervip/node/health"
)

// The example holds every key, loads, and says the defaults where it claims to.
func TestExampleFile(t *testing.T) {
	cleanEnvironment(t)
	const example = "../../docs/peervip.example.yaml"
	keys := writeFile(t, "key", testKey1, 0o600)
	got, warnings, err := load(t, "--config", example, "--key-file", keys)
	if err != nil || warnings != nil {
		t.Fatal(err, warnings)
	}
	checks := got.Spec.Services[0].Health
	if len(checks) != 3 || got.Name != "web-1" {
		t.Errorf("%+v", got)
	}
	basis, _, err := load(t, "--name=web-1", "--interface=eth0", "--vip=192.0.2.100", "--join=192.0.2.12,192.0.2.13", "--key-file", keys)
	if err != nil {
		t.Fatal(err)
	}
	basis.Address = netip.MustParseAddr("192.0.2.11")
	basis.Spec.Services[0].Health = checks
	if diff := cmp.Diff(basis, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("the example's values are not the defaults (-default +example)\n%s", diff)
	}
	defaults, err := health.Options{Type: "http", Target: checks[0].Target, Body: checks[0].Body, Host: checks[0].Host}.Parse()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaults, checks[0]); diff != "" {
		t.Errorf("the example's health check has not the defaults (-default +example)\n%s", diff)
	}

	loader := &loader{cmd: &cobra.Command{}}
	t.Setenv(configEnv, example)
	tree, err := loader.readFile()
	if err != nil {
		t.Fatal(err)
	}
	written := make(map[string]bool)
	collectKeys(tree, "", written)
	for _, key := range allKeys(reflect.TypeFor[rawConfig](), "") {
		if !written[key] {
			t.Errorf("%s is not in the example", key)
		}
	}
}

// collectKeys notes all key paths of a tree, [] for any element of a list.
func collectKeys(value any, path string, keys map[string]bool) {
	keys[path] = true
	switch v := value.(type) {
	case map[string]any:
		for key, below := range v {
			collectKeys(below, join(path, key), keys)
		}
	case []any:
		for _, below := range v {
			collectKeys(below, path+"[]", keys)
		}
	}
}

func allKeys(section reflect.Type, prefix string) []string {
	var keys []string
	for _, f := range sectionFields(reflect.Zero(section)) {
		path := join(prefix, f.key)
		keys = append(keys, path)
		switch {
		case isSection(f.typ):
			keys = append(keys, allKeys(f.typ, path)...)
		case isListOfSections(f.typ):
			keys = append(keys, allKeys(f.typ.Elem(), path+"[]")...)
		}
	}
	return keys
}

// The keys are a promise to operators: none is renamed or lost by accident.
func TestAllKeys(t *testing.T) {
	want := strings.Fields(`
node node.name node.interface node.address node.weight node.state_dir
cluster cluster.name cluster.key_file cluster.insecure cluster.join cluster.port cluster.beacon_port
spec spec.revision spec.vips spec.mac spec.buckets spec.seed spec.detect spec.detect.interval spec.detect.misses
spec.drain_timeout spec.when_none_healthy spec.services
spec.services[].name spec.services[].ports spec.services[].affinity spec.services[].mode spec.services[].preempt spec.services[].linger spec.services[].health
spec.services[].health[].type spec.services[].health[].target spec.services[].health[].command spec.services[].health[].interval
spec.services[].health[].timeout spec.services[].health[].jitter spec.services[].health[].rise spec.services[].health[].fall
spec.services[].health[].status spec.services[].health[].body spec.services[].health[].host spec.services[].health[].skip_verify
control control.socket http http.listen hooks hooks.on_change log log.level log.format`)
	if diff := cmp.Diff(want, allKeys(reflect.TypeFor[rawConfig](), "")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
