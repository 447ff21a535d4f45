package lab

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Traffic is what a fault concerns.
type Traffic uint8

const (
	// All is every frame, ARP included.
	All Traffic = iota
	// Gossip is TCP and UDP from or to GossipPort.
	Gossip
	// Wire is IPv4 to the VIP: what goes to the cluster MAC.
	Wire
	// Unicast is beacons from node address to node address: UDP to BeaconPort of
	// anything but the VIP.
	Unicast
	// Beacons is UDP to BeaconPort: beacons on the wire and by unicast.
	Beacons
	// Messages is all that nodes tell each other but beacons: Gossip, and the sealed
	// datagrams that take its place, which go to BeaconPort.
	Messages
)

// matches returns the nft expressions of the traffic, one for each rule. No frame
// matches two of them: it would be lost by chance twice.
func (t Traffic) matches() []string {
	switch t {
	case Gossip:
		const l4 = "meta l4proto { tcp, udp } th "
		return []string{fmt.Sprintf(l4+"sport %d ", GossipPort), fmt.Sprintf(l4+"sport != %d th dport %[1]d ", GossipPort)}
	case Messages:
		// Such a datagram begins with its magic, behind the 8 bytes of UDP's head.
		return append(Gossip.matches(), fmt.Sprintf("udp dport %d @th,64,32 0x%x ", BeaconPort, letterMagic))
	case Wire:
		return []string{fmt.Sprintf("ip daddr %s ", VIP)}
	case Unicast:
		return []string{fmt.Sprintf("ip daddr != %s udp dport %d ", VIP, BeaconPort)}
	case Beacons:
		return []string{fmt.Sprintf("udp dport %d ", BeaconPort)}
	default:
		return []string{""}
	}
}

// Fault is a loss of frames inside the switch, from some ports to others, one
// way. A port bears its node's name; ClientPort is the client host's.
type Fault struct {
	// From and To are ports; none means any.
	From, To []string
	Traffic  Traffic
	// Loss is the share of the frames that are lost, at random; 0 means all.
	Loss float64
}

// letterMagic begins a sealed datagram, as docs/protocol.md says.
const letterMagic = "pvul"

// ClientPort is the switch port of the client host.
const ClientPort = clientPort

// faults are the losses that are in force, kept as one table of the switch.
type faults struct {
	sw     *Namespace
	active []Fault
}

// Break puts the faults in force, in addition to those that are.
func (l *Lab) Break(faults ...Fault) error {
	l.faults.active = append(l.faults.active, faults...)
	return l.faults.apply()
}

// Partition cuts the traffic between two sets of ports, both ways.
func (l *Lab) Partition(t Traffic, a, b []string) error {
	return l.Break(Fault{From: a, To: b, Traffic: t}, Fault{From: b, To: a, Traffic: t})
}

// Isolate cuts the traffic between one node and everybody, both ways, while its
// carrier stays.
func (l *Lab) Isolate(t Traffic, n *Node) error {
	return l.Break(Fault{From: []string{n.Name}, Traffic: t}, Fault{To: []string{n.Name}, Traffic: t})
}

// Heal ends all faults of the switch and plugs every cable back in. A node
// without power stays so.
func (l *Lab) Heal() error {
	l.faults.active = nil
	errs := []error{l.faults.apply()}
	for _, n := range l.Nodes {
		if n.NS != nil {
			errs = append(errs, n.Plug())
		}
	}
	return errors.Join(errs...)
}

// apply replaces the table by one of the active faults, in one transaction.
func (f *faults) apply() error {
	script := f.script()
	err := f.sw.Do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("changing the switch's faults: %w in\n%s", err, script)
	}
	return nil
}

func (f *faults) script() string {
	var b strings.Builder
	b.WriteString("table bridge faults\ndelete table bridge faults\n")
	if len(f.active) == 0 {
		return b.String()
	}
	b.WriteString("table bridge faults {\n chain forward {\n  type filter hook forward priority 0\n")
	for _, fault := range f.active {
		for _, rule := range fault.rules() {
			b.WriteString("  " + rule + "\n")
		}
	}
	b.WriteString(" }\n}\n")
	return b.String()
}

func (f Fault) rules() []string {
	var ports, loss string
	if len(f.From) > 0 {
		ports += fmt.Sprintf("iifname { %s } ", quoted(f.From))
	}
	if len(f.To) > 0 {
		ports += fmt.Sprintf("oifname { %s } ", quoted(f.To))
	}
	if f.Loss > 0 {
		loss = fmt.Sprintf("numgen random mod 10000 < %d ", int(f.Loss*10000))
	}
	var rules []string
	for _, m := range f.Traffic.matches() {
		rules = append(rules, ports+m+loss+"drop")
	}
	return rules
}

func quoted(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = `"` + n + `"`
	}
	return strings.Join(q, ", ")
}
