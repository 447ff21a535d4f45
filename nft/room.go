package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// A change of buckets is one transaction, and so one message to the kernel, which takes
// it only if it fits the socket's send buffer. A process with CAP_NET_ADMIN on the host
// has as much as it wants (SO_SNDBUFFORCE); in a container with a user namespace of its
// own the bound is twice net.core.wmem_max. What might not fit is refused at the start,
// not when a peer has died.

// RoomError says that the largest change of the spec's buckets does not fit.
type RoomError struct {
	Buckets int
	// Fit is how many would; 0: not even the fewest.
	Fit int
	// Need is how many bytes a change of all takes, Room how many the kernel takes.
	Need, Room int
	Lists      bool // flows are listed (LingerAll), which takes the better part
}

func (e *RoomError) Error() string {
	cure := fmt.Sprintf("or set spec.buckets to at most %d on all nodes", e.Fit)
	if e.Fit == 0 {
		cure = "or run the agent outside of a user namespace"
		if e.Lists {
			cure += ", or without linger: all"
		}
	}
	// The kernel counts twice what the sysctl says.
	sysctl := (e.Need + sendOverhead + 1) / 2
	return fmt.Sprintf("spec.buckets: a change of all %d takes %d bytes at once, and the kernel takes %d from a process without CAP_NET_ADMIN on the host (a container?): "+
		"there, sysctl net.core.wmem_max=%d, %s", e.Buckets, e.Need, e.Room, sysctl, cure)
}

// sendOverhead is what of a socket's buffer cannot be used (netlink_sendmsg in
// net/netlink/af_netlink.c).
const sendOverhead = 32

// fits says whether every change fits into a send buffer of that size: nil, or a
// *RoomError.
func (r Ruleset) fits(buffer int) error {
	if buffer >= sendLimit { // as every process gets that may ask for it
		return nil
	}
	room := buffer - sendOverhead
	buckets := r.spec.Layout.Buckets
	need, err := r.largest(buckets)
	if err != nil || need <= room {
		return err
	}
	refused := &RoomError{Buckets: buckets, Need: need, Room: room, Lists: r.spec.lists()}
	low, high := hashring.MinBuckets, buckets // the number that fits is from low to high-1, if any does
	for low < high {
		middle := (low + high) / 2
		size, err := r.largest(middle)
		if err != nil {
			return err
		}
		if size <= room {
			refused.Fit, low = middle, middle+1
		} else {
			high = middle
		}
	}
	return refused
}

// largest is how many bytes the largest change of so many buckets takes: all of them,
// in the state whose name is the longest, a new lease, and two whole lists of flows. No
// change is larger than to write everything anew (bucketMap.move).
func (r Ruleset) largest(buckets int) (bytes int, err error) {
	c, err := nftables.New(nftables.WithTestDial(func(sent []netlink.Message) ([]netlink.Message, error) {
		bytes += messageBytes(sent)
		return nil, nil
	}))
	if err != nil {
		return 0, fmt.Errorf("counting the bytes of a transaction: %w", err)
	}
	all := contents{listed: lists{}}
	for _, s := range r.spec.Services {
		longest := slices.MaxFunc(s.states(), func(a, b node.State) int { return len(a.String()) - len(b.String()) })
		all.committed = append(all.committed, slices.Repeat([]node.State{longest}, buckets))
	}
	if err := r.queueAll(c, all); err != nil {
		return 0, fmt.Errorf("counting the bytes of a transaction: %w", err)
	}
	if err := c.Flush(); err != nil {
		return 0, fmt.Errorf("counting the bytes of a transaction: %w", err)
	}
	if r.spec.lists() {
		bytes += 2 * 2 * node.MaxListed * listedBytes
	}
	return bytes + leaseBytes, nil
}

func messageBytes(messages []netlink.Message) int {
	sum := 0
	for _, m := range messages {
		sum += (16 + len(m.Data) + 3) &^ 3 // include/uapi/linux/netlink.h
	}
	return sum
}

const (
	// leaseBytes is what it takes to arm the lease, and to permit other ways in.
	leaseBytes = 1024
	// listedBytes is what it takes to list a flow in one table, or to take it off: the
	// headers of three attributes, and five values.
	listedBytes = 3*4 + 5*4
)

// bytesOf is how many bytes the elements take in a transaction.
func bytesOf(elements []nftables.SetElement) int {
	sum := 0
	for _, e := range elements {
		sum += 3*4 + len(e.Key) // of three attributes the headers
		if e.VerdictData != nil {
			sum += 2*4 + 8 + (4+len(e.VerdictData.Chain)+1+3)&^3
		}
	}
	return sum
}
