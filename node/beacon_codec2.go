package node

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// The layout of a beacon of format 2. It is a third of format 1 where there are many nodes,
// and has room for what comes later. The head and the signature are those of all formats.
//
//	7   1  bit 2: it serves, or may (all phases but joining); bit 3: it has nothing, and takes
//	       nothing; unknown bits mean nothing
//	32  8  digest of the view
//	40  8  version of the claims
//	48  8  generation; 0: there is one only
//	56  2  weight in tenths
//	58  1  phase
//	59  1  unit of short numbers: 2^unit microseconds
//	60  1  length of the name
//	61  1  bytes of the services that are unfit, 0 to 8
//	62  1  number of whole entries
//	63  1  number of short entries
//	64     name
//	       services that are unfit
//	       whole entries: 8 key, 8 sequence number, 2 flags, 1 age of Acked
//	       short entries, as one number each of 48 bits: 20 key, 16 number, 4 age of Acked, 8 flags
//	       what a later version says; it is left out here
//	    32 HMAC-SHA256 of all before it
//
// What a short entry loses, and why nothing depends on it, liveness_brief.go says. Ages of
// Acked are in steps of 16 units, in both kinds of entries, rounded up: what was
// acknowledged looks older than it is, never younger. The sender chooses the number so
// that nothing is lost where its beacons are a step apart (Liveness.ackedUntil).
//
// A phase that is not known is Draining of who serves, and Joining of who does not: so
// it keeps what it has, and is given nothing.
const (
	beaconFixed2 = 64
	beaconWhole2 = 19
	beaconBrief  = 6

	stepBits   = 4 // a step is 2^4 units
	noSteps    = 1<<8 - 1
	noSteps4   = 1<<4 - 1
	maxUnit    = 40
	unfitBytes = 8

	// MaxBeacon2 is the longest datagram of format 2 that a node ever has to send: the
	// longest name, 64 incarnations, and all services unfit.
	MaxBeacon2 = beaconFixed2 + MaxBeaconName + unfitBytes + maxWhole*beaconWhole2 + (MaxBeaconPeers-maxWhole)*beaconBrief + beaconSignature
)

// LongestBeacon is the longest beacon, in bytes, that a node of that name has to send.
func LongestBeacon(name string) int { return MaxBeacon2 - MaxBeaconName + len(name) }

// The flags of a short entry. Standing takes two bits, since a peer has only one.
const (
	briefHeard = 1 << iota
	briefOnWire
	briefDoubted
	briefServing
	briefCurrent
	briefGeneration
	briefStanding
)

var briefFlags = [...]struct {
	brief byte
	flag  AckFlags
}{
	{briefHeard, AckHeard}, {briefOnWire, AckOnWire}, {briefDoubted, AckDoubted}, {briefServing, AckServing},
	{briefCurrent, AckCurrent}, {briefGeneration, AckGeneration},
}

var briefStandings = [...]AckFlags{0, AckAlive, AckDead, AckRefused}

// ackStanding are the flags of which a peer has one at most.
const ackStanding = AckAlive | AckDead | AckRefused

// packFlags makes the flags of a short entry. That no number was heard has no bit of its
// own: nobody is heard on the wire and not heard.
func (p *BriefAck) packFlags() byte {
	var b byte
	for _, f := range briefFlags {
		if p.Flags&f.flag != 0 {
			b |= f.brief
		}
	}
	if p.Unheard {
		b |= briefOnWire
	}
	return b | byte(slices.Index(briefStandings[:], p.Flags&ackStanding))*briefStanding
}

func (p *BriefAck) unpackFlags(b byte) {
	p.Flags = briefStandings[b/briefStanding]
	p.Unheard = b&(briefHeard|briefOnWire) == briefOnWire
	if p.Unheard {
		b &^= briefOnWire
		p.Number = 0
	}
	for _, f := range briefFlags {
		if b&f.brief != 0 {
			p.Flags |= f.flag
		}
	}
}

func (c *BeaconCodec) append2(buf []byte, b *Beacon) []byte {
	buf = slices.Grow(buf, beaconFixed2+len(b.Name)+unfitBytes+beaconWhole2*len(b.Peers)+beaconBrief*len(b.Brief)+beaconSignature)
	var flags byte
	if b.Phase != Joining {
		flags |= beaconServes
	}
	if b.Empty {
		flags |= beaconEmpty
	}
	unfit := (bits.Len64(b.Unfit) + 7) / 8
	buf = c.appendHead(buf, b, 2, flags)
	be := binary.BigEndian
	buf = be.AppendUint64(buf, b.View)
	buf = be.AppendUint64(buf, b.Claims)
	buf = be.AppendUint64(buf, b.Generation)
	buf = be.AppendUint16(buf, uint16(b.Weight))
	buf = append(buf, byte(b.Phase), b.Unit, byte(len(b.Name)), byte(unfit), byte(len(b.Peers)), byte(len(b.Brief)))
	buf = append(buf, b.Name...)
	for i := unfit - 1; i >= 0; i-- {
		buf = append(buf, byte(b.Unfit>>(8*i)))
	}
	for i := range b.Peers {
		p := &b.Peers[i]
		buf = be.AppendUint64(buf, uint64(p.Key))
		buf = be.AppendUint64(buf, uint64(p.Seq))
		buf = be.AppendUint16(buf, uint16(p.Flags))
		buf = append(buf, byte(b.stepsOf(p.Acked, noSteps)))
	}
	for i := range b.Brief {
		p := &b.Brief[i]
		packed := uint64(p.Key)<<28 | uint64(p.Number)<<12 | uint64(b.stepsOf(p.Acked, noSteps4))<<8 | uint64(p.packFlags())
		buf = be.AppendUint16(buf, uint16(packed>>32))
		buf = be.AppendUint32(buf, uint32(packed))
	}
	return buf
}

func (c *BeaconCodec) decode2(b *Beacon, datagram []byte) BeaconFault {
	if len(datagram) < beaconFixed2+beaconSignature {
		return BeaconTruncated
	}
	name, unfit, whole, brief := int(datagram[60]), int(datagram[61]), int(datagram[62]), int(datagram[63])
	switch {
	case len(datagram) < beaconFixed2+name+unfit+whole*beaconWhole2+brief*beaconBrief+beaconSignature:
		return BeaconTruncated
	case !c.verify(datagram):
		return BeaconSignature
	}
	// From here on the bytes are those that a node of this cluster has written.
	body := datagram[:len(datagram)-beaconSignature]
	be := binary.BigEndian
	b.decodeHead(body)
	b.View = be.Uint64(body[32:])
	b.Claims = be.Uint64(body[40:])
	b.Generation = be.Uint64(body[48:])
	b.Weight = min(max(int(be.Uint16(body[56:])), 1), Tenths(MaxWeight))
	b.Phase = Phase(body[58])
	if b.Phase > Leaving && body[7]&beaconServes != 0 {
		b.Phase = Draining
	} else if b.Phase > Leaving {
		b.Phase = Joining
	}
	b.Unit = body[59]
	rest := body[beaconFixed2:]
	b.decodeName(rest[:name])
	rest = rest[name:]
	b.Unfit = 0
	for _, v := range rest[:unfit] { // of more than 64 services the last ones
		b.Unfit = b.Unfit<<8 | uint64(v)
	}
	rest = rest[unfit:]
	if b.Unit > maxUnit {
		return BeaconMalformed
	}
	for ; whole > 0; whole-- {
		b.Peers = append(b.Peers, PeerAck{
			Key: PeerKey(be.Uint64(rest)), Seq: Seq(be.Uint64(rest[8:])), Flags: AckFlags(be.Uint16(rest[16:])) & knownAckFlags,
			Acked: b.stepsBack(uint64(rest[18]), noSteps),
		})
		rest = rest[beaconWhole2:]
	}
	for ; brief > 0; brief-- {
		packed := uint64(be.Uint16(rest))<<32 | uint64(be.Uint32(rest[2:]))
		p := BriefAck{Key: BriefKey(packed >> 28), Number: uint16(packed >> 12), Acked: b.stepsBack(packed>>8&noSteps4, noSteps4)}
		p.unpackFlags(byte(packed))
		b.Brief = append(b.Brief, p)
		rest = rest[beaconBrief:]
	}
	return 0
}

// stepsOf is the age of an acknowledged number in steps, rounded up; none: there is none
// that is young enough.
func (b *Beacon) stepsOf(acked Seq, none uint64) uint64 {
	if acked == 0 || acked > b.Seq {
		return none
	}
	step := Seq(1) << (b.Unit + stepBits)
	return min(uint64((b.Seq-acked+step-1)/step), none)
}

// stepsBack undoes stepsOf.
func (b *Beacon) stepsBack(steps, none uint64) Seq {
	back := Seq(steps) << (b.Unit + stepBits)
	if steps == none || back >= b.Seq {
		return 0
	}
	return b.Seq - back
}
