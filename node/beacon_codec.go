package node

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// The layout of a beacon of format 1, numbers big endian. The head, its first 32 bytes,
// and the signature, its last 32, are the same in all formats (see BeaconHead). The head
// and the length are all that is looked at before the signature is known to be good.
//
//	0   4  magic
//	4   1  format of this datagram
//	5   2  lowest and highest format that the sender reads
//	7   1  bit 0: wire-proof; bit 1: cut off; bit 2, from format 2 on: it serves; the
//	       others are 0
//	8   8  cluster tag: xxhash64 of the cluster's name
//	16  8  boot nonce
//	24  8  sequence number
//	32  8  digest of the view
//	40  8  version of the claims
//	48  8  services that are unfit
//	56  2  weight in tenths
//	58  1  phase
//	59  1  length of the name
//	60  1  number of peers
//	61     name
//	       for each peer: 8 key, 8 sequence number, 1 flags, 3 age of Acked
//	    32 HMAC-SHA256 of all before it
const (
	beaconMagic     = 0x70767562 // "pvub"
	beaconHead      = 16
	beaconFixed     = 61
	beaconPeer      = 20
	beaconSignature = sha256.Size

	beaconWireProof = 1
	beaconCutOff    = 2
	beaconServes    = 4 // of other formats than 1, which says it by the phase
	beaconEmpty     = 8 // from format 2 on

	// An age is in microseconds: 24 bits hold 16 seconds.
	noAge = 1<<24 - 1
)

// BeaconCodec writes and reads the beacons of one cluster. It is for one
// goroutine at a time.
type BeaconCodec struct {
	tag  uint64
	keys []hash.Hash // the first signs
	sum  [beaconSignature]byte
}

// NewBeaconCodec returns the codec of a cluster. Beacons are signed with the first
// key and accepted under each. Without keys (an insecure cluster) the key is all
// zeros: the signature then proves no more than that the bytes are whole.
func NewBeaconCodec(cluster string, keys []BeaconKey) *BeaconCodec {
	if len(keys) == 0 {
		keys = make([]BeaconKey, 1)
	}
	c := &BeaconCodec{tag: xxhash.Sum64String(cluster)}
	for _, key := range keys {
		c.keys = append(c.keys, hmac.New(sha256.New, key[:]))
	}
	return c
}

// Append appends the beacon's datagram to buf. The error is about a beacon that
// no datagram can hold or no receiver would accept.
func (c *BeaconCodec) Append(buf []byte, b *Beacon) ([]byte, error) {
	format := max(b.Format, 1)
	if !b.valid() || format > BeaconMax {
		return buf, fmt.Errorf("writing a beacon of %q: its fields are not what a beacon may say", b.Name)
	}
	start := len(buf)
	if format == 1 {
		buf = c.append1(buf, b)
	} else {
		buf = c.append2(buf, b)
	}
	return append(buf, c.sign(c.keys[0], buf[start:])...), nil
}

// appendHead appends the bytes that mean the same in all formats.
func (c *BeaconCodec) appendHead(buf []byte, b *Beacon, format, flags byte) []byte {
	if b.WireProof {
		flags |= beaconWireProof
	}
	if b.CutOff {
		flags |= beaconCutOff
	}
	be := binary.BigEndian
	buf = be.AppendUint32(buf, beaconMagic)
	buf = append(buf, format, cmp.Or(b.Lowest, BeaconMin), cmp.Or(b.Highest, BeaconMax), flags)
	buf = be.AppendUint64(buf, c.tag)
	buf = be.AppendUint64(buf, b.Nonce)
	return be.AppendUint64(buf, uint64(b.Seq))
}

func (c *BeaconCodec) append1(buf []byte, b *Beacon) []byte {
	buf = slices.Grow(buf, beaconFixed+len(b.Name)+beaconPeer*len(b.Peers)+beaconSignature)
	buf = c.appendHead(buf, b, 1, 0)
	be := binary.BigEndian
	buf = be.AppendUint64(buf, b.View)
	buf = be.AppendUint64(buf, b.Claims)
	buf = be.AppendUint64(buf, b.Unfit)
	buf = be.AppendUint16(buf, uint16(b.Weight))
	buf = append(buf, byte(b.Phase), byte(len(b.Name)), byte(len(b.Peers)))
	buf = append(buf, b.Name...)
	for _, p := range b.Peers {
		buf = be.AppendUint64(buf, uint64(p.Key))
		buf = be.AppendUint64(buf, uint64(p.Seq))
		buf = be.AppendUint32(buf, uint32(p.Flags&ackFlags1)<<24|ageOf(p.Acked, b.Seq))
	}
	return buf
}

// Decode reads a datagram into b, whose memory it uses again. The error is a
// BeaconFault, and b is then worth nothing.
func (c *BeaconCodec) Decode(b *Beacon, datagram []byte) error {
	be := binary.BigEndian
	switch {
	case len(datagram) > MaxBeacon:
		return BeaconOversize
	case len(datagram) < 4:
		return BeaconTruncated
	case be.Uint32(datagram) != beaconMagic:
		return BeaconForeign
	case len(datagram) < beaconHead:
		return BeaconTruncated
	case !readable(datagram[4], datagram[5], datagram[6]):
		return BeaconVersion
	case be.Uint64(datagram[8:]) != c.tag:
		return BeaconCluster
	case len(datagram) < beaconFixed+beaconSignature:
		return BeaconTruncated
	}
	read := c.decode1
	if datagram[4] > 1 {
		read = c.decode2
	}
	if err := read(b, datagram); err != 0 {
		return err
	}
	if !b.valid() {
		return BeaconMalformed
	}
	return nil
}

// verify reports whether one of the keys has signed the datagram.
func (c *BeaconCodec) verify(datagram []byte) bool {
	body := datagram[:len(datagram)-beaconSignature]
	signature := datagram[len(body):]
	return slices.ContainsFunc(c.keys, func(key hash.Hash) bool { return hmac.Equal(signature, c.sign(key, body)) })
}

// decodeHead reads what means the same in all formats.
func (b *Beacon) decodeHead(body []byte) {
	be := binary.BigEndian
	b.Format, b.Lowest, b.Highest, b.Unit, b.Generation = body[4], max(body[5], BeaconMin), body[6], 0, 0
	b.WireProof, b.CutOff, b.Empty = body[7]&beaconWireProof != 0, body[7]&beaconCutOff != 0, body[7]&beaconEmpty != 0
	b.Nonce = be.Uint64(body[16:])
	b.Seq = Seq(be.Uint64(body[24:]))
	b.Peers, b.Brief = b.Peers[:0], b.Brief[:0]
}

func (b *Beacon) decodeName(text []byte) {
	if string(text) != b.Name {
		b.Name = string(text)
	}
}

func (c *BeaconCodec) decode1(b *Beacon, datagram []byte) BeaconFault {
	name, count := int(datagram[59]), int(datagram[60])
	switch want := beaconFixed + name + count*beaconPeer + beaconSignature; {
	case len(datagram) < want:
		return BeaconTruncated
	case len(datagram) > want:
		return BeaconMalformed
	case !c.verify(datagram):
		return BeaconSignature
	}
	// From here on the bytes are those that a node of this cluster has written.
	body := datagram[:len(datagram)-beaconSignature]
	if body[7]&^(beaconWireProof|beaconCutOff) != 0 {
		return BeaconMalformed
	}
	be := binary.BigEndian
	b.decodeHead(body)
	b.decodeName(body[beaconFixed : beaconFixed+name])
	b.View = be.Uint64(body[32:])
	b.Claims = be.Uint64(body[40:])
	b.Unfit = be.Uint64(body[48:])
	b.Weight = int(be.Uint16(body[56:]))
	b.Phase = Phase(body[58])
	for p := body[beaconFixed+name:]; len(p) > 0; p = p[beaconPeer:] {
		last := be.Uint32(p[16:])
		acked, ok := ackedAt(last&noAge, b.Seq)
		if !ok || AckFlags(last>>24)&^ackFlags1 != 0 {
			return BeaconMalformed
		}
		b.Peers = append(b.Peers, PeerAck{
			Key: PeerKey(be.Uint64(p)), Seq: Seq(be.Uint64(p[8:])), Flags: AckFlags(last >> 24), Acked: acked,
		})
	}
	return 0
}

// sign returns the signature in memory that the next call uses again.
func (c *BeaconCodec) sign(key hash.Hash, body []byte) []byte {
	key.Reset()
	key.Write(body)
	return key.Sum(c.sum[:0])
}

// ageOf is how old a beacon of the sender is when it sends the next one.
func ageOf(acked, seq Seq) uint32 {
	if acked == 0 || acked > seq || seq-acked >= noAge {
		return noAge
	}
	return uint32(seq - acked)
}

// ackedAt undoes ageOf.
func ackedAt(age uint32, seq Seq) (acked Seq, ok bool) {
	switch {
	case age == noAge:
		return 0, true
	case Seq(age) >= seq:
		return 0, false
	}
	return seq - Seq(age), true
}

// valid reports whether a beacon may say this. What is valid can be written, and
// what was read is valid.
func (b *Beacon) valid() bool {
	if !validBeaconName(b.Name) || b.Seq == 0 || b.Seq > maxSeq || b.Phase > Leaving ||
		b.Weight < 1 || b.Weight > Tenths(MaxWeight) || len(b.Peers)+len(b.Brief) > MaxBeaconPeers ||
		b.Format < 2 && len(b.Brief) > 0 || b.Unit > maxUnit {
		return false
	}
	for i, p := range b.Peers {
		if p.Seq > maxSeq || p.Flags > knownAckFlags ||
			p.Seq == 0 && p.Flags&(AckHeard|AckOnWire) != 0 ||
			i > 0 && p.Key <= b.Peers[i-1].Key {
			return false
		}
	}
	for i, p := range b.Brief {
		if p.Key>>briefKeyBits != 0 || p.Flags > knownAckFlags || p.Unheard && (p.Number != 0 || p.Flags&(AckHeard|AckOnWire) != 0) ||
			p.Flags&(AckOnWire|AckHeard) == AckOnWire || !slices.Contains(briefStandings[:], p.Flags&ackStanding) || i > 0 && p.Key <= b.Brief[i-1].Key {
			return false
		}
	}
	return true
}

// validBeaconName keeps what a stranger calls itself fit for logs and tables.
func validBeaconName(name string) bool {
	if len(name) < 1 || len(name) > MaxBeaconName {
		return false
	}
	for _, r := range []byte(name) {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_' {
			return false
		}
	}
	return true
}
