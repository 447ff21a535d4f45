package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Status is what `peervip status -o json` prints, as far as the lab reads it.
type Status struct {
	Cluster  string          `json:"cluster"`
	Node     string          `json:"node"`
	Phase    string          `json:"phase"`
	Nodes    []NodeStatus    `json:"nodes"`
	Services []ServiceStatus `json:"services"`
	Problems []string        `json:"problems"`
	Pauses   PausesStatus    `json:"pauses"`
	Alert    string          `json:"alert"`
	Beacons  BeaconsStatus   `json:"beacons"`
	// Strangers are nodes on the wire that are none of the cluster.
	Strangers []StrangerStatus `json:"strangers"`
}

// BeaconsStatus is what the agent says of its beacons.
type BeaconsStatus struct {
	Format    int               `json:"format"`
	FormatFor string            `json:"format_for"`
	Faults    map[string]uint64 `json:"faults"`
}

// StrangerStatus is one of them.
type StrangerStatus struct {
	Address string   `json:"address"`
	MAC     string   `json:"mac"`
	Differs []string `json:"differs"`
	Serves  bool     `json:"serves"`
}

// PausesStatus says how often the node's lease ran out.
type PausesStatus struct {
	Count int `json:"count"`
}

// NodeStatus is one node as the answering agent sees it.
type NodeStatus struct {
	Name     string                       `json:"name"`
	Phase    string                       `json:"phase"`
	Alive    bool                         `json:"alive"`
	Address  string                       `json:"address"`
	Weight   int                          `json:"weight"`
	Services map[string]NodeServiceStatus `json:"services"`
	Waiting  *WaitingStatus               `json:"waiting"`
}

// WaitingStatus is what a node that drains or leaves waits for.
type WaitingStatus struct {
	Flows int     `json:"flows"`
	Left  float64 `json:"left_seconds"`
}

// NodeServiceStatus is a node's part in one service.
type NodeServiceStatus struct {
	Healthy bool `json:"healthy"`
	Own     int  `json:"own"`
	Adopt   int  `json:"adopt"`
	Linger  int  `json:"linger"`
}

// ServiceStatus says whether each bucket of a service has one owner.
type ServiceStatus struct {
	Name         string `json:"name"`
	Buckets      int    `json:"buckets"`
	Unclaimed    int    `json:"unclaimed"`
	ClaimedTwice int    `json:"claimed_twice"`
}

// Find returns the node of that name.
func (s Status) Find(name string) (NodeStatus, bool) {
	i := slices.IndexFunc(s.Nodes, func(n NodeStatus) bool { return n.Name == name })
	if i < 0 {
		return NodeStatus{}, false
	}
	return s.Nodes[i], true
}

// Serves is how many buckets of the service the node takes new flows for.
func (n NodeStatus) Serves(service string) int {
	s := n.Services[service]
	return s.Own + s.Adopt
}

// Status asks the node's agent.
func (n *Node) Status(ctx context.Context) (Status, error) {
	out, err := n.Peervip(ctx, "status", "-o", "json")
	if err != nil {
		return Status{}, err
	}
	var s Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return Status{}, fmt.Errorf("status of %s: %w in %q", n.Name, err, out)
	}
	return s, nil
}

// Unsettled says what in the status is not as it is when exactly the nodes in
// serving share everything by weight; nil means settled. Other nodes may be
// known, dead or drained, but serve nothing.
func (s Status) Unsettled(serving []string) error {
	weights := 0
	for _, name := range serving {
		n, known := s.Find(name)
		switch {
		case !known:
			return fmt.Errorf("%s does not know %s", s.Node, name)
		case !n.Alive:
			return fmt.Errorf("%s holds %s dead", s.Node, name)
		}
		weights += n.Weight
	}
	if len(s.Services) == 0 {
		return fmt.Errorf("%s lists no services", s.Node)
	}
	for _, service := range s.Services {
		if service.Unclaimed != 0 || service.ClaimedTwice != 0 {
			return fmt.Errorf("%s sees %d of %d buckets of %s unclaimed, %d claimed twice", s.Node,
				service.Unclaimed, service.Buckets, service.Name, service.ClaimedTwice)
		}
		for _, n := range s.Nodes {
			got := n.Serves(service.Name)
			if !slices.Contains(serving, n.Name) {
				if n.Alive && got != 0 {
					return fmt.Errorf("%s sees %s (%s) serve %d buckets of %s", s.Node, n.Name, n.Phase, got, service.Name)
				}
				continue
			}
			// Largest remainder: the exact share, rounded one way or the other.
			if over := got*weights - service.Buckets*n.Weight; over <= -weights || over >= weights {
				return fmt.Errorf("%s sees %s serve %d buckets of %s, its share is %d/%d of %d", s.Node, n.Name,
					got, service.Name, n.Weight, weights, service.Buckets)
			}
		}
	}
	return nil
}

// WaitSettled waits until each of the serving nodes sees exactly these nodes
// share all buckets, and returns the last one's status. If ctx ends first, the
// error says what was missing.
func (l *Lab) WaitSettled(ctx context.Context, serving ...*Node) (Status, error) {
	names := make([]string, len(serving))
	for i, n := range serving {
		names[i] = n.Name
	}
	var last Status
	err := Poll(ctx, func() error {
		for _, n := range serving {
			if !n.Running() {
				return Final(fmt.Errorf("the agent of %s has ended: %v\n%s", n.Name, n.exitError(), tail(n.Log(), 5)))
			}
			s, err := n.Status(ctx)
			if err != nil {
				return err
			}
			if err := s.Unsettled(names); err != nil {
				return err
			}
			last = s
		}
		return nil
	})
	if err != nil {
		return last, fmt.Errorf("not settled: %w", err)
	}
	return last, nil
}

// waitAtRest waits until each node sees no bucket adopted or lingering anywhere.
func (l *Lab) waitAtRest(ctx context.Context) error {
	return Poll(ctx, func() error {
		for _, n := range l.Nodes {
			s, err := n.Status(ctx)
			if err != nil {
				return err
			}
			if err := s.inTransition(); err != nil {
				return err
			}
		}
		return nil
	})
}

// inTransition names a node that adopts buckets or lingers on some.
func (s Status) inTransition() error {
	for _, n := range s.Nodes {
		for service, of := range n.Services {
			if of.Adopt > 0 || of.Linger > 0 {
				return fmt.Errorf("%s sees %s adopt %d buckets of %s, and linger on %d", s.Node, n.Name, of.Adopt, service, of.Linger)
			}
		}
	}
	return nil
}

// pollInterval is how often Poll looks: rarely enough to leave the processors to
// what is measured.
const pollInterval = 50 * time.Millisecond

type finalError struct{ error }

// Final makes an error that Poll does not wait out.
func Final(err error) error { return finalError{err} }

// Poll calls check until it returns nil or ctx ends, then with the error of the
// last call that ctx did not cut short.
func Poll(ctx context.Context, check func() error) error {
	var last error
	for {
		err := check()
		if err == nil {
			return nil
		}
		if f := (finalError{}); errors.As(err, &f) {
			return f.error
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (gave up: %w)", last, context.Cause(ctx))
		case <-time.After(pollInterval):
		}
	}
}
