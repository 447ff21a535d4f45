package node

import "encoding/binary"

// BeaconHead is what a beacon says in clear, the same in all formats, for ever: bytes 0
// to 31. The last 32 bytes of a beacon are the HMAC of all before them, in all formats
// too. So a node can tell who sends a beacon that it cannot read, and whether that
// node has a key of its cluster.
type BeaconHead struct {
	Format          uint8 // of this datagram
	Lowest, Highest uint8 // formats that the sender reads
	Tag             uint64
	Nonce           uint64
	Seq             Seq
	// Serves: the sender has buckets, or may have some. In format 1 the phase says it,
	// from format 2 on a bit of byte 7.
	Serves bool
}

// beaconFullHead is how many bytes of the head are the same in all formats.
const beaconFullHead = 32

// ReadBeaconHead reads the head of a datagram. Nothing of it is verified.
func ReadBeaconHead(datagram []byte) (head BeaconHead, ok bool) {
	be := binary.BigEndian
	if len(datagram) < beaconFullHead+beaconSignature || len(datagram) > MaxBeacon || be.Uint32(datagram) != beaconMagic {
		return head, false
	}
	head = BeaconHead{
		Format: datagram[4], Lowest: datagram[5], Highest: datagram[6],
		Tag: be.Uint64(datagram[8:]), Nonce: be.Uint64(datagram[16:]), Seq: Seq(be.Uint64(datagram[24:])),
		Serves: datagram[7]&beaconServes != 0,
	}
	if head.Format == 1 {
		if len(datagram) < beaconFixed+beaconSignature {
			return head, false
		}
		head.Serves = Phase(datagram[58]) != Joining
	}
	return head, true
}

// Difference says why a beacon is none of this node's cluster, or none that it can
// read. 0: nothing of that kind is wrong with it.
type Difference uint8

const (
	// DiffersKey: no key of this node makes its signature.
	DiffersKey Difference = 1 << iota
	// DiffersName: it is of a cluster of another name.
	DiffersName
	// DiffersFormat: its format is another one, or its sender does not read this node's.
	DiffersFormat
)

// Names lists what differs, by the names of the configuration.
func (d Difference) Names() []string {
	var names []string
	for i, name := range []string{"key", "name", "format"} {
		if d>>i&1 != 0 {
			names = append(names, name)
		}
	}
	return names
}

// Difference compares a beacon with this cluster's.
func (c *BeaconCodec) Difference(head BeaconHead, datagram []byte) Difference {
	var d Difference
	if !c.verify(datagram) {
		d |= DiffersKey
	}
	if head.Tag != c.tag {
		d |= DiffersName
	}
	if !readable(head.Format, head.Lowest, head.Highest) {
		d |= DiffersFormat
	}
	return d
}
