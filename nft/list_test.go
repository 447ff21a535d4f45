package nft

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/node"
)

func apply(t testing.TB, f *Filter, tr Transaction) {
	t.Helper()
	if _, err := f.Apply(tr); err != nil {
		t.Fatal(err)
	}
}

// Under `linger: all` datagrams of old flows stay with the old owner, those of new
// flows go to the new one, and no moment has two owners.
func TestListedDatagramsStayWithTheOldOwner(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerAll
	w := newTalkingWire(t, 2)
	old, heir := installed(t, w.nodes[0], s), installed(t, w.nodes[1], s)
	commit(t, old, allBuckets(s, node.Own)...)
	from := clientAddr(0)
	talkative := w.sendsDatagrams(from, 2*time.Millisecond)
	quiet := must(w.talk("udp4", from))
	if got := asked(t, quiet); got != "0" {
		t.Fatalf("answers %q", got)
	}
	talkative.answeredBy(t)

	stay := func(fresh string, pings int) {
		t.Helper()
		if got := talkative.answeredBy(t); got != "0" {
			t.Errorf("a talkative flow is answered by %q", got)
		}
		if got := asked(t, quiet); got != "0" {
			t.Errorf("a quiet flow is answered by %q", got)
		}
		within := soon
		if fresh == "" {
			within = never
		}
		if got := w.answers(from, 100, within); got != fresh {
			t.Errorf("a new flow is answered by %q, want %q", got, fresh)
		}
		if got := w.answers(from, 4000, within); got != fresh {
			t.Errorf("a new flow in fragments is answered by %q, want %q", got, fresh)
		}
		within = soon
		if pings == 0 {
			within = never
		}
		if got := w.pings(from, within); got != pings {
			t.Errorf("%d pings answered, want %d", got, pings)
		}
	}
	commit(t, old, allBuckets(s, node.Yield)...)
	stay("", 0)
	commit(t, heir, allBuckets(s, node.Wary)...)
	stay("", 1)
	if got := w.connects(from, soon); got != "1" {
		t.Errorf("a new connection is answered by %q", got)
	}
	known := flows(t, w.nodes[0], vip)
	apply(t, old, Transaction{Changes: allBuckets(s, node.Linger), List: known})
	stay("", 1)
	apply(t, heir, Transaction{Changes: allBuckets(s, node.Adopt), List: known})
	stay("1", 1)
	forget(t, w.nodes[0]) // whatever conntrack forgets: its list is what the new owner has
	stay("1", 1)

	// A flow that is taken from both lists moves.
	apply(t, old, Transaction{Unlist: known})
	apply(t, heir, Transaction{Unlist: known})
	if got := asked(t, quiet); got != "1" {
		t.Errorf("a flow that is no longer listed is answered by %q", got)
	}
	if n := talkative.twice(); n != 0 {
		t.Errorf("%d of %d datagrams were answered twice", n, talkative.sent)
	}
}

// Without a list datagrams move at once, however well the old owner's conntrack
// knows them, and even if its server goes on to send.
func TestWithoutAListNothingIsAnsweredTwice(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerAll
	w := newTalkingWire(t, 2)
	old, heir := installed(t, w.nodes[0], s), installed(t, w.nodes[1], s)
	commit(t, old, allBuckets(s, node.Own)...)
	from := clientAddr(0)
	talkative := w.sendsDatagrams(from, 2*time.Millisecond)
	quiet := must(w.talk("udp4", from))
	if got := asked(t, quiet); got != "0" {
		t.Fatalf("answers %q", got)
	}
	talkative.answeredBy(t)

	commit(t, old, allBuckets(s, node.Linger)...)
	commit(t, heir, allBuckets(s, node.Adopt)...)
	for _, known := range []bool{true, false} {
		if !known {
			forget(t, w.nodes[0])
		}
		header := slices.Concat(netUint16(talkPort), netUint16(uint16(quiet.LocalAddr().(*net.UDPAddr).Port)), netUint16(8), netUint16(0))
		rawFromVIP(t, w.nodes[0], unix.IPPROTO_UDP, from, header)
		if got := asked(t, quiet); got != "1" {
			t.Errorf("known %t: a quiet flow is answered by %q", known, got)
		}
	}
	if n := talkative.twice(); n != 0 {
		t.Errorf("%d of %d datagrams were answered twice", n, talkative.sent)
	}
}

// Conntrack knows a flow that nobody answers, and calls each of its packets new.
func TestUnansweredFlowsStayWithTheOldOwner(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerAll
	w := newWire(t, 2)
	old, heir := installed(t, w.nodes[0], s), installed(t, w.nodes[1], s)
	silence(t, w)
	udp := []gopacket.SerializableLayer{&layers.UDP{SrcPort: 4000, DstPort: 9}, gopacket.Payload("sixteen or more bytes")}
	other := []gopacket.SerializableLayer{&layers.UDP{SrcPort: 4001, DstPort: 9}, gopacket.Payload("sixteen or more bytes")}
	gre := []gopacket.SerializableLayer{gopacket.Payload("neither ports nor anything else")}
	for _, f := range []*Filter{old, heir} {
		commit(t, f, allBuckets(s, node.Own)...)
	}
	for _, test := range []struct {
		protocol     layers.IPProtocol
		content      []gopacket.SerializableLayer
		before       bool // the flow is older than the move
		ofOld, ofNew fate
	}{
		{layers.IPProtocolUDP, udp, true, accepted, refused},
		{layers.IPProtocolUDP, other, false, refused, accepted},
		{layers.IPProtocolGRE, gre, true, accepted, refused},
	} {
		commit(t, old, allBuckets(s, node.Own)...)
		commit(t, heir, allBuckets(s, node.None)...)
		if test.before {
			w.meets(old, node.Own, packetTo{protocol: test.protocol}, test.content...)
		}
		commit(t, old, allBuckets(s, node.Yield)...)
		if got := w.meets(old, node.Yield, packetTo{protocol: test.protocol}, test.content...); got != test.ofOld {
			t.Errorf("%s: while the list is made the old owner has it %s, want %s", test.protocol, got, test.ofOld)
		}
		known := flows(t, w.nodes[0], vip)
		apply(t, old, Transaction{Changes: allBuckets(s, node.Linger), List: known})
		apply(t, heir, Transaction{Changes: allBuckets(s, node.Adopt), List: known})
		for _, pieces := range []bool{false, true} {
			p := packetTo{protocol: test.protocol, pieces: pieces}
			before := counters(t, heir)
			if got := w.meets(old, node.Linger, p, test.content...); got != test.ofOld {
				t.Errorf("%s, pieces %t: the old owner has it %s, want %s", test.protocol, pieces, got, test.ofOld)
			}
			eventually(t, "the new owner has seen it", func() bool { return fateOf(before, counters(t, heir), node.Adopt) != "" })
			if got := fateOf(before, counters(t, heir), node.Adopt); got != test.ofNew {
				t.Errorf("%s, pieces %t: the new owner has it %s, want %s", test.protocol, pieces, got, test.ofNew)
			}
		}
		forget(t, w.nodes[0])
		forget(t, w.nodes[1])
	}
}

// silence keeps the nodes from answering what they do not serve, which conntrack
// would take for an answer.
func silence(t testing.TB, w *wire) {
	t.Helper()
	for _, ns := range w.nodes {
		run(t, ns, "nft add table inet silence")
		run(t, ns, "nft add chain inet silence c { type filter hook output priority -400; }")
		run(t, ns, "nft add rule inet silence c icmp type destination-unreachable drop")
	}
}

// kernelLists reads back the lists, as they are in both tables.
func kernelLists(t testing.TB, f *Filter) map[string]int {
	t.Helper()
	found := map[string]int{}
	for _, table := range f.rules.tables[:2] {
		for _, s := range table.lists() {
			elements, err := f.conn.GetSetElements(s.native(table.native()))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range elements {
				found[fmt.Sprintf("%s %x", s.name, e.Key)]++
			}
		}
	}
	return found
}

func flowOf(client netip.Addr, protocol uint8) Flow {
	return Flow{Client: netip.AddrPortFrom(client, 1000), VIP: netip.AddrPortFrom(vip, 443), Protocol: protocol}
}

// A list lasts as long as its bucket's state, and survives whatever the rules do.
func TestListsFollowTheirBuckets(t *testing.T) {
	ns := host(t)
	s := testSpec()
	s.Services[0].Linger = LingerAll
	f := installed(t, ns, s)
	a, b, c := clientIn(s, 1), clientIn(s, 2), clientIn(s, 3)
	listed := func(want ...netip.Addr) {
		t.Helper()
		wanted := map[string]int{}
		for _, client := range want {
			for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_GRE} {
				set, key, _ := listedAs(flowOf(client, protocol))
				wanted[fmt.Sprintf("%s %x", set, key)] = 2 // in both tables
			}
		}
		if diff := cmp.Diff(wanted, kernelLists(t, f)); diff != "" {
			t.Errorf("in the kernel (-want +got):\n%s", diff)
		}
	}
	var all []Flow
	for _, client := range []netip.Addr{a, b, c} {
		for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_GRE, unix.IPPROTO_TCP, unix.IPPROTO_SCTP, unix.IPPROTO_ICMP} {
			all = append(all, flowOf(client, protocol))
		}
	}
	apply(t, f, Transaction{
		Changes: []Change{{Bucket: 1, State: node.Adopt}, {Bucket: 2, State: node.Linger}, {Bucket: 3, State: node.Own}},
		List:    all,
	})
	listed(a, b)
	apply(t, f, Transaction{List: all}) // again
	listed(a, b)
	if err := f.Reinstall(); err != nil {
		t.Fatal(err)
	}
	listed(a, b)
	f.uncertain = true
	commit(t, f)
	listed(a, b)
	apply(t, f, Transaction{Unlist: all[:5]})
	listed(b)
	apply(t, f, Transaction{Changes: []Change{{Bucket: 1, State: node.Linger}, {Bucket: 2, State: node.Adopt}}, List: all[:5]})
	listed(a)
	f.uncertain = true
	apply(t, f, Transaction{Changes: []Change{{Bucket: 3, State: node.Adopt}}, List: all[10:], Unlist: all[:5]})
	listed(c)
	apply(t, f, Transaction{Unlist: all[10:], List: all[10:]})
	listed(c)
	apply(t, f, Transaction{Changes: []Change{{Bucket: 3, State: node.Yield}}, List: all[10:]})
	listed(c)
	commit(t, f, Change{Bucket: 3, State: node.Own})
	listed()
	if len(f.listed) != 0 {
		t.Errorf("the filter remembers %v", f.listed)
	}
}

func TestMoreFlowsThanThereIsRoomForAreNotListed(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerAll
	f := installed(t, host(t), s)
	many := make([]Flow, listLimit+1)
	for i := range many {
		many[i] = flowOf(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), unix.IPPROTO_UDP)
	}
	_, err := f.Apply(Transaction{Changes: allBuckets(s, node.Adopt), List: many})
	if err == nil || !strings.Contains(err.Error(), "131073 flows would be listed, and there is room for 131072") {
		t.Errorf("error %v", err)
	}
	if f.State(0, 0) != node.None || len(kernelLists(t, f)) != 0 {
		t.Error("the refused transaction changed something")
	}
}
