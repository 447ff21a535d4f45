package main

import (
	"time"

	"github.com/peervip/peervip/agent"
)

// rawConfig is the configuration as it is written: every key that exists, and
// nothing checked but the types. A pointer tells "not written" from zero where
// the default is decided elsewhere.
type rawConfig struct {
	Node    rawNode    `mapstructure:"node"`
	Cluster rawCluster `mapstructure:"cluster"`
	Spec    rawSpec    `mapstructure:"spec"`
	Control rawControl `mapstructure:"control"`
	HTTP    rawHTTP    `mapstructure:"http"`
	Hooks   rawHooks   `mapstructure:"hooks"`
	Log     rawLog     `mapstructure:"log"`
}

type rawNode struct {
	Name      string `mapstructure:"name"`
	Interface string `mapstructure:"interface"`
	Address   string `mapstructure:"address"`
	Weight    int    `mapstructure:"weight"`
	StateDir  string `mapstructure:"state_dir"`
}

type rawCluster struct {
	Name       string   `mapstructure:"name"`
	KeyFile    string   `mapstructure:"key_file"`
	Insecure   bool     `mapstructure:"insecure"`
	Join       []string `mapstructure:"join"`
	Port       int      `mapstructure:"port"`
	BeaconPort int      `mapstructure:"beacon_port"`
}

type rawSpec struct {
	Revision        int           `mapstructure:"revision"`
	VIPs            []string      `mapstructure:"vips"`
	MAC             string        `mapstructure:"mac"`
	Buckets         int           `mapstructure:"buckets"`
	Seed            int64         `mapstructure:"seed"`
	Detect          rawDetect     `mapstructure:"detect"`
	DrainTimeout    time.Duration `mapstructure:"drain_timeout"`
	WhenNoneHealthy string        `mapstructure:"when_none_healthy"`
	Services        []rawService  `mapstructure:"services"`
}

type rawDetect struct {
	Interval time.Duration `mapstructure:"interval"`
	Misses   int           `mapstructure:"misses"`
}

type rawService struct {
	Name     string      `mapstructure:"name"`
	Ports    []string    `mapstructure:"ports"`
	Affinity string      `mapstructure:"affinity"`
	Mode     string      `mapstructure:"mode"`
	Preempt  bool        `mapstructure:"preempt"`
	Linger   string      `mapstructure:"linger"`
	Health   []rawHealth `mapstructure:"health"`
}

// rawHealth has the fields of health.Options in their order, so that one
// converts to the other.
type rawHealth struct {
	Type       string         `mapstructure:"type"`
	Target     string         `mapstructure:"target"`
	Command    []string       `mapstructure:"command"`
	Interval   *time.Duration `mapstructure:"interval"`
	Timeout    *time.Duration `mapstructure:"timeout"`
	Jitter     *float64       `mapstructure:"jitter"`
	Rise       *int           `mapstructure:"rise"`
	Fall       *int           `mapstructure:"fall"`
	Status     string         `mapstructure:"status" also:"number"` // status: 200 needs no quotes
	Body       string         `mapstructure:"body"`
	Host       string         `mapstructure:"host"`
	SkipVerify bool           `mapstructure:"skip_verify"`
}

type rawControl struct {
	Socket string `mapstructure:"socket"`
}

type rawHTTP struct {
	Listen string `mapstructure:"listen"`
}

type rawHooks struct {
	OnChange string `mapstructure:"on_change"`
}

type rawLog struct {
	Level  string `mapstructure:"level"`
	Format string `mapstructure:"format"`
}

// rawDefaults is what holds without a file, environment or flags.
func rawDefaults() rawConfig {
	return rawConfig{
		Node: rawNode{Weight: agent.DefaultWeight, StateDir: agent.DefaultStateDir},
		Cluster: rawCluster{
			Name: agent.DefaultCluster,
			Port: agent.DefaultPort, BeaconPort: agent.DefaultBeaconPort,
		},
		Spec: rawSpec{
			Revision: 1, MAC: "multicast", Buckets: agent.DefaultBuckets,
			Detect:       rawDetect{Interval: agent.DefaultInterval, Misses: agent.DefaultMisses},
			DrainTimeout: agent.DefaultDrainTimeout, WhenNoneHealthy: string(agent.ServeAnyway),
		},
		Control: rawControl{Socket: agent.DefaultSocket},
		Log:     rawLog{Level: "info", Format: "text"},
	}
}
