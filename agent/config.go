package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
	"github.com/peervip/peervip/node/health"
)

// What holds where the configuration is silent.
const (
	DefaultWeight       = 100
	DefaultStateDir     = "/var/lib/peervip"
	DefaultCluster      = "peervip"
	DefaultPort         = 7946
	DefaultBeaconPort   = 7947
	DefaultBuckets      = 1024
	DefaultInterval     = 20 * time.Millisecond
	DefaultMisses       = 10
	DefaultDrainTimeout = 5 * time.Minute
	DefaultSocket       = "/run/peervip/peervip.sock"
)

// Config is everything that an agent is told before it starts, checked and with
// every default filled in. Whoever makes one keeps the bounds given here.
type Config struct {
	Name      string     // of this node, unique in the cluster: 1 to 63 of [A-Za-z0-9._-]
	Interface string     // carries the VIPs' frames
	Address   netip.Addr // for gossip and unicast beacons; zero: the first global address of Interface
	Weight    int        // this node's share relative to the others': 1 to 1000
	StateDir  string     // what must outlive a restart, an absolute path

	Cluster    string   // the label that keeps clusters apart: 1 to 63 of [A-Za-z0-9._-]
	Keys       Keyring  // the first signs and encrypts, all are accepted; empty when Insecure
	Insecure   bool     // anybody who reaches the ports may join
	Join       []string // seeds, each HOST:PORT
	Port       uint16   // gossip, TCP and UDP
	BeaconPort uint16   // UDP

	Spec Spec

	Socket    string     // the control socket, an absolute path
	LogLevel  slog.Level // debug, info, warn or error
	LogFormat string     // text or json
}

// Keyring is the cluster's keys, 32 bytes each. It prints as their number only:
// keys must not get into logs.
type Keyring [][]byte

func (k Keyring) String() string { return node.Count(len(k), "keys") }

// MarshalText writes what String says.
func (k Keyring) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Spec is what must be the same on every node. It travels to the peers as JSON,
// without the health checks: they are each node's own business.
type Spec struct {
	Revision        int           `json:"revision"` // raised by the operator with every change; 1 or more
	VIPs            []netip.Addr  `json:"vips"`     // at least one; the first one decides the group and carries the beacons
	MAC             string        `json:"mac"`      // multicast, unicast or an address like 02:bf:01:02:03:04
	Buckets         int           `json:"buckets"`  // 16 to 16384
	Seed            uint32        `json:"seed"`     // of the hash; 0: made from the cluster name
	Detect          Detect        `json:"detect"`
	DrainTimeout    time.Duration `json:"drain_timeout_ns"`
	WhenNoneHealthy NoneHealthy   `json:"when_none_healthy"`
	Services        []Service     `json:"services"` // never empty: the service `other` always exists
}

// Detect says how fast a silent peer is held dead.
type Detect struct {
	Interval time.Duration `json:"interval_ns"` // from one beacon to the next
	Misses   int           `json:"misses"`      // silent intervals until death
}

// CheckSlots says what is wrong with so many services, the default one counted, of so many
// buckets each.
func CheckSlots(services, buckets int) error { return hashring.CheckSlots(services, buckets) }

// layout says how clients map to buckets.
func (c *Config) layout() (hashring.Layout, error) {
	if err := CheckSlots(len(c.Spec.Services), c.Spec.Buckets); err != nil {
		return hashring.Layout{}, err
	}
	return hashring.NewLayout(c.Cluster, c.Spec.Seed, c.Spec.Buckets)
}

// NoneHealthy is what becomes of a service's traffic when no node is fit for it.
type NoneHealthy string

const (
	ServeAnyway NoneHealthy = "serve" // every node keeps its share
	DropAll     NoneHealthy = "drop"
)

// OtherService is the name of the service of all traffic that no service names.
const OtherService = "other"

// Service is a class of the VIPs' traffic.
type Service struct {
	Name     string         `json:"name"`
	Affinity Affinity       `json:"affinity"`
	Mode     Mode           `json:"mode"`
	Preempt  bool           `json:"preempt"` // of ModeSingle: see there
	Linger   Linger         `json:"linger"`
	Health   []health.Check `json:"-"`
}

// Affinity is what of a packet chooses its bucket.
type Affinity string

// AffinityClient hashes the client's address.
const AffinityClient Affinity = "client"

// Mode is how the nodes divide a service among them.
type Mode string

const (
	// ModeShared gives every node its share of the buckets.
	ModeShared Mode = "shared"
	// ModeSingle gives one node all of them. It stays with that one, or with Preempt
	// goes back to the node of the highest weight.
	ModeSingle Mode = "single"
)

// Linger is which flows stay on their old node when their bucket moves.
type Linger string

const (
	LingerTCP  Linger = "tcp"  // established TCP connections, and SCTP associations
	LingerAll  Linger = "all"  // those, and flows of UDP and all other protocols but ICMP
	LingerNone Linger = "none" // none: everything moves at once
)

// Limits of Detect.
const (
	MinInterval = 5 * time.Millisecond
	MaxInterval = 10 * time.Second
	MinMisses   = 8
	MaxMisses   = 1000

	// leaseTicks: the kernel keeps timeouts in whole ticks, rounded down, and a
	// beacon may be late by one: a lease must survive that from one beacon to the
	// next.
	leaseTicks = 3
)

// Time is D, the detection time: a peer silent for so long is held dead.
func (d Detect) Time() time.Duration { return d.Interval * time.Duration(d.Misses) }

// timing is the same for package node.
func (d Detect) timing() node.Detect { return node.NewDetect(d.Interval, d.Misses) }

// AckAge is A: a beacon prolongs the lease only while the peers have
// acknowledged a beacon not older than this.
func (d Detect) AckAge() time.Duration { return d.Time() * 3 / 10 }

// Lease is L: for so long a beacon prolongs the permission to serve. A + L < D,
// so that a node's lease is gone before its peers may take over: a tenth of D
// lies between, at least 4 ms by MinInterval and MinMisses. A kernel rounds a
// lease down to whole ticks, never up.
func (d Detect) Lease() time.Duration { return d.Time() * 6 / 10 }

// Validate says what is wrong on a kernel whose clock ticks at that period, in
// lines that begin with the key at fault.
func (d Detect) Validate(tick time.Duration) error {
	var errs []error
	if d.Interval < MinInterval || d.Interval > MaxInterval {
		errs = append(errs, fmt.Errorf("interval: %v: want %v to %v", d.Interval, MinInterval, MaxInterval))
	}
	if d.Misses < MinMisses || d.Misses > MaxMisses {
		errs = append(errs, fmt.Errorf("misses: %d: want %d to %d (with fewer, a few lost beacons pause a node or pass for its death)",
			d.Misses, MinMisses, MaxMisses))
	}
	need := d.Interval + leaseTicks*tick
	if errs == nil && d.Lease() < need {
		errs = append(errs, fmt.Errorf("misses: %d of %v make a lease of %v: want at least %v, the interval and %d ticks of this kernel's clock of %v, or the lease runs out between two beacons: raise misses to %d, or interval",
			d.Misses, d.Interval, d.Lease(), need, leaseTicks, tick, d.enoughMisses(need)))
	}
	return errors.Join(errs...)
}

// enoughMisses is the smallest number with which the interval gives a lease of
// that length: 0.6 * misses * interval >= need.
func (d Detect) enoughMisses(need time.Duration) int {
	unit := 6 * d.Interval
	return int((10*need + unit - 1) / unit)
}

// KernelTick is the period of the kernel's clock (1/HZ), which bounds how exactly
// the kernel keeps timeouts. The coarse clocks advance once a tick
// (clock_getres(2)).
func KernelTick() (time.Duration, error) {
	var res unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &res); err != nil {
		return 0, fmt.Errorf("asking for the tick of the kernel's clock: %w", err)
	}
	return time.Duration(res.Nano()), nil
}

// field is one compared value of a spec, under its key in the configuration, and what
// that is where the configuration is silent.
type field struct{ key, value, standard string }

// fields lists what two nodes must agree on. Not among them: the revision, which
// only says which of two specs is newer; drain_timeout and the health checks,
// which change nothing for a peer.
func (s Spec) fields() []field {
	services := slices.SortedFunc(slices.Values(s.Services), func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	var names []string
	for _, service := range services {
		names = append(names, service.Name)
	}
	fields := []field{
		{"spec.vips", fmt.Sprint(s.VIPs), ""},
		{"spec.mac", s.MAC, "multicast"},
		{"spec.buckets", strconv.Itoa(s.Buckets), strconv.Itoa(DefaultBuckets)},
		{"spec.seed", strconv.FormatUint(uint64(s.Seed), 10), "0"},
		{"spec.detect.interval", s.Detect.Interval.String(), DefaultInterval.String()},
		{"spec.detect.misses", strconv.Itoa(s.Detect.Misses), strconv.Itoa(DefaultMisses)},
		{"spec.when_none_healthy", string(s.WhenNoneHealthy), string(ServeAnyway)},
		{"spec.services", fmt.Sprint(names), fmt.Sprint([]string{OtherService})},
	}
	for _, service := range services {
		prefix := "spec.services[" + service.Name + "]."
		fields = append(fields,
			field{prefix + "affinity", string(service.Affinity), string(AffinityClient)},
			field{prefix + "mode", string(service.Mode), string(ModeShared)},
			field{prefix + "preempt", strconv.FormatBool(service.Preempt), "false"},
			field{prefix + "linger", string(service.Linger), string(LingerTCP)})
	}
	return fields
}

// Canonical is the text of all that two nodes must agree on, a line a field:
// equal for two specs that agree, and only then. What is as it is where the configuration
// is silent is left out. So a version of this program that knows one field more
// makes the same text of the same configuration, and the two are of one cluster. The price:
// what a field is by default must never change.
func (s Spec) Canonical() string {
	var text strings.Builder
	for _, f := range s.fields() {
		if f.value != f.standard {
			fmt.Fprintf(&text, "%s: %q\n", f.key, f.value)
		}
	}
	return text.String()
}

// Digest is a short hash of Canonical, 16 hexadecimal digits.
func (s Spec) Digest() string {
	sum := sha256.Sum256([]byte(s.Canonical()))
	return hex.EncodeToString(sum[:8])
}

// Diff says in which fields the spec of another node differs, each with both
// values: "spec.buckets: 1024 here, 512 there". It is empty for specs that agree.
// Of a service that only one of them has, the name is enough.
func (s Spec) Diff(there Spec) []string {
	theirs := make(map[string]string)
	for _, f := range there.fields() {
		theirs[f.key] = f.value
	}
	var lines []string
	for _, f := range s.fields() {
		if value, ok := theirs[f.key]; ok && value != f.value {
			lines = append(lines, fmt.Sprintf("%s: %s here, %s there", f.key, f.value, value))
		}
	}
	return lines
}
