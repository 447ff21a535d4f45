package link

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"
)

// Every frame, whatever its payload, is what an independent writer of packets makes
// of the same.
func TestBeaconFrame(t *testing.T) {
	cluster, own := hwAddr{0x01, 0, 0x5e, 0x7f, 2, 100}, hwAddr{2, 0, 0, 0, 0, 0xaa}
	node := netip.MustParseAddr("192.0.2.11")
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.SliceOfN(rapid.Byte(), 0, MaxBeacon).Draw(t, "payload")
		before := rapid.SliceOfN(rapid.Byte(), 0, MaxBeacon).Draw(t, "the payload before it")
		var frame beaconFrame
		frame.address(cluster, own, node, vip, beaconPort)
		frame.seal(len(append(frame.payload(), before...)))
		got := frame.seal(len(append(frame.payload(), payload...)))

		ip := layers.IPv4{
			Version: 4, IHL: 5, TOS: 0xc0, Flags: layers.IPv4DontFragment, TTL: 255, Protocol: layers.IPProtocolUDP,
			SrcIP: node.AsSlice(), DstIP: vip.AsSlice(),
		}
		udp := layers.UDP{SrcPort: beaconPort, DstPort: beaconPort}
		if err := udp.SetNetworkLayerForChecksum(&ip); err != nil {
			t.Fatal(err)
		}
		buffer := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: own.hardware(), DstMAC: cluster.hardware(), EthernetType: layers.EthernetTypeIPv4},
			&ip, &udp, gopacket.Payload(payload)); err != nil {
			t.Fatal(err)
		}
		want := buffer.Bytes()[:headersLen+len(payload)] // without the padding of short frames
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("frame (-want +got):\n%s", diff)
		}
	})
}

// A checksum that comes to 0 is sent as 0xffff: 0 would say that there is none.
func TestBeaconFrameChecksumIsNeverZero(t *testing.T) {
	var frame beaconFrame
	frame.address(hwAddr{1}, hwAddr{2}, netip.MustParseAddr("192.0.2.11"), vip, beaconPort)
	frame.seal(2)
	rest := [2]byte(frame[ethernetLen+ipLen+6:][:2]) // makes the whole sum 0xffff
	frame.seal(copy(frame[headersLen:], rest[:]))
	if got := [2]byte(frame[ethernetLen+ipLen+6:][:2]); got != [2]byte{0xff, 0xff} {
		t.Errorf("checksum %x, want ffff", got)
	}
}
