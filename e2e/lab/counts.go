package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// TCPCounts is what a kernel's TCP has done in a namespace.
type TCPCounts struct {
	// Retransmits are segments that were sent again, SYNRetransmits those of them
	// that were SYNs or their answers.
	Retransmits, SYNRetransmits int
}

func (c TCPCounts) minus(before TCPCounts) TCPCounts {
	return TCPCounts{c.Retransmits - before.Retransmits, c.SYNRetransmits - before.SYNRetransmits}
}

// TCPCounts reads the counters, as `nstat -a` does.
func (ns *Namespace) TCPCounts() (c TCPCounts, err error) {
	err = ns.Do(func() error {
		for _, want := range []struct {
			file, name string
			into       *int
		}{
			{"snmp", "Tcp:RetransSegs", &c.Retransmits},
			{"netstat", "TcpExt:TCPSynRetrans", &c.SYNRetransmits},
		} {
			text, err := os.ReadFile("/proc/thread-self/net/" + want.file)
			if err != nil {
				return err
			}
			if *want.into, err = counterIn(string(text), want.name); err != nil {
				return fmt.Errorf("%s: %w", want.file, err)
			}
		}
		return nil
	})
	if err != nil {
		return c, fmt.Errorf("reading the TCP counters of %s: %w", ns.Name, err)
	}
	return c, nil
}

// counterIn finds GROUP:NAME in a text where a line "GROUP: names" is followed by
// one "GROUP: values".
func counterIn(text, name string) (int, error) {
	group, name, _ := strings.Cut(name, ":")
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != group+":" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, n := range names {
			if n == name && i < len(fields) {
				return strconv.Atoi(fields[i])
			}
		}
	}
	return 0, fmt.Errorf("there is no counter %s", name)
}
