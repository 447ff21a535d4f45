package nft

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Conntrack is how the kernel's table of flows is: it has all flows of the host.
type Conntrack struct {
	// Count flows are in the table, of at most Max.
	Count, Max int
	// Dropped counts, since the network namespace was made, packets that had no place
	// in it, and flows that had to go for others.
	Dropped uint64
	// Liberal: segments that are out of a flow's window count as the flow's.
	Liberal bool
}

// Kinds of messages and attributes of the kernel's
// include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGetStatsCPU         = unix.NFNL_SUBSYS_CTNETLINK<<8 | 4
	ctGetStats            = unix.NFNL_SUBSYS_CTNETLINK<<8 | 5
	ctaStatsDrop          = 10
	ctaStatsEarlyDrop     = 11
	ctaStatsGlobalEntries = 1
	ctaStatsGlobalMax     = 2
)

// liberalFile is not there in the network namespace of an unprivileged container.
const liberalFile = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal"

// ReadConntrack asks the kernel of the calling thread's network namespace.
func ReadConntrack() (Conntrack, error) {
	var c Conntrack
	global, err := ctStats(ctGetStats, unix.NLM_F_ACK, ctaStatsGlobalEntries, ctaStatsGlobalMax)
	if err != nil {
		return c, fmt.Errorf("asking conntrack for its size: %w", err)
	}
	cpus, err := ctStats(ctGetStatsCPU, unix.NLM_F_DUMP, ctaStatsDrop, ctaStatsEarlyDrop)
	if err != nil {
		return c, fmt.Errorf("asking conntrack for its losses: %w", err)
	}
	c.Count, c.Max, c.Dropped = int(global[0]), int(global[1]), cpus[0]+cpus[1]
	liberal, err := os.ReadFile(liberalFile)
	c.Liberal = err == nil && strings.TrimSpace(string(liberal)) != "0"
	return c, nil
}

// ctStats sends a request for counters and returns the sums of the attributes with
// these numbers, over all messages of the answer.
func ctStats(kind, flags int, wanted ...uint16) ([]uint64, error) {
	socket, err := openNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	defer socket.close()
	sums := make([]uint64, len(wanted))
	err = socket.ask(ctRequest(kind, flags), func(msg []byte) (bool, error) {
		if len(msg) < nl.SizeofNfgenmsg {
			return false, fmt.Errorf("counters of %d bytes are too short", len(msg))
		}
		for a := (attributes{rest: msg[nl.SizeofNfgenmsg:]}); a.next(); {
			if i := slices.Index(wanted, a.kind); i >= 0 && len(a.value) == 4 {
				sums[i] += uint64(binary.BigEndian.Uint32(a.value))
			}
		}
		return true, nil
	})
	return sums, err
}
