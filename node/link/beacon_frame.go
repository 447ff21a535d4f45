package link

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	ethernetLen = 14
	ipLen       = 20
	udpLen      = 8
	headersLen  = ethernetLen + ipLen + udpLen

	// MaxBeacon is the largest payload of a beacon in bytes: what an Ethernet frame
	// of 1500 bytes carries without fragments.
	MaxBeacon = 1500 - ipLen - udpLen

	// beaconTTL says that no router was on the way (RFC 5082; VRRP does the same,
	// RFC 9568 section 5.1.1.3).
	beaconTTL = 255
	// beaconTOS is DSCP CS6, network control (RFC 4594).
	beaconTOS = 48 << 2
	// beaconPriority is the highest of the kernel's queues and of VLAN priorities.
	beaconPriority = 7
)

// beaconFrame is the one buffer that all beacons of a sender are made in: payload
// gives out its end, seal makes a frame of it.
type beaconFrame [headersLen + MaxBeacon]byte

// address sets the stations: the frame goes to the cluster MAC with the interface's
// own MAC as its source, the datagram from the node's address to a VIP, from and to
// one port.
func (f *beaconFrame) address(cluster, own hwAddr, node, vip netip.Addr, port uint16) {
	ethernet, ip, udp := f[:ethernetLen], f[ethernetLen:][:ipLen], f[ethernetLen+ipLen:][:udpLen]
	copy(ethernet[0:], cluster[:])
	copy(ethernet[6:], own[:])
	binary.BigEndian.PutUint16(ethernet[12:], unix.ETH_P_IP)

	ip[0] = 4<<4 | ipLen/4
	ip[1] = beaconTOS
	// The identification is 0, as RFC 6864 section 4.1 allows for what is never
	// fragmented.
	const dontFragment = 0x4000
	binary.BigEndian.PutUint16(ip[6:], dontFragment)
	ip[8] = beaconTTL
	ip[9] = unix.IPPROTO_UDP
	from, to := node.As4(), vip.As4()
	copy(ip[12:], from[:])
	copy(ip[16:], to[:])

	binary.BigEndian.PutUint16(udp[0:], port)
	binary.BigEndian.PutUint16(udp[2:], port)
}

// payload is where the payload belongs: empty, with room for MaxBeacon bytes.
func (f *beaconFrame) payload() []byte { return f[headersLen:headersLen] }

// seal puts lengths and checksums in and returns the frame around the first n bytes
// of the payload.
func (f *beaconFrame) seal(n int) []byte {
	ip := f[ethernetLen : headersLen+n]
	udp := ip[ipLen:]
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], checksum(0, ip[:ipLen]))

	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], 0)
	// The pseudo header of RFC 768: both addresses, the protocol, the length.
	pseudo := words(ip[12:20]) + unix.IPPROTO_UDP + uint64(len(udp))
	sum := checksum(pseudo, udp)
	if sum == 0 {
		sum = 0xffff // 0 would say that there is no checksum
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	return f[:headersLen+n]
}

// checksum is the Internet checksum (RFC 1071) of the bytes and of what was summed
// before.
func checksum(sum uint64, b []byte) uint16 {
	sum += words(b)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// words sums the bytes as big-endian words, the last one padded with zeros. It takes
// two words at a time: the carries of the lower come back when the sum is folded.
func words(b []byte) uint64 {
	var sum uint64
	for ; len(b) >= 4; b = b[4:] {
		sum += uint64(binary.BigEndian.Uint32(b))
	}
	var tail [4]byte
	copy(tail[:], b)
	return sum + uint64(binary.BigEndian.Uint32(tail[:]))
}
