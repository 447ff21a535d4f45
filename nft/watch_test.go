package nft

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/hashring"
)

// track has conntrack know flows, as if their packets had come: of TCP in the state.
func track(t testing.TB, ns *lab.Namespace, state uint8, flows ...Flow) {
	t.Helper()
	err := ns.Do(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer handle.Close()
		for _, f := range flows {
			behind := netip.MustParseAddr("10.88.0.2").AsSlice()
			client, server := f.Client.Addr().AsSlice(), f.VIP.Addr().AsSlice()
			entry := netlink.ConntrackFlow{
				FamilyType: unix.AF_INET, TimeOut: 10000,
				Forward: netlink.IPTuple{Protocol: f.Protocol, SrcIP: client, SrcPort: f.Client.Port(), DstIP: server, DstPort: f.VIP.Port()},
				// Behind destination NAT, so that no socket here is missed.
				Reverse: netlink.IPTuple{Protocol: f.Protocol, SrcIP: behind, SrcPort: f.VIP.Port(), DstIP: client, DstPort: f.Client.Port()},
			}
			if f.Protocol == unix.IPPROTO_TCP {
				entry.ProtoInfo = &netlink.ProtoInfoTCP{State: state}
			}
			if err := handle.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &entry); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tracking is a namespace whose kernel tracks flows.
func trackingHost(t testing.TB) *lab.Namespace {
	t.Helper()
	ns := namespace(t, "w")
	run(t, ns, "nft add table inet t")
	run(t, ns, "nft add chain inet t c")
	run(t, ns, "nft add rule inet t c ct state new")
	return ns
}

func watched(t testing.TB, ns *lab.Namespace, w *Watch, slots hashring.Set, listed ...int) []int {
	t.Helper()
	var live []int
	err := ns.Do(func() error {
		lists := hashring.NewSet(slots.Cap())
		for _, slot := range listed {
			lists.Add(slot)
		}
		set, err := w.Live(slots, lists)
		for slot := range set.All() {
			live = append(live, slot)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return live
}

func slots(s Spec, of ...int) hashring.Set {
	set := hashring.NewSet(s.Layout.Buckets)
	for _, slot := range of {
		set.Add(slot)
	}
	return set
}

func forgetFlow(t testing.TB, ns *lab.Namespace, f Flow) {
	t.Helper()
	err := ns.Do(func() error {
		socket, err := openNetlink(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer socket.close()
		_, err = socket.forget(f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatchListsFlowsOnlyWhenItKnowsNone(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerTCP
	ns := trackingHost(t)
	var of [4]Flow
	for b := range of {
		of[b] = flowOf(clientIn(s, b), unix.IPPROTO_TCP)
		track(t, ns, nl.TCP_CONNTRACK_ESTABLISHED, of[b])
	}
	second := of[1]
	second.Client = netip.AddrPortFrom(second.Client.Addr(), 2000)
	track(t, ns, nl.TCP_CONNTRACK_FIN_WAIT, second) // half closed
	w := NewWatch(s)
	for _, step := range []struct {
		what  string
		do    func()
		ask   []int
		live  []int
		lists int
	}{
		{"at first", func() {}, []int{1, 2, 5}, []int{1, 2}, 1},
		{"again", func() {}, []int{1, 2}, []int{1, 2}, 1},
		{"fewer", func() {}, []int{1}, []int{1}, 1},
		{"one that it had forgotten", func() {}, []int{1, 2}, []int{1, 2}, 2},
		{"one of two flows ends", func() { forgetFlow(t, ns, of[1]) }, []int{1, 2}, []int{1, 2}, 2},
		{"the other one too", func() { forgetFlow(t, ns, second) }, []int{1, 2}, []int{2}, 3},
		{"nothing is asked", func() {}, nil, nil, 3},
		{"all are gone", func() { forget(t, ns) }, []int{0, 1, 2, 3}, nil, 4},
	} {
		step.do()
		got := watched(t, ns, w, slots(s, step.ask...))
		if len(got) != len(step.live) || len(got) > 0 && !slots(s, got...).Equal(slots(s, step.live...)) || w.lists != step.lists {
			t.Errorf("%s: of %v %v live after %d lists; want %v after %d", step.what, step.ask, got, w.lists, step.live, step.lists)
		}
	}
}

func TestWatchKnowsWhatLingers(t *testing.T) {
	type kind struct {
		name     string
		protocol uint8
		state    uint8
		tcp, all bool
	}
	kinds := []kind{
		{"SYN sent", unix.IPPROTO_TCP, nl.TCP_CONNTRACK_SYN_SENT, false, false},
		{"handshake", unix.IPPROTO_TCP, nl.TCP_CONNTRACK_SYN_RECV, true, true},
		{"open", unix.IPPROTO_TCP, nl.TCP_CONNTRACK_ESTABLISHED, true, true},
		{"half closed", unix.IPPROTO_TCP, nl.TCP_CONNTRACK_FIN_WAIT, true, true},
		{"half closed by the server", unix.IPPROTO_TCP, nl.TCP_CONNTRACK_CLOSE_WAIT, true, true},
		{"closed by both", unix.IPPROTO_TCP, nl.TCP_CONNTRACK_LAST_ACK, false, false},
		{"over", unix.IPPROTO_TCP, nl.TCP_CONNTRACK_TIME_WAIT, false, false},
		{"reset", unix.IPPROTO_TCP, nl.TCP_CONNTRACK_CLOSE, false, false},
		{"UDP", unix.IPPROTO_UDP, 0, false, true},
	}
	for _, linger := range []Linger{LingerNone, LingerTCP, LingerAll} {
		s := testSpec()
		s.Services[0].Linger = linger
		ns := trackingHost(t)
		var ask, want []int
		for b, k := range kinds {
			track(t, ns, k.state, flowOf(clientIn(s, b), k.protocol))
			ask = append(ask, b)
			if linger == LingerTCP && k.tcp || linger == LingerAll && k.all {
				want = append(want, b)
			}
		}
		w := NewWatch(s)
		got := watched(t, ns, w, slots(s, ask...), ask...)
		if !slots(s, got...).Equal(slots(s, want...)) {
			t.Errorf("%s: live are %v, want %v, of %v", linger, got, want, kinds)
		}
		// Without a list datagrams of a flow are dropped, so it does not live here,
		// whatever was known before.
		want = slices.DeleteFunc(want, func(b int) bool { return !kinds[b].tcp })
		if got = watched(t, ns, w, slots(s, ask...)); !slots(s, got...).Equal(slots(s, want...)) {
			t.Errorf("%s: without lists live are %v, want %v, of %v", linger, got, want, kinds)
		}
	}
}
