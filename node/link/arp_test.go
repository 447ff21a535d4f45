package link

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/net/bpf"
	"pgregory.net/rapid"
)

var (
	ownMAC     = hwAddr{0x02, 0, 0, 0, 0, 0x11}
	clientMAC  = hwAddr{0x02, 0, 0, 0, 0, 0xc1}
	peerMAC    = hwAddr{0x02, 0, 0, 0, 0, 0x12}
	sharedMAC  = hwAddr{0x01, 0x00, 0x5e, 0x7f, 0x02, 0x64}
	vip        = netip.MustParseAddr("192.0.2.100")
	otherVIP   = netip.MustParseAddr("192.0.2.101")
	client     = netip.MustParseAddr("192.0.2.1")
	nobody     = netip.IPv4Unspecified()
	testSpeech = &speaker{own: ownMAC, cluster: sharedMAC, vips: []netip.Addr{vip, otherVIP}}
)

var compareFrames = cmp.Options{cmp.AllowUnexported(arpFrame{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}

// who returns the usual request of the client for the VIP, changed by f.
func who(f func(*arpFrame)) arpFrame {
	r := request(clientMAC, client, vip)
	f(&r)
	return r
}

func TestAnswer(t *testing.T) {
	reply := arpFrame{
		dst: clientMAC, src: ownMAC, operation: layers.ARPReply,
		senderMAC: sharedMAC, senderIP: vip, targetMAC: clientMAC, targetIP: client,
	}
	with := func(f func(*arpFrame)) arpFrame {
		r := reply
		f(&r)
		return r
	}
	for _, c := range []struct {
		name    string
		speaker *speaker
		frame   arpFrame
		why     refusal
		want    arpFrame
	}{
		{"broadcast request", testSpeech, who(func(*arpFrame) {}), answered, reply},
		{"unicast request to the node", testSpeech, who(func(f *arpFrame) { f.dst = ownMAC }), answered, reply},
		{"unicast request to the cluster MAC, as a client revalidates", testSpeech,
			who(func(f *arpFrame) { f.dst, f.targetMAC = sharedMAC, sharedMAC }), answered, reply},
		{"second VIP", testSpeech, who(func(f *arpFrame) { f.targetIP = otherVIP }), answered,
			with(func(f *arpFrame) { f.senderIP = otherVIP })},
		{"probe", testSpeech, who(func(f *arpFrame) { f.senderIP = nobody }), answered,
			with(func(f *arpFrame) { f.targetIP = nobody })},
		{"sent through a proxy: the sender is the one in the payload", testSpeech, who(func(f *arpFrame) { f.src = peerMAC }), answered, reply},

		{"not up", nil, who(func(*arpFrame) {}), silent, arpFrame{}},
		{"reply", testSpeech, who(func(f *arpFrame) { f.operation = layers.ARPReply }), notRequest, arpFrame{}},
		{"RARP", testSpeech, who(func(f *arpFrame) { f.operation = 3 }), notRequest, arpFrame{}},
		{"other address", testSpeech, who(func(f *arpFrame) { f.targetIP = client.Next() }), notVIP, arpFrame{}},
		{"to another station", testSpeech, who(func(f *arpFrame) { f.dst = peerMAC }), otherStation, arpFrame{}},
		{"own frame come back", testSpeech, request(ownMAC, nobody, vip), ownFrame, arpFrame{}},
		{"own frame through another's port", testSpeech, who(func(f *arpFrame) { f.src = ownMAC }), ownFrame, arpFrame{}},
		{"in the name of the cluster MAC", testSpeech, who(func(f *arpFrame) { f.senderMAC = sharedMAC }), fromTheShared, arpFrame{}},
		{"a peer's gratuitous ARP", testSpeech,
			(&speaker{own: peerMAC, cluster: sharedMAC}).announcement(vip), fromTheShared, arpFrame{}},
		{"another's gratuitous ARP", testSpeech, who(func(f *arpFrame) { f.senderIP = vip }), gratuitous, arpFrame{}},
		{"from a group", testSpeech, who(func(f *arpFrame) { f.senderMAC = broadcast }), noSender, arpFrame{}},
		{"from nobody", testSpeech, who(func(f *arpFrame) { f.senderMAC = hwAddr{} }), noSender, arpFrame{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, why := c.speaker.answer(c.frame)
			if why != c.why {
				t.Fatalf("refusal %q, want %q", why, c.why)
			}
			if diff := cmp.Diff(c.want, got, compareFrames); diff != "" {
				t.Fatalf("reply (-want +got):\n%s", diff)
			}
		})
	}
}

// A reply as bytes, against RFC 826's layout written by hand.
func TestReplyOnTheWire(t *testing.T) {
	reply, why := testSpeech.answer(request(clientMAC, client, vip))
	if why != answered {
		t.Fatal(why)
	}
	const want = "0200000000c1" + "020000000011" + "0806" + // Ethernet: to the client, from our own MAC
		"0001" + "0800" + "06" + "04" + "0002" + // Ethernet, IPv4, reply
		"01005e7f0264" + "c0000264" + "0200000000c1" + "c0000201" +
		"000000000000000000000000000000000000" // padding to 60 bytes
	if got := hex.EncodeToString(reply.bytes()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAnnouncementIsAGratuitousRequest(t *testing.T) {
	got := testSpeech.announcement(vip)
	want := arpFrame{
		dst: broadcast, src: ownMAC, operation: layers.ARPRequest,
		senderMAC: sharedMAC, senderIP: vip, targetIP: vip,
	}
	if diff := cmp.Diff(want, got, compareFrames); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestClaims(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame arpFrame
		want  bool
	}{
		{"a peer's reply", arpFrame{operation: layers.ARPReply, senderMAC: sharedMAC, senderIP: vip}, false},
		{"a foreign reply", arpFrame{operation: layers.ARPReply, senderMAC: clientMAC, senderIP: vip}, true},
		{"a foreign gratuitous request", request(clientMAC, vip, vip), true},
		{"a foreign request with the VIP as its sender", request(clientMAC, otherVIP, client), true},
		{"a probe of another that starts", request(clientMAC, nobody, vip), false},
		{"a client's request", request(clientMAC, client, vip), false},
	} {
		if got := c.frame.claims([]netip.Addr{vip, otherVIP}, sharedMAC); got != c.want {
			t.Errorf("%s: claims %v, want %v", c.name, got, c.want)
		}
	}
}

func TestIsAnswerTo(t *testing.T) {
	reply := arpFrame{dst: ownMAC, src: clientMAC, operation: layers.ARPReply, senderMAC: clientMAC, senderIP: client}
	with := func(f func(*arpFrame)) arpFrame {
		r := reply
		f(&r)
		return r
	}
	for _, c := range []struct {
		name  string
		frame arpFrame
		want  bool
	}{
		{"a client's reply", reply, true},
		{"a peer's reply for the VIP", with(func(f *arpFrame) { f.src, f.senderMAC, f.senderIP = peerMAC, sharedMAC, vip }), true},
		{"a reply to somebody else, flooded", with(func(f *arpFrame) { f.dst = peerMAC }), false},
		{"a broadcast reply", with(func(f *arpFrame) { f.dst = broadcast }), false},
		{"a request", with(func(f *arpFrame) { f.operation = layers.ARPRequest }), false},
		{"a frame of our own", with(func(f *arpFrame) { f.src = ownMAC }), false},
		{"a frame in our name", with(func(f *arpFrame) { f.senderMAC = ownMAC }), false},
	} {
		if got := c.frame.isAnswerTo(ownMAC); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func drawMAC(t *rapid.T, label string) hwAddr {
	return rapid.OneOf(
		rapid.SampledFrom([]hwAddr{ownMAC, sharedMAC, clientMAC, broadcast, {}}),
		rapid.Custom(func(t *rapid.T) hwAddr { return hwAddr(rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac")) }),
	).Draw(t, label)
}

func drawIP(t *rapid.T, label string) netip.Addr {
	return rapid.OneOf(
		rapid.SampledFrom([]netip.Addr{vip, otherVIP, client, nobody}),
		rapid.Custom(func(t *rapid.T) netip.Addr {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "ip")))
		}),
	).Draw(t, label)
}

func drawFrame(t *rapid.T) arpFrame {
	return arpFrame{
		dst: drawMAC(t, "dst"), src: drawMAC(t, "src"), operation: rapid.Uint16Range(0, 4).Draw(t, "operation"),
		senderMAC: drawMAC(t, "senderMAC"), senderIP: drawIP(t, "senderIP"),
		targetMAC: drawMAC(t, "targetMAC"), targetIP: drawIP(t, "targetIP"),
	}
}

func TestFramesSurviveTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frame := drawFrame(t)
		got, err := parseARP(frame.bytes())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(frame, got, compareFrames); diff != "" {
			t.Fatalf("(-sent +read):\n%s", diff)
		}
	})
}

// Whatever comes, an answer never has the cluster MAC as its Ethernet source, goes
// to one station, and tells of a VIP.
func TestAnswersNeverComeFromTheClusterMAC(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		reply, why := testSpeech.answer(drawFrame(t))
		if why != answered {
			return
		}
		if reply.src != ownMAC || reply.dst.group() || reply.senderMAC != sharedMAC || reply.senderIP != vip && reply.senderIP != otherVIP {
			t.Fatalf("reply %+v", reply)
		}
	})
}

// The kernel's filter passes all that the agent would act on, and nothing else.
func TestFilterPassesWhatMatters(t *testing.T) {
	machine, err := bpf.NewVM(arpFilter(testSpeech.vips))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		frame := drawFrame(t)
		passed, err := machine.Run(frame.bytes())
		if err != nil {
			t.Fatal(err)
		}
		_, why := testSpeech.answer(frame)
		acted := why == answered || frame.operation == layers.ARPReply || frame.claims(testSpeech.vips, sharedMAC)
		isVIP := func(a netip.Addr) bool { return a == vip || a == otherVIP }
		concerns := frame.operation == layers.ARPReply || isVIP(frame.senderIP) || isVIP(frame.targetIP)
		if acted && passed == 0 {
			t.Fatalf("dropped %+v", frame)
		}
		if (passed > 0) != concerns {
			t.Fatalf("passed %d bytes of %+v", passed, frame)
		}
	})
}

func TestFilterWithManyVIPs(t *testing.T) {
	var vips []netip.Addr
	for a := netip.MustParseAddr("198.51.100.0"); len(vips) < 300; a = a.Next() {
		vips = append(vips, a)
	}
	raw, err := bpf.Assemble(arpFilter(vips))
	if err != nil {
		t.Fatal(err)
	}
	const limit = 4096 // BPF_MAXINSNS of the kernel
	if len(raw) > limit {
		t.Errorf("%d instructions, the kernel takes %d", len(raw), limit)
	}
	machine, err := bpf.NewVM(arpFilter(vips))
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []netip.Addr{vips[0], vips[299], vips[299].Next()} {
		passed, err := machine.Run(request(clientMAC, client, target).bytes())
		if err != nil {
			t.Fatal(err)
		}
		if want := target != vips[299].Next(); (passed > 0) != want {
			t.Errorf("request for %s: passed %d bytes, want passing %v", target, passed, want)
		}
	}
}

func TestParseARPRefuses(t *testing.T) {
	good := request(clientMAC, client, vip).bytes()
	change := func(at int, to byte) []byte {
		frame := append([]byte(nil), good...)
		frame[at] = to
		return frame
	}
	for name, frame := range map[string][]byte{
		"empty":                      nil,
		"half an Ethernet header":    good[:9],
		"no ARP after the header":    good[:14],
		"cut in the fixed part":      good[:20],
		"cut in the addresses":       good[:41],
		"another Ethernet type":      change(13, 0),
		"a length for a type":        change(12, 0),
		"not Ethernet":               change(15, 6),
		"not IPv4":                   change(16, 0x86),
		"hardware address of 8":      change(18, 8),
		"protocol address of 16":     change(19, 16),
		"addresses of 255 bytes":     change(18, 255),
		"no hardware address":        change(18, 0),
		"no protocol address at all": change(19, 0),
	} {
		if got, err := parseARP(frame); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
	if _, err := parseARP(good[:42]); err != nil {
		t.Errorf("a frame without padding: %v", err)
	}
}

func FuzzParseARP(f *testing.F) {
	f.Add(request(clientMAC, client, vip).bytes())
	f.Add(testSpeech.announcement(vip).bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := parseARP(data)
		if err != nil {
			return
		}
		again, err := parseARP(frame.bytes())
		if err != nil || again != frame {
			t.Fatalf("%+v was written and read as %+v, %v", frame, again, err)
		}
		if reply, why := testSpeech.answer(frame); why == answered {
			if _, err := parseARP(reply.bytes()); err != nil {
				t.Fatalf("the answer %+v cannot be read: %v", reply, err)
			}
		}
	})
}
