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
	"pgregory.net/rapid"
)

// ofFormat2 is the beacon as format 2 has it, all entries but so many of them short.
func ofFormat2(b *Beacon, whole int) *Beacon {
	b.Format, b.Unit = 2, 10
	for _, p := range b.Peers[whole:] {
		b.Brief = append(b.Brief, BriefAck{Key: p.Key.Brief(), Number: uint16(p.Seq >> b.Unit), Flags: p.Flags, Acked: p.Acked})
	}
	slices.SortFunc(b.Brief, func(a, b BriefAck) int { return int(a.Key) - int(b.Key) })
	b.Brief = slices.CompactFunc(b.Brief, func(a, b BriefAck) bool { return a.Key == b.Key })
	b.Peers = b.Peers[:whole]
	return b
}

func drawBeacon2(t *rapid.T) *Beacon {
	b := ofFormat2(drawBeacon(t), 0)
	b.Empty = rapid.Bool().Draw(t, "empty")
	b.Generation = rapid.Uint64().Draw(t, "generation")
	b.Unit = uint8(rapid.IntRange(0, maxUnit).Draw(t, "unit"))
	flags := func() AckFlags {
		f := AckFlags(rapid.IntRange(0, int(knownAckFlags)).Draw(t, "flags"))
		f = f&^ackStanding | rapid.SampledFrom(briefStandings[:]).Draw(t, "standing")
		if f&AckHeard == 0 {
			f &^= AckOnWire
		}
		return f
	}
	for i := range b.Brief {
		p := &b.Brief[i]
		p.Flags, p.Number = flags(), uint16(rapid.IntRange(0, 1<<16-1).Draw(t, "number"))
		if p.Unheard = rapid.Bool().Draw(t, "unheard"); p.Unheard {
			p.Flags &^= AckHeard | AckOnWire
			p.Number = 0
		}
		p.Acked = b.stepsBack(uint64(rapid.IntRange(0, noSteps4).Draw(t, "steps")), noSteps4)
	}
	for i := range rapid.IntRange(0, MaxBeaconPeers-len(b.Brief)).Draw(t, "whole") {
		b.Peers = append(b.Peers, PeerAck{
			Key: PeerKey(i + 1), Seq: Seq(rapid.Uint64Range(1, uint64(maxSeq)).Draw(t, "heard")), Flags: flags(),
			Acked: b.stepsBack(uint64(rapid.IntRange(0, noSteps).Draw(t, "steps")), noSteps),
		})
	}
	return b
}

func TestBeaconsOfFormat2SurviveTheWire(t *testing.T) {
	c := NewBeaconCodec("web", []BeaconKey{testKey(1)})
	var got Beacon // used again and again
	rapid.Check(t, func(t *rapid.T) {
		want := drawBeacon2(t)
		datagram, err := c.Append(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		head, ok := ReadBeaconHead(datagram)
		if !ok || head.Serves != (want.Phase != Joining) || head.Seq != want.Seq || head.Nonce != want.Nonce {
			t.Fatalf("its head: %+v, %v", head, ok)
		}
		if err := c.Decode(&got, datagram); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(append([]PeerAck{}, want.Peers...), append([]PeerAck{}, got.Peers...)); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(append([]BriefAck{}, want.Brief...), append([]BriefAck{}, got.Brief...)); diff != "" {
			t.Fatal(diff)
		}
		again := got
		again.Peers, again.Brief, want.Peers, want.Brief = nil, nil, nil, nil
		if diff := cmp.Diff(want, &again); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestAckedIsRoundedToTheOlderSide: what it says was acknowledged is never more than was.
func TestAckedIsRoundedToTheOlderSide(t *testing.T) {
	b := &Beacon{Unit: 10, Seq: SeqAt(3600 * 1e9)}
	for age := Seq(0); age < 300_000; age += 777 {
		for _, none := range []uint64{noSteps, noSteps4} {
			acked := b.Seq - age
			got := b.stepsBack(b.stepsOf(acked, none), none)
			if got > acked || got == 0 && age < Seq(none-1)<<(b.Unit+stepBits) || got > 0 && acked-got >= 1<<(b.Unit+stepBits) {
				t.Fatalf("acknowledged %d us ago, said of %d, none is %d", age, b.Seq-got, none)
			}
		}
	}
}

// TestBeacon2Golden: the HMAC was made by another program.
func TestBeacon2Golden(t *testing.T) {
	key, err := DeriveBeaconKey([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	b := &Beacon{
		Incarnation: Incarnation{"web-1", 0xa1a2a3a4a5a6a7a8}, Format: 2, Unit: 10, Seq: 0x0102030400, Phase: Active, Weight: 10, Unfit: 0x8001,
		View: 0xb1b2b3b4b5b6b7b8, Claims: 0xc1c2, Generation: 0xd1d2d3, WireProof: true,
		Peers: []PeerAck{{Key: 0x2000000000000002, Seq: 0x66, Flags: AckDead}},
		Brief: []BriefAck{
			{Key: 0x12345, Number: 0x6789, Flags: AckHeard | AckAlive | AckOnWire | AckServing | AckCurrent, Acked: 0x0102030400 - 0x8000},
			{Key: 0xfffff, Unheard: true, Flags: AckAlive},
		},
	}
	const want = "70767562" + "02" + "0102" + "05" + "f3ae1ec77c51590c" + // magic, format, range, wire-proof and serves, cluster
		"a1a2a3a4a5a6a7a8" + "0000000102030400" + "b1b2b3b4b5b6b7b8" + "000000000000c1c2" + "0000000000d1d2d3" + "000a" + "01" +
		"0a" + "05" + "02" + "01" + "02" + "7765622d31" + "8001" + // unit, lengths, name, unfit
		"2000000000000002" + "0000000000000066" + "0004" + "ff" +
		"1234567892" + "5b" + "fffff0000f" + "42" +
		"9bb6e1d307afe87080956579cfc1bff15603148d87c5608e21d5c6fe44918662"
	datagram, err := NewBeaconCodec("web", []BeaconKey{key}).Append(nil, b)
	if got := hex.EncodeToString(datagram); err != nil || got != want {
		t.Fatalf("%v\n got %s\nwant %s", err, got, want)
	}
}

// TestBeaconsOfFormat2 are bad in some, and of a later version in others: what a later
// version adds is left out.
func TestBeaconsOfFormat2(t *testing.T) {
	c := NewBeaconCodec("web", []BeaconKey{testKey(1)})
	small := fullBeacon()
	small.Name, small.Peers, small.Unfit = "web-1", small.Peers[:4], 1
	small = ofFormat2(small, 2)
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
	peers := beaconFixed2 + len("web-1") + 1
	brief := peers + 2*beaconWhole2
	for name, row := range map[string]struct {
		datagram []byte
		want     BeaconFault
	}{
		"as it is":                {good, 0},
		"the fixed part":          {good[:beaconFixed2+beaconSignature-1], BeaconTruncated},
		"one byte short":          {good[:len(good)-1], BeaconTruncated},
		"something behind":        {c.resigned(append(slices.Clone(body), "what a later version says"...)), 0},
		"too much behind":         {c.resigned(append(slices.Clone(body), make([]byte, MaxBeacon)...)), BeaconOversize},
		"changed":                 {append(slices.Clone(good[:len(good)-1]), good[len(good)-1]^1), BeaconSignature},
		"another cluster":         {at(8, 0), BeaconCluster},
		"for later readers":       {at(5, BeaconMax+1, BeaconMax+2), BeaconVersion},
		"readers of later also":   {at(5, 2, 9), 0},
		"unknown flag":            {at(7, 0xfd), 0},
		"sequence number 0":       {at(24, 0, 0, 0, 0, 0, 0, 0, 0), BeaconMalformed},
		"sequence number no time": {at(24, 0xff), BeaconMalformed},
		"weight 0":                {at(56, 0, 0), 0},
		"weight over all":         {at(56, 0xff, 0xff), 0},
		"unknown phase":           {at(58, 99), 0},
		"unit too large":          {at(59, maxUnit+1), BeaconMalformed},
		"no name":                 {c.resigned(append(at(60, 0)[:beaconFixed2:beaconFixed2], body[beaconFixed2+5:]...)), BeaconMalformed},
		"name for a log":          {at(beaconFixed2, '\n'), BeaconMalformed},
		"more services than 64":   {c.resigned(slices.Insert(at(61, 10)[:len(body)], peers, make([]byte, 9)...)), 0},
		"peers out of order":      {at(peers, 0xff, 0xff), BeaconMalformed},
		"heard no time":           {at(peers+8, 0xff), BeaconMalformed},
		"unknown peer flags":      {at(peers+16, 0xff), 0},
		"acknowledged long ago":   {at(peers+18, noSteps-1), 0},
		"brief out of order":      {at(brief, 0xff, 0xff), BeaconMalformed},
		"brief twice":             {at(brief+beaconBrief, body[brief:brief+3]...), BeaconMalformed},
		"counts too high":         {at(62, 3), BeaconTruncated},
		"counts too low":          {at(63, 1), 0},
		"too many peers":          {c.resigned(append(at(62, 2, 63)[:len(body):len(body)], make([]byte, 61*beaconBrief)...)), BeaconMalformed},
	} {
		var b Beacon
		err := c.Decode(&b, row.datagram)
		var got BeaconFault
		if err != nil && !errors.As(err, &got) || got != row.want {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
		if row.want == 0 && name != "counts too low" && (len(b.Peers) != 2 || len(b.Brief) != 2 || b.Name != "web-1") {
			t.Errorf("%s: %+v", name, b)
		}
	}
}

// TestUnknownPhases: who serves keeps what it has and is given nothing, who does not has nothing.
func TestUnknownPhases(t *testing.T) {
	c := NewBeaconCodec("web", nil)
	for _, row := range []struct{ written, want Phase }{{Joining, Joining}, {Active, Draining}, {Drained, Draining}} {
		datagram, err := c.Append(nil, &Beacon{Incarnation: Incarnation{"a", 1}, Format: 2, Seq: 1, Weight: 10, Phase: row.written})
		if err != nil {
			t.Fatal(err)
		}
		datagram[58] = 77
		var b Beacon
		if err := c.Decode(&b, c.resigned(datagram[:len(datagram)-beaconSignature])); err != nil || b.Phase != row.want {
			t.Errorf("an unknown phase in place of %v: %v, %v", row.written, b.Phase, err)
		}
	}
}

// TestSizesOfBeacons prints the table of docs/protocol.md, and holds what it promises: 64
// nodes load a segment with less than 15 Mbit/s, and fit into an MTU of 1280.
func TestSizesOfBeacons(t *testing.T) {
	const v4, v6, minMTU = 20 + 8, 40 + 8, 1280
	c := NewBeaconCodec("web", nil)
	payload := func(format, nodes, name, whole int) int {
		b := fullBeacon()
		b.Name, b.Peers, b.Unfit = b.Name[:name], b.Peers[:nodes-1], 0
		if format > 1 {
			b = ofFormat2(b, min(whole, nodes-1))
			for len(b.Peers)+len(b.Brief) < nodes-1 { // two short keys of these are equal
				b.Brief = append(b.Brief, BriefAck{Key: b.Brief[len(b.Brief)-1].Key + 1, Unheard: true})
			}
		}
		datagram, err := c.Append(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		return len(datagram)
	}
	mbit := func(packet, nodes int) float64 { return float64(packet*8*50*nodes) / 1e6 }
	var table strings.Builder
	for _, nodes := range []int{2, 3, 8, 16, 32, 64} {
		one, two := payload(1, nodes, 8, 0), payload(2, nodes, 8, 1)
		fmt.Fprintf(&table, "%5d %8d %8d %8.1f %8d %8d %8.1f\n", nodes, one, one+v4, mbit(one+v4, nodes), two, two+v4, mbit(two+v4, nodes))
	}
	t.Logf("names of 8 bytes, 50 beacons a second and node, IPv4\nnodes payload1  packet1   Mbit/s payload2  packet2   Mbit/s\n%s", &table)
	for _, name := range []int{1, 8, 26, MaxBeaconName} {
		steady, most := payload(2, 64, name, 1), payload(2, 64, name, maxWhole)
		t.Logf("format 2, 64 nodes, names of %d bytes: %d bytes, %.1f Mbit/s by IPv4, %.1f by IPv6; at a first meeting %d bytes", name, steady, mbit(steady+v4, 64), mbit(steady+v6, 64), most)
		if mbit(steady+v4, 64) >= 15 || most+v6 > minMTU || most+unfitBytes > MaxBeacon2 {
			t.Errorf("names of %d bytes: %.1f Mbit/s, %d bytes", name, mbit(steady+v4, 64), most)
		}
	}
}

// The longest entry list that may be is whole but for nothing, and still fits a frame.
func TestAllEntriesWholeFitIntoOneFrame(t *testing.T) {
	b := fullBeacon()
	b.Format, b.Unit = 2, 10
	datagram, err := NewBeaconCodec("web", nil).Append(nil, b)
	if err != nil || len(datagram) > MaxBeacon {
		t.Fatalf("%d bytes, %v", len(datagram), err)
	}
	if !bytes.Equal(datagram[:4], []byte("pvub")) {
		t.Fatal("no magic")
	}
}

func BenchmarkBeaconDecode2(b *testing.B) { benchmarkDecode(b, ofFormat2(fullBeacon(), 1)) }

// BenchmarkHear2 is BenchmarkHear in format 2, through the codec: 3150 of these a second come to
// one of 64 nodes.
func BenchmarkHear2(b *testing.B) {
	const nodes = 64
	now := Time(3600 * 1e9)
	c := NewBeaconCodec("web", []BeaconKey{testKey(1)})
	all := make([]*Liveness, nodes)
	for i := range all {
		all[i] = NewLiveness(Incarnation{fmt.Sprint("web-", i), uint64(i + 1)}, NewDetect(20*mil, 10))
	}
	buf := make([]byte, 0, MaxBeacon)
	var made, got Beacon
	say := func(l *Liveness) []byte {
		seq := l.detect.numberAt(now, l.sent.ring[(l.sent.next+31)%32])
		made = Beacon{Incarnation: l.self, Format: 2, Unit: l.detect.unit(), Seq: seq, Phase: Active, Weight: 10, Peers: l.AppendAcks(made.Peers[:0], now), Brief: made.Brief[:0]}
		l.condense(now, &made)
		l.sent.add(seq)
		datagram, err := c.Append(buf, &made)
		if err != nil {
			b.Fatal(err)
		}
		return datagram
	}
	for range 40 { // until all entries are short
		for _, from := range all {
			now += 20 * mil / nodes
			datagram := say(from)
			for _, to := range all {
				if to != from {
					if err := c.Decode(&got, datagram); err != nil {
						b.Fatal(err)
					}
					to.Hear(now, Wire, &got)
				}
			}
		}
	}
	me := all[0]
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		now += 20 * mil / nodes
		from := all[1+int(now/(20*mil/nodes))%(nodes-1)]
		datagram := say(from)
		me.wake(now)
		b.StartTimer()
		if err := c.Decode(&got, datagram); err != nil {
			b.Fatal(err)
		}
		me.Hear(now, Wire, &got)
	}
	b.ReportMetric(float64(len(made.Brief)), "short")
}
