package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
)

// AgentConfig is an agent's configuration file as far as the lab sets it; what
// is left empty is left out of the file. Durations are words like "20ms".
type AgentConfig struct {
	Node    NodeSection    `json:"node"`
	Cluster ClusterSection `json:"cluster"`
	Spec    SpecSection    `json:"spec"`
	Control ControlSection `json:"control"`
	Log     LogSection     `json:"log,omitzero"`
}

// NodeSection is what differs from node to node.
type NodeSection struct {
	Name      string `json:"name"`
	Interface string `json:"interface"`
	Weight    int    `json:"weight,omitempty"`
	StateDir  string `json:"state_dir"`
}

// ClusterSection says whom to join, and with which key.
type ClusterSection struct {
	Name    string   `json:"name"`
	KeyFile string   `json:"key_file,omitempty"`
	Join    []string `json:"join"`
}

// SpecSection is what all nodes must agree on.
type SpecSection struct {
	Revision        int              `json:"revision,omitempty"`
	VIPs            []string         `json:"vips"`
	MAC             string           `json:"mac,omitempty"`
	Buckets         int              `json:"buckets,omitempty"`
	Detect          DetectSection    `json:"detect,omitzero"`
	DrainTimeout    string           `json:"drain_timeout,omitempty"`
	WhenNoneHealthy string           `json:"when_none_healthy,omitempty"`
	Services        []ServiceSection `json:"services,omitempty"`
}

// DetectSection says how soon a silent node is dead.
type DetectSection struct {
	Interval string `json:"interval"`
	Misses   int    `json:"misses"`
}

// ServiceSection is one class of the VIP's traffic.
type ServiceSection struct {
	Name   string         `json:"name"`
	Ports  []string       `json:"ports,omitempty"`
	Mode   string         `json:"mode,omitempty"`
	Linger string         `json:"linger,omitempty"`
	Health []CheckSection `json:"health,omitempty"`
}

// CheckSection is one health check.
type CheckSection struct {
	Type     string `json:"type"`
	Target   string `json:"target"`
	Interval string `json:"interval,omitempty"`
	Timeout  string `json:"timeout,omitempty"`
	Fall     int    `json:"fall,omitempty"`
	Rise     int    `json:"rise,omitempty"`
}

// ControlSection is the agent's control socket.
type ControlSection struct {
	Socket string `json:"socket"`
}

// LogSection is how much the agent logs.
type LogSection struct {
	Level string `json:"level"`
}

// agentConfig is the configuration of a node of a lab of so many nodes: all
// others are its seeds, everything that has a default keeps it.
func (l *Lab) agentConfig(n *Node, nodes int, keyFile string) AgentConfig {
	seeds := []string{}
	for i := range nodes {
		if i != n.Index {
			seeds = append(seeds, addrPlus(firstNode, i).String())
		}
	}
	return AgentConfig{
		Node: NodeSection{
			Name: n.Name, Interface: nodeLink, StateDir: filepath.Join(n.Dir, "state"),
		},
		Cluster: ClusterSection{Name: "lab", KeyFile: keyFile, Join: seeds},
		Spec:    SpecSection{VIPs: []string{VIP.String()}},
		Control: ControlSection{Socket: filepath.Join(n.Dir, "peervip.sock")},
	}
}

// write writes the file that the agent reads. JSON is YAML.
func (c AgentConfig) write(path string) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the configuration of %s: %w", c.Node.Name, err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the configuration of %s: %w", c.Node.Name, err)
	}
	return nil
}

// WriteKey writes a new cluster key, as `peervip keygen` prints it, to a file
// that its owner alone can read.
func WriteKey(ctx context.Context, binary, path string) error {
	key, err := exec.CommandContext(ctx, binary, "keygen").Output()
	if err != nil {
		return fmt.Errorf("making a cluster key by %s keygen: %w", binary, err)
	}
	if err := os.WriteFile(path, key, 0o600); err != nil {
		return fmt.Errorf("writing a cluster key: %w", err)
	}
	return nil
}

// HTTPCheck is a check of the node's own web service that notices a change
// within about half a second.
func HTTPCheck() CheckSection {
	target := "http://" + netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), WebPort).String() + "/healthz"
	return CheckSection{Type: "http", Target: target, Interval: "200ms", Timeout: "150ms", Fall: 2, Rise: 2}
}
