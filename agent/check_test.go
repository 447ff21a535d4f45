package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What an agent goes on without is a warning of the check, and nothing is changed.
func TestCheckWarnsOfADamagedMemory(t *testing.T) {
	ns, _ := host(t)
	cfg := testConfig(t, "a")
	cfg.Address = netip.Addr{}
	cfg.Spec.VIPs = []netip.Addr{netip.MustParseAddr("10.77.0.100")}
	must(t, os.MkdirAll(cfg.StateDir, 0o700))
	file := filepath.Join(cfg.StateDir, memoryFile)
	must(t, os.WriteFile(file, nil, 0o600))
	before := traces(t, ns)
	var warnings []string
	must(t, ns.Do(func() (err error) {
		warnings, err = Check(cfg)
		return err
	}))
	if len(warnings) != 1 || !strings.Contains(warnings[0], "node.state_dir: what this node remembers is damaged") {
		t.Errorf("warnings %q", warnings)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("it has touched the file: %v", err)
	}
	if after := traces(t, ns); after != before {
		t.Errorf("left behind:\n%s\nbefore it was:\n%s", after, before)
	}
}
