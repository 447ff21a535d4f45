package nft

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/node"
)

// fate is what becomes of a packet in the rules.
type fate string

const (
	accepted fate = "accepted"
	refused  fate = "refused"
	dropped  fate = "dropped"
)

// fateOf returns what the counters say of the one packet that came between them.
func fateOf(before, after Counters, state node.State) fate {
	b, a := before.Services[0], after.Services[0]
	var fates []string
	for _, f := range []struct {
		fate fate
		n    uint64
	}{
		{accepted, a.Accepted[state].Packets - b.Accepted[state].Packets},
		{refused, a.Refused[state].Packets - b.Refused[state].Packets},
		{dropped, a.Dropped.Packets - b.Dropped.Packets},
		{"unleased", after.Unleased.Packets - before.Unleased.Packets},
	} {
		if f.n > 0 {
			fates = append(fates, strings.TrimSuffix(fmt.Sprintf("%s %d", f.fate, f.n), " 1"))
		}
	}
	return fate(strings.Join(fates, ", "))
}

// meets sends the packet and returns what becomes of it.
func (w *wire) meets(f *Filter, state node.State, p packetTo, content ...gopacket.SerializableLayer) fate {
	w.t.Helper()
	before := counters(w.t, f)
	w.send(p, content...)
	var met fate
	for deadline := time.Now().Add(soon); met == "" && time.Now().Before(deadline); {
		met = fateOf(before, counters(w.t, f), state)
	}
	return met
}

const sctpData = 0

// sctp is a packet with one chunk.
func sctp(tag uint32, chunk byte, body ...byte) []gopacket.SerializableLayer {
	header := append([]byte{chunk, 3, 0, byte(4 + len(body))}, body...)
	return []gopacket.SerializableLayer{&layers.SCTP{SrcPort: 5000, DstPort: 5001, VerificationTag: tag}, gopacket.Payload(header)}
}

// sctpInitBody is an INIT's or INIT ACK's: tag, window, streams, sequence number.
func sctpInitBody(tag byte) []byte { return []byte{0, 0, 0, tag, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1} }

func tcp(t layers.TCP) []gopacket.SerializableLayer {
	t.SrcPort, t.DstPort, t.Seq, t.Window = 4000, 81, 1000, 1000
	if t.ACK {
		t.Ack = 2000
	}
	return []gopacket.SerializableLayer{&t, gopacket.Payload("a few bytes more")}
}

// The rows of the table of the four states, but for flows that conntrack knows.
func TestRowByRowExactlyOneOfAdoptAndLingerAcceptsWhatIsNew(t *testing.T) {
	udp := []gopacket.SerializableLayer{&layers.UDP{SrcPort: 4000, DstPort: 5000}, gopacket.Payload("sixteen or more bytes")}
	type row struct {
		name               string
		protocol           layers.IPProtocol
		content            []gopacket.SerializableLayer
		own, adopt, linger fate
	}
	rows := []row{
		{"SYN", layers.IPProtocolTCP, tcp(layers.TCP{SYN: true}), accepted, accepted, refused},
		{"SYN of a client with ECN", layers.IPProtocolTCP, tcp(layers.TCP{SYN: true, ECE: true, CWR: true}), accepted, accepted, refused},
		{"SYN with data and PSH", layers.IPProtocolTCP, tcp(layers.TCP{SYN: true, PSH: true}), accepted, accepted, refused},
		{"unknown ACK", layers.IPProtocolTCP, tcp(layers.TCP{ACK: true}), accepted, refused, refused},
		{"unknown data", layers.IPProtocolTCP, tcp(layers.TCP{ACK: true, PSH: true}), accepted, refused, refused},
		{"unknown SYN ACK", layers.IPProtocolTCP, tcp(layers.TCP{SYN: true, ACK: true}), accepted, refused, refused},
		{"unknown FIN", layers.IPProtocolTCP, tcp(layers.TCP{FIN: true, ACK: true}), accepted, refused, refused},
		{"unknown RST", layers.IPProtocolTCP, tcp(layers.TCP{RST: true}), accepted, refused, refused},
		{"SYN FIN", layers.IPProtocolTCP, tcp(layers.TCP{SYN: true, FIN: true}), accepted, refused, refused},
		{"no flags", layers.IPProtocolTCP, tcp(layers.TCP{}), accepted, refused, refused},
		{"INIT", layers.IPProtocolSCTP, sctp(0, sctpInit, sctpInitBody(1)...), accepted, accepted, refused},
		{"unknown SCTP DATA", layers.IPProtocolSCTP, sctp(7, sctpData, make([]byte, 16)...), accepted, refused, refused},
		{"unknown COOKIE ECHO", layers.IPProtocolSCTP, sctp(7, 10, make([]byte, 16)...), accepted, refused, refused},
		{"UDP", layers.IPProtocolUDP, udp, accepted, accepted, refused},
		{"echo", layers.IPProtocolICMPv4, []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.ICMPv4TypeEchoRequest << 8, Id: 1}, gopacket.Payload("more bytes than a header has")}, accepted, accepted, refused},
		{"GRE", layers.IPProtocolGRE, []gopacket.SerializableLayer{gopacket.Payload("neither ports nor anything else")}, accepted, accepted, refused},
	}
	for _, test := range []struct {
		linger Linger
		loose  string
	}{{LingerTCP, "1"}, {LingerTCP, "0"}, {LingerAll, "1"}} {
		t.Run(fmt.Sprintf("%s, loose %s", test.linger, test.loose), func(t *testing.T) {
			s := testSpec()
			s.Services[0].Linger = test.linger
			w := newWire(t, 1)
			ns := w.nodes[0]
			f := installed(t, ns, s)
			sysctl(t, ns, "netfilter/nf_conntrack_tcp_loose", test.loose)
			for _, r := range rows {
				fates := map[node.State]fate{node.Own: r.own, node.Adopt: r.adopt, node.Linger: r.linger, node.None: dropped}
				if test.linger == LingerAll {
					fates[node.Yield], fates[node.Wary] = r.linger, r.adopt
					if r.protocol == layers.IPProtocolUDP || r.protocol == layers.IPProtocolGRE {
						fates[node.Wary] = refused
					}
				}
				for state, want := range fates {
					commit(t, f, Change{Bucket: s.Layout.Bucket(clientAddr(0)), State: state})
					for _, pieces := range []bool{false, true} {
						if got := w.meets(f, state, packetTo{protocol: r.protocol, pieces: pieces}, r.content...); got != want {
							t.Errorf("%s, in pieces %t, %s: %s, want %s", r.name, pieces, state, got, want)
						}
						left := flows(t, ns, vip)
						if want != accepted && len(left) != 0 {
							t.Errorf("%s, in pieces %t, %s: a packet that was not accepted is remembered: %v", r.name, pieces, state, left)
						}
						if len(left) != 0 {
							forget(t, ns)
						}
					}
				}
			}
		})
	}
}

// forget empties the namespace's conntrack table.
func forget(t testing.TB, ns *lab.Namespace) {
	t.Helper()
	if err := ns.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
		t.Fatal(err)
	}
}

// Nothing but a service's Linger makes the states differ from own and none.
func TestWithoutLingerAdoptIsOwnAndLingerIsNone(t *testing.T) {
	s := testSpec()
	w := newWire(t, 1)
	f := installed(t, w.nodes[0], s)
	for state, want := range map[node.State]fate{node.Own: accepted, node.Adopt: accepted, node.Linger: dropped, node.None: dropped} {
		commit(t, f, Change{Bucket: s.Layout.Bucket(clientAddr(0)), State: state})
		if got := w.meets(f, state, packetTo{protocol: layers.IPProtocolTCP}, tcp(layers.TCP{ACK: true})...); got != want {
			t.Errorf("unknown ACK, %s: %s, want %s", state, got, want)
		}
	}
}

// The kernel needs no SCTP of its own to know associations: the server's part is
// sent by hand.
func TestAKnownAssociationIsAcceptedInEveryState(t *testing.T) {
	for _, linger := range []Linger{LingerTCP, LingerAll} {
		s := testSpec()
		s.Services[0].Linger = linger
		w := newWire(t, 1)
		ns := w.nodes[0]
		f := installed(t, ns, s)
		bucket := Change{Bucket: s.Layout.Bucket(clientAddr(0)), State: node.Own}
		commit(t, f, bucket)
		init := packetTo{protocol: layers.IPProtocolSCTP}
		if got := w.meets(f, node.Own, init, sctp(0, sctpInit, sctpInitBody(1)...)...); got != accepted {
			t.Fatalf("INIT: %s", got)
		}
		rawFromVIP(t, ns, unix.IPPROTO_SCTP, clientAddr(0), serialize(&layers.SCTP{SrcPort: 5001, DstPort: 5000, VerificationTag: 1}, gopacket.Payload(append([]byte{2, 0, 0, 20}, sctpInitBody(2)...))))
		eventually(t, "the answer is tracked", func() bool {
			return !strings.Contains(run(t, ns, "conntrack -L"), "UNREPLIED")
		})
		for _, bucket.State = range []node.State{node.Adopt, node.Linger, node.Adopt, node.Own} {
			commit(t, f, bucket)
			for _, pieces := range []bool{false, true} {
				p := packetTo{protocol: layers.IPProtocolSCTP, pieces: pieces}
				if got := w.meets(f, bucket.State, p, sctp(2, 10, make([]byte, 16)...)...); got != accepted {
					t.Errorf("%s: COOKIE ECHO of a known association, in pieces %t, %s: %s", linger, pieces, bucket.State, got)
				}
			}
		}
	}
}

// Nobody behind the rules sees how a packet got there.
func TestTheTagIsTakenOff(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerTCP
	w := newTalkingWire(t, 1)
	ns := w.nodes[0]
	f := installed(t, ns, s)
	commit(t, f, allBuckets(s, node.Own)...)
	c := must(w.talk("tcp4", clientAddr(0)))
	commit(t, f, allBuckets(s, node.Linger)...)
	run(t, ns, "nft add table inet see")
	run(t, ns, "nft add chain inet see before { type filter hook prerouting priority -160; }")
	run(t, ns, "nft add chain inet see after { type filter hook prerouting priority -140; }")
	for _, chain := range []string{"before", "after"} {
		run(t, ns, fmt.Sprintf("nft add rule inet see %s tcp dport %d meta priority != none counter", chain, talkPort))
	}
	if got := asked(t, c); got != "0" {
		t.Errorf("answers %q", got)
	}
	if got := run(t, ns, "nft list chain inet see before"); strings.Contains(got, "packets 0") {
		t.Errorf("no packet was tagged:\n%s", got)
	}
	if got := run(t, ns, "nft list chain inet see after"); !strings.Contains(got, "packets 0") {
		t.Errorf("the tag stays:\n%s", got)
	}
}

// rawFromVIP sends an IP packet with the content from the VIP, by the host's stack.
func rawFromVIP(t testing.TB, ns *lab.Namespace, protocol int, to netip.Addr, content []byte) {
	t.Helper()
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, protocol)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: vip.As4()}); err != nil {
			return err
		}
		return unix.Sendto(fd, content, 0, &unix.SockaddrInet4{Addr: to.As4()})
	})
	if err != nil {
		t.Fatal(err)
	}
}
