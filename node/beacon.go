package node

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Bounds of a beacon.
const (
	// MaxBeacon is the largest datagram that a beacon may be: what an Ethernet
	// frame carries behind the headers of IPv4 and UDP.
	MaxBeacon = 1472
	// MaxBeaconName is the longest name of a node, in bytes.
	MaxBeaconName = 63
	// MaxBeaconPeers is how many incarnations a beacon can speak of, and a node
	// can know: 63 peers, and one more of a name that exists twice.
	MaxBeaconPeers = 64
)

// Seq numbers the beacons of one incarnation. It only grows, and it is the time
// at which the beacon was sent, in microseconds of its sender's own clock: who
// gets a number back as an acknowledgement knows, without a table, when that
// beacon left. 0 means that there is none.
type Seq uint64

// maxSeq is the greatest number that is a Time.
const maxSeq = Seq(math.MaxInt64 / int64(time.Microsecond))

// SeqAt is the number of a beacon that is sent at that time. Rounding down makes
// a beacon look older than it is, never younger.
func SeqAt(now Time) Seq { return Seq(max(now/time.Microsecond, 1)) }

// Time is when the beacon was sent, by its sender's clock.
func (s Seq) Time() Time { return Time(s) * time.Microsecond }

// PeerKey stands for an incarnation where there is no room for its name: 32 bits
// of the name's hash, then the low 32 bits of the nonce.
type PeerKey uint64

// KeyOf returns the incarnation's key.
func KeyOf(inc Incarnation) PeerKey {
	return PeerKey(xxhash.Sum64String(inc.Name)<<32 | inc.Nonce&math.MaxUint32)
}

// AckFlags is what a beacon says of one peer. Format 1 has the first seven.
type AckFlags uint16

const (
	// AckHeard: the number was heard lately, from the peer itself, and counts as
	// a sign of life. Without it the number answers a challenge and means no more.
	AckHeard AckFlags = 1 << iota
	// AckAlive: the sender holds the peer alive, whoever told it.
	AckAlive
	// AckDead: the sender holds the peer dead, though it may hear it again.
	AckDead
	// AckOnWire: the peer was heard on the wire lately.
	AckOnWire
	// AckDoubted: somebody whom the sender hears holds the peer dead.
	AckDoubted
	// AckRefused: another incarnation has the peer's name, and both speak.
	AckRefused
	// AckServing: the peer is in a phase in which it may own buckets.
	AckServing
	// AckCurrent: the sender has the statement whose version the peer's last beacon named.
	AckCurrent
	// AckGeneration: the peer's last beacon named the sender's own generation.
	AckGeneration

	ackFlags1     = AckServing<<1 - 1    // those of format 1
	knownAckFlags = AckGeneration<<1 - 1 // all
)

// PeerAck is what a beacon says of one peer.
type PeerAck struct {
	Key   PeerKey
	Seq   Seq // the last beacon heard from the peer; 0: none
	Flags AckFlags
	// Acked is the last of the sender's own beacons that the peer has said to have
	// heard; 0: none within the last 16 seconds.
	Acked Seq
}

// BriefKey stands for an incarnation in a short entry: 20 bits of a hash of its key.
type BriefKey uint32

// briefKeyBits is how many bits a BriefKey has.
const briefKeyBits = 20

// Brief returns the key of the incarnation's short entries.
func (k PeerKey) Brief() BriefKey {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(k))
	return BriefKey(xxhash.Sum64(b[:]) >> (64 - briefKeyBits))
}

// BriefAck is a PeerAck in a few bytes (see liveness_brief.go for what makes it enough).
type BriefAck struct {
	Key BriefKey
	// Number is the low 16 bits of PeerAck.Seq in units of the beacon (Beacon.Unit).
	Number uint16
	// Unheard: there is no number, since no beacon of the peer was heard.
	Unheard bool
	Flags   AckFlags
	Acked   Seq
}

// Beacon is what a node says of itself many times a second.
type Beacon struct {
	Incarnation
	// Format is the one that it is written in; 0 is 1.
	Format uint8
	// Lowest and Highest are the formats that the sender reads; 0: see BeaconMin and BeaconMax.
	Lowest, Highest uint8
	// Unit is the exponent of the unit of short numbers: 2^Unit microseconds.
	Unit  uint8
	Seq   Seq
	Phase Phase
	// Weight in tenths of the default weight (see Tenths).
	Weight int
	// Unfit has the bits of the services (by number) whose checks fail here.
	Unfit uint64
	// View is the digest of the view that the node acts on.
	View uint64
	// Claims is the version of the node's statement.
	Claims uint64
	// Generation is the version of the cluster's spec that is in force; 0: the spec does
	// not change while the cluster runs.
	Generation uint64
	// WireProof: the node is heard on the wire by a peer, and hears one there.
	WireProof bool
	// CutOff: the node has no wire-proof, though others have, and wants to be relieved.
	CutOff bool
	// Empty: the node has no bucket and no flow, and takes none. Format 1 cannot say it.
	Empty bool
	// Peers is what the node says of its peers, in rising order of their keys.
	Peers []PeerAck
	// Brief is the same of other peers, in rising order of their keys; from format 2 on.
	Brief []BriefAck
}

// BeaconKey authenticates beacons.
type BeaconKey [sha256.Size]byte

// DeriveBeaconKey makes the key for beacons out of a key of the cluster, so that
// what is learnt of the one is no help with the other (RFC 5869).
func DeriveBeaconKey(clusterKey []byte) (BeaconKey, error) {
	key, err := hkdf.Key(sha256.New, clusterKey, nil, "peervip beacon", sha256.Size)
	if err != nil {
		return BeaconKey{}, fmt.Errorf("deriving the key for beacons: %w", err)
	}
	return BeaconKey(key), nil
}

// BeaconFault is why a datagram is no beacon for this node.
type BeaconFault uint8

const (
	// BeaconOversize: longer than any beacon.
	BeaconOversize BeaconFault = iota + 1
	// BeaconTruncated: too short for what it says to hold.
	BeaconTruncated
	// BeaconForeign: not a beacon at all.
	BeaconForeign
	// BeaconVersion: of a format that this node does not read.
	BeaconVersion
	// BeaconCluster: of another cluster.
	BeaconCluster
	// BeaconSignature: signed with none of the keys.
	BeaconSignature
	// BeaconMalformed: signed rightly, but not what a beacon may say.
	BeaconMalformed

	// BeaconFaults is how many faults there are, for counters by fault.
	BeaconFaults = int(BeaconMalformed) + 1
)

var beaconFaultNames = [BeaconFaults]string{
	BeaconOversize: "oversize", BeaconTruncated: "truncated", BeaconForeign: "foreign",
	BeaconVersion: "version", BeaconCluster: "cluster", BeaconSignature: "signature",
	BeaconMalformed: "malformed",
}

func (f BeaconFault) String() string {
	if f > 0 && int(f) < BeaconFaults {
		return beaconFaultNames[f]
	}
	return fmt.Sprintf("BeaconFault(%d)", uint8(f))
}

func (f BeaconFault) Error() string { return "beacon: " + f.String() }
