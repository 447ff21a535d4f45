package link

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// hwAddr is an Ethernet address as a value that can be compared.
type hwAddr [6]byte

var broadcast = hwAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func (a hwAddr) String() string { return a.hardware().String() }

func (a hwAddr) hardware() net.HardwareAddr { return net.HardwareAddr(a[:]) }

// group says whether frames to the address go to many stations: the lowest bit
// of the first byte (IEEE 802.3).
func (a hwAddr) group() bool { return a[0]&1 != 0 }

// ClusterMAC is the link-layer address that clients and routers get for the VIP,
// the same on every node. The zero value is no address.
type ClusterMAC struct {
	addr  hwAddr
	group netip.Addr
}

// HardwareAddr returns the address; the slice is the caller's own.
func (m ClusterMAC) HardwareAddr() net.HardwareAddr { return m.addr.hardware() }

// Group returns the IP multicast group whose frames carry this address, and which
// is joined so that a switch that listens to IGMP sends them to the nodes only.
// It is the invalid Addr in unicast mode and for an explicit MAC.
func (m ClusterMAC) Group() netip.Addr { return m.group }

// Multicast says whether the address is a multicast one.
func (m ClusterMAC) Multicast() bool { return m.addr.group() }

// String returns the address in the usual notation, 01:00:5e:7f:00:64.
func (m ClusterMAC) String() string { return m.addr.String() }

// ParseClusterMAC turns the setting spec.mac into the cluster MAC.
//
//   - "multicast": 01:00:5e:7f:x:y, where x.y are the last two bytes of the first
//     IPv4 VIP (of a hash of the first VIP, if there is no IPv4 one), with the
//     group 239.255.x.y, which RFC 1112 section 6.4 maps to that MAC. Microsoft's
//     NLB has the same convention.
//   - "unicast": 02:bf: and four bytes of a hash of the first VIP.
//   - anything else must be an Ethernet address.
//
// Every node computes the same from the same VIPs: changing a rule here changes
// the address on the wire. Errors name the key.
func ParseClusterMAC(mode string, vips []netip.Addr) (ClusterMAC, error) {
	switch mode {
	case "multicast", "unicast":
		if len(vips) == 0 {
			return ClusterMAC{}, fmt.Errorf("spec.mac: %s is derived from the first VIP, but spec.vips is empty", mode)
		}
	default:
		return parseExplicitMAC(mode)
	}

	first := vips[0].Unmap()
	hash := xxhash.Sum64(first.AsSlice())
	if mode == "unicast" {
		m := ClusterMAC{addr: hwAddr{0x02, 0xbf}}
		binary.BigEndian.PutUint32(m.addr[2:], uint32(hash))
		return m, nil
	}

	var tail [2]byte
	binary.BigEndian.PutUint16(tail[:], uint16(hash))
	if i := slices.IndexFunc(vips, func(v netip.Addr) bool { return v.Unmap().Is4() }); i >= 0 {
		v4 := vips[i].Unmap().As4()
		tail = [2]byte(v4[2:])
	}
	return ClusterMAC{
		addr:  hwAddr{0x01, 0x00, 0x5e, 0x7f, tail[0], tail[1]},
		group: netip.AddrFrom4([4]byte{239, 255, tail[0], tail[1]}),
	}, nil
}

func parseExplicitMAC(text string) (ClusterMAC, error) {
	parsed, err := net.ParseMAC(text)
	if err != nil || len(parsed) != len(hwAddr{}) {
		return ClusterMAC{}, fmt.Errorf("spec.mac: %q is neither multicast, unicast nor an Ethernet address such as 02:bf:0a:00:00:64", text)
	}
	addr := hwAddr(parsed)
	switch {
	case addr == hwAddr{}:
		return ClusterMAC{}, fmt.Errorf("spec.mac: %s is no station's address: choose another", addr)
	case addr == broadcast:
		return ClusterMAC{}, fmt.Errorf("spec.mac: %s is the broadcast address, which every host of the segment would have to look at: choose another", addr)
	case [5]byte(addr[:5]) == [5]byte{0x01, 0x80, 0xc2, 0, 0} && addr[5] < 0x10:
		return ClusterMAC{}, fmt.Errorf("spec.mac: %s is reserved for switches, which never forward it (IEEE 802.1D): choose another", addr)
	}
	return ClusterMAC{addr: addr}, nil
}
