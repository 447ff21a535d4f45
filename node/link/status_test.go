package link

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStatusNamesTheFirstThingThatIsWrong(t *testing.T) {
	config := Config{Interface: "eth0", Address: client}
	good := sight{device: device{found: true, up: true, carrier: true, running: true}, hasAddress: true}
	for _, c := range []struct {
		change func(*sight)
		want   string
		works  bool
	}{
		{func(*sight) {}, "", true},
		{func(s *sight) { *s = sight{} }, "interface eth0 does not exist", false},
		{func(s *sight) { s.up, s.carrier, s.running = false, false, false }, "interface eth0 is down", false},
		{func(s *sight) { s.carrier, s.running = false, false }, "interface eth0 has no carrier", false},
		{func(s *sight) { s.running, s.hasAddress = false, false }, "interface eth0 is not operational (802.1X or a lower interface)", false},
		{func(s *sight) { s.hasAddress = false }, "address 192.0.2.1 is gone from this host: give it back, or set node.address to another one and restart the agent", true},
	} {
		s := good
		c.change(&s)
		if got, want := s.status(config, false), (Status{OK: c.want == "", Reason: c.want}); got != want {
			t.Errorf("%s: status %s, want %s", fmt.Sprintf("%+v", s), fmt.Sprint(got), fmt.Sprint(want))
		}
		if s.working() != c.works {
			t.Errorf("%+v: working %v", s, s.working())
		}
	}
}

// An address that was not asked for by name may be another one tomorrow.
func TestStatusOfAnAddressThatHasChanged(t *testing.T) {
	config := Config{Interface: "eth0", Address: client}
	s := sight{device: device{found: true, up: true, carrier: true, running: true}, source: netip.IPv4Unspecified()}
	want := Status{Reason: "address 192.0.2.1 is gone from this host, and eth0 has no other: give it one"}
	if got := s.status(config, true); got != want {
		t.Errorf("%+v", got)
	}
	s.source = netip.MustParseAddr("192.0.2.61")
	want = Status{Reason: "address 192.0.2.1 is gone from this host: this node goes on with 192.0.2.61", Moved: true}
	if got := s.status(config, true); got != want {
		t.Errorf("%+v", got)
	}
}

func TestStatusesAreCoalescedAndNeverBlockTheWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watch{statuses: make(chan Status, 2)}
	got, release := make(chan Status), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- deliver(ctx, w.statuses, func(s Status) {
			got <- s
			<-release
		})
	}()
	expect := func(want Status) {
		t.Helper()
		if s := <-got; s != want {
			t.Errorf("notified of %+v, want %+v", s, want)
		}
	}
	w.tell(Status{OK: true})
	expect(Status{OK: true})
	for i := range 1000 { // notify is busy all the while
		if !w.tell(Status{Reason: fmt.Sprint(i)}) || !w.tell(Status{OK: true}) {
			t.Fatal("a change was taken for none")
		}
	}
	if w.tell(Status{OK: true}) {
		t.Error("no change was taken for one")
	}
	release <- struct{}{}
	expect(Status{Reason: "999"}) // the outage is not left out though it is over
	release <- struct{}{}
	expect(Status{OK: true})
	release <- struct{}{}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestCoalesce(t *testing.T) {
	ok, down, gone := Status{OK: true}, Status{Reason: "down"}, Status{Reason: "gone"}
	for _, c := range []struct {
		pending []Status
		new     Status
		want    []Status
	}{
		{nil, ok, []Status{ok}},
		{nil, down, []Status{down}},
		{[]Status{down}, ok, []Status{down, ok}},
		{[]Status{down, ok}, gone, []Status{gone}},
		{[]Status{down}, gone, []Status{gone}},
		{[]Status{ok}, down, []Status{down}},
	} {
		if diff := cmp.Diff(c.want, coalesce(c.pending, c.new)); diff != "" {
			t.Errorf("%v then %v (-want +got):\n%s", c.pending, c.new, diff)
		}
	}
}
