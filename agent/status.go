package agent

import (
	"fmt"

	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/health"
)

// Status is what `peervip status -o json` prints: a contract with those who
// script against it. Fields may be added.
type Status struct {
	Cluster string `json:"cluster"`
	Node    string `json:"node"`
	Version string `json:"version"`
	// Boot differs from start to start of the agent.
	Boot  string `json:"boot"`
	Phase string `json:"phase"`
	// View is the digest of the view, Agreed whether all alive nodes share it.
	View   string `json:"view"`
	Agreed bool   `json:"agreed"`
	// Lease is LeaseHeld, LeaseWaiting or LeaseNone.
	Lease    string          `json:"lease"`
	Pauses   PausesStatus    `json:"pauses"`
	VIPs     []string        `json:"vips"`
	MAC      string          `json:"mac"`
	Uptime   float64         `json:"uptime_seconds"`
	Nodes    []NodeStatus    `json:"nodes"`
	Services []ServiceStatus `json:"services"`
	// Strangers are nodes of no or another cluster that send beacons on the wire.
	Strangers []StrangerStatus  `json:"strangers"`
	Health    []HealthStatus    `json:"health"`
	Counters  map[string]uint64 `json:"counters"`
	Beacons   BeaconsStatus     `json:"beacons"`
	// Conntrack is nil if the kernel has not said it.
	Conntrack *ConntrackStatus `json:"conntrack,omitempty"`
	// Alert is what clients suffer from, in a few words; empty: nothing that is known of.
	Alert    string   `json:"alert"`
	Problems []string `json:"problems"`
}

// NodeStatus is one node as the answering agent sees it.
type NodeStatus struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Phase   string `json:"phase"`
	Alive   bool   `json:"alive"`
	// Unknown: what this node has is not known here, and its services say nothing: it
	// runs another spec, has not told yet, or waits for its interface or address.
	Unknown  bool                         `json:"unknown,omitempty"`
	Weight   int                          `json:"weight"`
	Services map[string]NodeServiceStatus `json:"services"`
	// Wishes are what the node has still to be told when it comes back, in the order in
	// which they were said; Wish is the last of them, or empty.
	Wishes []node.WishKind `json:"wishes,omitempty"`
	Wish   string          `json:"wish,omitempty"`
	// Waiting is what a node that drains or leaves waits for; nil: for nothing, or it has
	// not counted yet.
	Waiting *WaitingStatus `json:"waiting,omitempty"`
	// Beacons is what the answering node hears of it; nil for itself, and if it has
	// never heard of it.
	Beacons *NodeBeacons `json:"beacons,omitempty"`
}

// NodeServiceStatus is a node's part in one service: buckets by state, and flows.
type NodeServiceStatus struct {
	Healthy bool `json:"healthy"`
	Own     int  `json:"own"`
	Adopt   int  `json:"adopt"`
	Linger  int  `json:"linger"`
	Flows   int  `json:"flows"`
}

// ServiceStatus says whether each bucket of a service has one owner.
type ServiceStatus struct {
	Name         string `json:"name"`
	Buckets      int    `json:"buckets"`
	Unclaimed    int    `json:"unclaimed"`
	ClaimedTwice int    `json:"claimed_twice"`
}

// HealthStatus is one health check of this node.
type HealthStatus struct {
	Service string `json:"service"`
	health.Result
}

// statusOf makes the status of a snapshot; the caller adds the problems and what
// else it knows.
func (c *Config) statusOf(s node.Snapshot) Status {
	status := Status{
		Cluster: c.Cluster, Node: c.Name, Phase: s.Phase.String(),
		View: fmt.Sprintf("%016x", s.View), Agreed: s.Agreed, Lease: LeaseNone,
		Counters: map[string]uint64{}, Problems: []string{}, Health: []HealthStatus{},
	}
	for _, vip := range c.Spec.VIPs {
		status.VIPs = append(status.VIPs, vip.String())
	}
	for _, n := range s.Nodes {
		if n.Name == c.Name {
			n.Address = c.Address.String()
		}
		one := NodeStatus{
			Name: n.Name, Address: n.Address, Phase: n.Phase.String(), Alive: n.Alive, Unknown: n.Unknown,
			Weight: n.Weight * 10, Wishes: n.Wishes, Waiting: waitingStatus(n.Waiting), Services: map[string]NodeServiceStatus{},
		}
		if last := len(n.Wishes) - 1; last >= 0 {
			one.Wish = string(n.Wishes[last])
		}
		for i, svc := range n.Services {
			one.Services[c.Spec.Services[i].Name] = NodeServiceStatus{
				Healthy: svc.Healthy, Own: svc.Own, Adopt: svc.Adopt, Linger: svc.Linger, Flows: svc.Flows,
			}
		}
		status.Nodes = append(status.Nodes, one)
	}
	status.Strangers = []StrangerStatus{}
	for _, one := range s.Strangers {
		status.Strangers = append(status.Strangers, StrangerStatus{
			Address: one.Address.String(), MAC: one.MAC, Differs: one.Differs.Names(), Serves: one.Serves, Format: int(one.Format),
		})
	}
	for _, svc := range s.Services {
		status.Services = append(status.Services, ServiceStatus{
			Name: svc.Name, Buckets: svc.Buckets, Unclaimed: svc.Unclaimed, ClaimedTwice: svc.ClaimedTwice,
		})
	}
	return status
}

// StrangerStatus is a node on the wire that is none of this cluster.
type StrangerStatus struct {
	Address string `json:"address"`
	MAC     string `json:"mac"` // empty: nobody says that the address is his
	// Differs lists what its beacons differ by from this cluster's: key, name, format. With
	// the format alone it is a member that cannot be understood.
	Differs []string `json:"differs"`
	Serves  bool     `json:"serves"`
	Format  int      `json:"format"`
}

// count adds the kernel's counters.
func (s *Status) count(c nft.Counters) {
	s.Counters["accepted_packets"] = c.Accepted().Packets
	s.Counters["dropped_packets"] = c.Dropped().Packets
	s.Counters["icmp_error_packets"] = c.ICMPErrors.Packets
	s.Counters["fragment_packets"] = c.Fragments.Packets
	s.Counters["fragment_dropped_packets"] = c.FragmentsDropped.Packets
	s.Counters["foreign_mac_packets"] = c.ForeignMAC.Packets
	s.Counters["unleased_packets"] = c.Unleased.Packets
	s.Counters["gossip_excess_packets"] = c.GossipExcess.Packets
	s.Counters["guard_dropped_packets"] = c.GuardUnmarked.Packets + c.GuardForwarded.Packets
	s.countBeacons(c.Beacons)
}

// Explanation is what `peervip explain -o json` prints about one client.
type Explanation struct {
	Client  string   `json:"client"`
	Service string   `json:"service"`
	Bucket  int      `json:"bucket"`
	Buckets int      `json:"buckets"`
	Owner   string   `json:"owner"`   // by the placement; empty: nobody should have it
	Holders []string `json:"holders"` // who claims it now
	State   string   `json:"state"`   // in the answering node's kernel
	Node    string   `json:"node"`    // that answers
	Why     string   `json:"why"`
}
