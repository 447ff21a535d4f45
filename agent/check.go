package agent

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/link"
)

// Check asks this host and its kernel whether an agent with that configuration could
// run, and changes nothing. The error is what only an edit can cure; the warnings are
// what the agent would wait for, or go on without.
func Check(cfg Config) (warnings []string, err error) {
	quiet := slog.New(slog.DiscardHandler)
	mac, err := link.ParseClusterMAC(cfg.Spec.MAC, cfg.Spec.VIPs)
	if err != nil {
		return nil, editable(err)
	}
	wire, err := link.Open(link.Config{Interface: cfg.Interface, Address: cfg.Address, VIPs: cfg.Spec.VIPs, MAC: mac, Beacon: node.LongestBeacon(cfg.Name)})
	if err != nil {
		return nil, editable(err)
	}
	if err := wire.Settle(); errors.As(err, new(*link.AbsentError)) {
		warnings = append(warnings, fmt.Sprintf("%v; the agent would wait for it", err))
	} else if err != nil {
		return nil, editable(err)
	}
	if err := nft.Probe(); err != nil {
		return nil, editable(err)
	}
	if !nft.SeesRoutes() {
		warnings = append(warnings, noRoutes)
	}
	layout, err := cfg.layout()
	if err == nil {
		_, err = nft.Compile(filterSpec(cfg, layout, mac.HardwareAddr()))
	}
	if err == nil {
		_, err = newMonitors(cfg.Spec, quiet)
	}
	if err == nil {
		_, err = loadMemory(cfg.StateDir)
	}
	if damaged := (*damagedError)(nil); errors.As(err, &damaged) {
		warnings = append(warnings, fmt.Sprintf("node.state_dir: what this node remembers is damaged (%v); the agent would set it aside, and be drained, unless another node knows that it was not", damaged.err))
		err = nil
	}
	return warnings, editable(err)
}

// noRoutes is what the agent goes on without.
const noRoutes = "the kernel was built without CONFIG_NFT_FIB_INET: if this host forwards other hosts' packets to the ports of peervip, these are rationed as if they came to this host"
