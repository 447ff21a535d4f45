package node

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func testKey(fill byte) BeaconKey { return BeaconKey(bytes.Repeat([]byte{fill}, len(BeaconKey{}))) }

// fullBeacon is the largest that may be: 64 incarnations, the longest name.
func fullBeacon() *Beacon {
	b := &Beacon{
		Incarnation: Incarnation{strings.Repeat("n", MaxBeaconName), 0x0102030405060708},
		Format:      1, Lowest: BeaconMin, Highest: BeaconMax,
		Seq: SeqAt(3600 * 1e9), Phase: Draining, Weight: 10, Unfit: 1<<63 | 5, View: 0x1112131415161718,
		Claims: 42, WireProof: true,
	}
	for i := range MaxBeaconPeers {
		b.Peers = append(b.Peers, PeerAck{
			Key: KeyOf(Incarnation{fmt.Sprint("web-", i), uint64(i)}), Seq: Seq(1e9 + i),
			Flags: AckHeard | AckAlive | AckOnWire | AckServing, Acked: b.Seq - Seq(20000+i),
		})
	}
	slices.SortFunc(b.Peers, func(a, b PeerAck) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return b
}

func drawBeacon(t *rapid.T) *Beacon {
	b := &Beacon{
		Incarnation: Incarnation{rapid.StringMatching(`[A-Za-z0-9._-]{1,63}`).Draw(t, "name"), rapid.Uint64().Draw(t, "nonce")},
		Format:      1, Lowest: BeaconMin, Highest: BeaconMax,
		Seq:    Seq(rapid.Uint64Range(1, uint64(maxSeq)).Draw(t, "seq")),
		Phase:  Phase(rapid.IntRange(0, int(Leaving)).Draw(t, "phase")),
		Weight: rapid.IntRange(1, 100).Draw(t, "weight"),
		Unfit:  rapid.Uint64().Draw(t, "unfit"), View: rapid.Uint64().Draw(t, "view"),
		Claims: rapid.Uint64().Draw(t, "claims"), WireProof: rapid.Bool().Draw(t, "proof"),
	}
	keys := rapid.SliceOfNDistinct(rapid.Uint64(), 0, MaxBeaconPeers, rapid.ID).Draw(t, "keys")
	slices.Sort(keys)
	for _, key := range keys {
		p := PeerAck{Key: PeerKey(key), Seq: Seq(rapid.Uint64Range(0, uint64(maxSeq)).Draw(t, "heard")),
			Flags: AckFlags(rapid.IntRange(0, int(ackFlags1)).Draw(t, "flags"))}
		if p.Seq == 0 {
			p.Flags &^= AckHeard | AckOnWire
		}
		if age := Seq(rapid.Uint64Range(0, noAge-1).Draw(t, "age")); age < b.Seq && rapid.Bool().Draw(t, "acked") {
			p.Acked = b.Seq - age
		}
		b.Peers = append(b.Peers, p)
	}
	return b
}

func TestBeaconsSurviveTheWire(t *testing.T) {
	c := NewBeaconCodec("web", []BeaconKey{testKey(1)})
	var got Beacon // used again and again
	rapid.Check(t, func(t *rapid.T) {
		want := drawBeacon(t)
		before := []byte("kept")
		datagram, err := c.Append(before, want)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(datagram, before) {
			t.Fatal("what was in the buffer is gone")
		}
		if err := c.Decode(&got, datagram[len(before):]); err != nil {
			t.Fatal(err)
		}
		if len(want.Peers) == 0 {
			want.Peers = got.Peers
		}
		if diff := cmp.Diff(want, &got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestSixtyFourNodesFitIntoOneFrame(t *testing.T) {
	datagram, err := NewBeaconCodec("web", nil).Append(nil, fullBeacon())
	if err != nil || len(datagram) > MaxBeacon {
		t.Fatalf("%d bytes, %v", len(datagram), err)
	}
	t.Logf("%d of %d bytes", len(datagram), MaxBeacon)
}

func TestBeaconGolden(t *testing.T) {
	key, err := DeriveBeaconKey([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	b := &Beacon{
		Incarnation: Incarnation{"web-1", 0xa1a2a3a4a5a6a7a8}, Seq: 0x0102030405, Phase: Active, Weight: 10, Unfit: 0x8001,
		View: 0xb1b2b3b4b5b6b7b8, Claims: 0xc1c2, WireProof: true,
		Peers: []PeerAck{
			{Key: 0x1000000000000001, Seq: 0x77, Flags: AckHeard | AckAlive | AckOnWire | AckServing, Acked: 0x0102030405 - 0x4e20},
			{Key: 0x2000000000000002, Seq: 0x66, Flags: AckDead},
		},
	}
	const want = "70767562" + "01" + "0102" + "01" + "f3ae1ec77c51590c" + // magic, format, range, wire-proof, cluster
		"a1a2a3a4a5a6a7a8" + "0000000102030405" + "b1b2b3b4b5b6b7b8" + "000000000000c1c2" + "0000000000008001" + "000a" + "01" +
		"05" + "02" + "7765622d31" + // lengths, name
		"1000000000000001" + "0000000000000077" + "4b" + "004e20" +
		"2000000000000002" + "0000000000000066" + "04" + "ffffff" +
		"f0e9f0686c0f1aa1507c0dbde412768cdbc6e5176560e0072e2fa07cf8ca0625" // HMAC by another program
	datagram, err := NewBeaconCodec("web", []BeaconKey{key}).Append(nil, b)
	if got := hex.EncodeToString(datagram); err != nil || got != want {
		t.Fatalf("%v\n got %s\nwant %s", err, got, want)
	}
}

func TestBeaconKeysRotate(t *testing.T) {
	older, newer := testKey(1), testKey(2)
	both := NewBeaconCodec("web", []BeaconKey{newer, older})
	var b Beacon
	for name, c := range map[string]struct {
		from, to *BeaconCodec
		want     error
	}{
		"signed with the older":  {NewBeaconCodec("web", []BeaconKey{older}), both, nil},
		"signed with the newer":  {NewBeaconCodec("web", []BeaconKey{newer}), both, nil},
		"signs with the first":   {both, NewBeaconCodec("web", []BeaconKey{newer}), nil},
		"not with the second":    {both, NewBeaconCodec("web", []BeaconKey{older}), BeaconSignature},
		"insecure to insecure":   {NewBeaconCodec("web", nil), NewBeaconCodec("web", nil), nil},
		"insecure to secure":     {NewBeaconCodec("web", nil), both, BeaconSignature},
		"insecure is zeros":      {NewBeaconCodec("web", nil), NewBeaconCodec("web", make([]BeaconKey, 1)), nil},
		"another cluster's name": {both, NewBeaconCodec("mail", []BeaconKey{newer}), BeaconCluster},
	} {
		datagram, err := c.from.Append(nil, fullBeacon())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.to.Decode(&b, datagram); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestDerivedKeysDiffer(t *testing.T) {
	a, err := DeriveBeaconKey(bytes.Repeat([]byte{1}, 32))
	b, err2 := DeriveBeaconKey(bytes.Repeat([]byte{2}, 32))
	if err != nil || err2 != nil || a == b || a == testKey(1) {
		t.Fatalf("%x, %x, %v, %v", a, b, err, err2)
	}
}

// resigned is a datagram of that body.
func (c *BeaconCodec) resigned(body []byte) []byte {
	return append(slices.Clone(body), c.sign(c.keys[0], body)...)
}

func TestBadBeaconsAreRefused(t *testing.T) {
	c := NewBeaconCodec("web", []BeaconKey{testKey(1)})
	small := fullBeacon()
	small.Name, small.Peers = "web-1", small.Peers[:2]
	good, err := c.Append(nil, small)
	if err != nil {
		t.Fatal(err)
	}
	body := good[:len(good)-beaconSignature]
	at := func(i int, v ...byte) []byte {
		changed := slices.Clone(body)
		copy(changed[i:], v)
		return c.resigned(changed)
	}
	peers := beaconFixed + len("web-1")
	for name, row := range map[string]struct {
		datagram []byte
		want     BeaconFault
	}{
		"empty":                   {nil, BeaconTruncated},
		"three bytes":             {good[:3], BeaconTruncated},
		"the head":                {good[:beaconHead], BeaconTruncated},
		"half a head":             {good[:beaconHead-1], BeaconTruncated},
		"one byte short":          {good[:len(good)-1], BeaconTruncated},
		"one byte long":           {append(slices.Clone(good), 0), BeaconMalformed},
		"too long":                {make([]byte, MaxBeacon+1), BeaconOversize},
		"something else":          {bytes.Repeat([]byte("DNS "), 40), BeaconForeign},
		"of a later format":       {at(4, BeaconMax+1), BeaconVersion},
		"for later readers":       {at(5, BeaconMax+1, BeaconMax+2), BeaconVersion},
		"for earlier readers":     {at(5, 0, 0), BeaconVersion},
		"readers of later also":   {at(5, 1, 3), 0},
		"another cluster":         {at(8, 0), BeaconCluster},
		"changed":                 {append(slices.Clone(good[:len(good)-1]), good[len(good)-1]^1), BeaconSignature},
		"of format 2, short":      {at(4, 2), BeaconTruncated},
		"unknown flag":            {at(7, 4), BeaconMalformed},
		"sequence number 0":       {at(24, 0, 0, 0, 0, 0, 0, 0, 0), BeaconMalformed},
		"sequence number no time": {at(24, 0xff), BeaconMalformed},
		"weight 0":                {at(56, 0, 0), BeaconMalformed},
		"weight over all":         {at(56, 0, 101), BeaconMalformed},
		"unknown phase":           {at(58, 6), BeaconMalformed},
		"no name":                 {c.resigned(append(at(59, 0)[:beaconFixed:beaconFixed], body[peers:]...)), BeaconMalformed},
		"name for a log":          {at(beaconFixed, '\n'), BeaconMalformed},
		"peers out of order":      {at(peers, 0xff, 0xff), BeaconMalformed},
		"peer twice":              {at(peers, body[peers+beaconPeer:][:8]...), BeaconMalformed},
		"unknown peer flag":       {at(peers+16, 0x80), BeaconMalformed},
		"heard nothing":           {at(peers+8, 0, 0, 0, 0, 0, 0, 0, 0), BeaconMalformed},
		"heard no time":           {at(peers+8, 0xff), BeaconMalformed},
		"count too high":          {at(60, 3), BeaconTruncated},
		"count too low":           {at(60, 1), BeaconMalformed},
	} {
		var b Beacon
		err := c.Decode(&b, row.datagram)
		var got BeaconFault
		if err != nil && !errors.As(err, &got) || got != row.want {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
	}
	// An acknowledgement from before the sender's clock began.
	small.Seq, small.Peers[0].Acked, small.Peers[1].Acked = 100, 0, 0
	young, err := c.Append(nil, small)
	if err != nil {
		t.Fatal(err)
	}
	copy(young[peers+17:], []byte{0, 0, 100})
	var b Beacon
	if err := c.Decode(&b, c.resigned(young[:len(young)-beaconSignature])); !errors.Is(err, BeaconMalformed) {
		t.Errorf("acknowledged before it began: %v", err)
	}
}

func TestBeaconsThatCannotBeWritten(t *testing.T) {
	for name, spoil := range map[string]func(b *Beacon){
		"long name":      func(b *Beacon) { b.Name += "x" },
		"no name":        func(b *Beacon) { b.Name = "" },
		"too many peers": func(b *Beacon) { b.Peers = append(b.Peers, PeerAck{Key: 1<<64 - 1}) },
		"no number":      func(b *Beacon) { b.Seq = 0 },
		"weight":         func(b *Beacon) { b.Weight = 1000 },
	} {
		b := fullBeacon()
		spoil(b)
		if datagram, err := NewBeaconCodec("web", nil).Append(nil, b); err == nil || len(datagram) > 0 {
			t.Errorf("%s: %d bytes, %v", name, len(datagram), err)
		}
	}
}

// Nothing that anybody sends may crash a node, or be read as something that it
// would not have written so itself. The bytes are tried as they are, and signed.
func FuzzDecodeBeacon(f *testing.F) {
	c := NewBeaconCodec("web", nil)
	full, err := c.Append(nil, fullBeacon())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add(full[:beaconFixed])
	f.Add(bytes.Repeat([]byte{0xff}, 200))
	small, err := c.Append(nil, &Beacon{Incarnation: Incarnation{"a", 1}, Seq: 1, Weight: 10})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(small)
	for _, b := range []*Beacon{ofFormat2(fullBeacon(), 1), ofFormat2(fullBeacon(), maxWhole), {Incarnation: Incarnation{"a", 1}, Format: 2, Seq: 1, Weight: 10}} {
		second, err := c.Append(nil, b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(second)
		f.Add(append(second[:len(second)-beaconSignature:len(second)-beaconSignature], bytes.Repeat([]byte{0x5a}, 100)...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		signed := data
		if len(data) >= beaconSignature {
			signed = c.resigned(data[:len(data)-beaconSignature])
		}
		for _, datagram := range [][]byte{data, signed} {
			var b Beacon
			if err := c.Decode(&b, datagram); err != nil {
				var fault BeaconFault
				if !errors.As(err, &fault) || fault <= 0 || int(fault) >= BeaconFaults {
					t.Fatalf("an error of another kind: %v", err)
				}
				continue
			}
			again, err := c.Append(nil, &b)
			if err != nil {
				t.Fatal(err)
			}
			if b.Format > 1 { // a later version may say more, which is left out
				var same Beacon
				if err := c.Decode(&same, again); err != nil || !cmp.Equal(b, same, cmpopts.EquateEmpty()) {
					t.Fatalf("read, written and read: %v\n%+v\n%+v", err, b, same)
				}
			} else {
				copy(again[5:7], datagram[5:7]) // of 0 for the lowest that it reads 1 is made
				if again = c.resigned(again[:len(again)-beaconSignature]); !bytes.Equal(again, datagram) {
					t.Fatalf("read and written:\n%x\n%x", datagram, again)
				}
			}
			now := b.Seq.Time()
			l := NewLiveness(Incarnation{"me", 1}, NewDetect(20*mil, 10))
			for _, medium := range []Medium{Wire, Unicast} {
				l.Hear(now, medium, &b)
			}
			l.Changes(now)
			l.Status(now)
			acks := l.AppendAcks(nil, now)
			if len(acks) > 1 {
				t.Fatalf("%d acknowledgements", len(acks))
			}
			answer := &Beacon{Incarnation: Incarnation{"me", 1}, Format: 2, Unit: l.detect.unit(), Seq: SeqAt(now), Weight: 10, Peers: acks}
			l.condense(now, answer)
			if _, err := c.Append(nil, answer); err != nil {
				t.Fatalf("%v: %+v", err, answer)
			}
		}
	})
}

func BenchmarkBeaconAppend(b *testing.B) {
	c := NewBeaconCodec("web", []BeaconKey{testKey(1)})
	full := fullBeacon()
	buf := make([]byte, 0, MaxBeacon)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Append(buf, full); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBeaconDecode(b *testing.B) { benchmarkDecode(b, fullBeacon()) }

func benchmarkDecode(b *testing.B, beacon *Beacon) {
	c := NewBeaconCodec("web", []BeaconKey{testKey(1)})
	datagram, err := c.Append(nil, beacon)
	if err != nil {
		b.Fatal(err)
	}
	var into Beacon
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Decode(&into, datagram); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHear is one beacon of 64 nodes that all hear each other: with the
// default timing a node hears 3150 a second.
func BenchmarkHear(b *testing.B) {
	const peers = 63
	now := Time(3600 * 1e9)
	me := NewLiveness(Incarnation{"me", 1}, NewDetect(20*mil, 10))
	beacons := make([]*Beacon, peers)
	keys := []PeerKey{me.key}
	for i := range beacons {
		beacons[i] = &Beacon{Incarnation: Incarnation{fmt.Sprint("web-", i), uint64(i)}, Phase: Active, Weight: 10}
		keys = append(keys, KeyOf(beacons[i].Incarnation))
		me.Know(now, beacons[i].Incarnation)
	}
	slices.Sort(keys)
	for i := range beacons {
		for _, key := range keys {
			if key != KeyOf(beacons[i].Incarnation) {
				beacons[i].Peers = append(beacons[i].Peers, PeerAck{Key: key, Flags: AckHeard | AckAlive | AckOnWire | AckServing})
			}
		}
	}
	var acks []PeerAck
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i++; i%peers == 0 { // the interval's own work
			me.Changes(now)
			acks = me.AppendAcks(acks[:0], now)
			me.MarkUntil(now)
			me.SilentOnWire(now)
		}
		now += 20 * mil / peers
		beacon := beacons[i%peers]
		beacon.Seq = SeqAt(now)
		for k := range beacon.Peers {
			beacon.Peers[k].Seq, beacon.Peers[k].Acked = SeqAt(now-20*mil), SeqAt(now-30*mil)
		}
		if h := me.Hear(now, Wire, beacon); h.Kind != HeardFresh {
			b.Fatalf("heard %v", h.Kind)
		}
	}
}
