package hashring

import (
	"fmt"
	"net/netip"

	"github.com/cespare/xxhash/v2"
)

// How many buckets a cluster may have. Fewer than MinBuckets share too coarsely
// between nodes; more than MaxBuckets make a change of ownership slow to commit.
const (
	MinBuckets = 16
	MaxBuckets = 16384
)

// MaxSlots is how many buckets all services together may have: a change of them all is
// one transaction of the kernel, and one step of the core goes over them many times.
const MaxSlots = 16384

// CheckSlots says what is wrong with so many services of so many buckets each, with
// the key and the cure.
func CheckSlots(services, buckets int) error {
	if services*buckets <= MaxSlots {
		return nil
	}
	cure := fmt.Sprintf("set spec.buckets to %d or less, on all nodes", MaxSlots/services)
	if MaxSlots/services < MinBuckets {
		cure = fmt.Sprintf("name fewer services, at most %d", MaxSlots/MinBuckets)
	}
	return fmt.Errorf("spec.services: %d services (with the default one) of %d buckets each (spec.buckets) make %d, and all together may have at most %d: %s",
		services, buckets, services*buckets, MaxSlots, cure)
}

// Layout says how clients map to buckets. It is the same on every node of a
// cluster, and in every node's kernel.
type Layout struct {
	Buckets int    // M: the buckets are 0..M-1
	Seed    uint32 // of Jhash; never 0, for which the kernel would pick its own
}

// NewLayout returns the layout of the named cluster. Seed 0 stands for a seed
// made of the cluster's name, so that two clusters on one segment spread the
// same clients differently. Any number of buckets from MinBuckets to MaxBuckets
// will do; another is an error that names the key.
func NewLayout(cluster string, seed uint32, buckets int) (Layout, error) {
	if buckets < MinBuckets || buckets > MaxBuckets {
		return Layout{}, fmt.Errorf("spec.buckets: %d is out of range: choose a number from %d to %d", buckets, MinBuckets, MaxBuckets)
	}
	if seed == 0 {
		seed = max(uint32(xxhash.Sum64String(cluster)), 1)
	}
	return Layout{Buckets: buckets, Seed: seed}, nil
}

// Bucket returns the bucket of a client: nft's `jhash ip saddr mod M seed S`,
// or `ip6 saddr`. An IPv4 address inside IPv6 counts as IPv4, as it does on the
// wire; zones are not looked at. The client must be a valid address.
func (l Layout) Bucket(client netip.Addr) int {
	client = client.Unmap()
	if client.Is4() {
		b := client.As4()
		return Scale(Jhash(b[:], l.Seed), l.Buckets)
	}
	b := client.As16()
	return Scale(Jhash(b[:], l.Seed), l.Buckets)
}
