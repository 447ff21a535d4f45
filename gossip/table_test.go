package gossip

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// tableTest is a table whose clock the test moves.
type tableTest struct {
	*table
	*recorder
	clock time.Time
}

func newTableTest(known ...Peer) *tableTest {
	tt := &tableTest{recorder: &recorder{}, clock: time.Unix(1000, 0)}
	tt.table = newTable("self", known, tt.recorder.Event)
	tt.now = func() time.Time { return tt.clock }
	return tt
}

func at(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 7946)
}

func TestAGoodbyeMakesALeave(t *testing.T) {
	a := Member{Name: "a", Addr: at(1), Meta: []byte("this life")}
	for _, test := range []struct {
		name string
		do   func(*tableTest)
		want []Event
	}{
		{"of this life", func(tt *tableTest) { tt.goodbye("a", a.Meta); tt.gone("a") }, []Event{Alive{a}, Dead{"a", true}}},
		{"of another life", func(tt *tableTest) { tt.goodbye("a", []byte("another life")); tt.gone("a") }, []Event{Alive{a}, Dead{"a", false}}},
		{"of another life, after the end", func(tt *tableTest) { tt.gone("a"); tt.goodbye("a", []byte("another life")) }, []Event{Alive{a}, Dead{"a", false}}},
		{"before the end", func(tt *tableTest) { tt.goodbye("a"); tt.gone("a") }, []Event{Alive{a}, Dead{"a", true}}},
		{"after the end", func(tt *tableTest) { tt.gone("a"); tt.goodbye("a") }, []Event{Alive{a}, Dead{"a", false}, Dead{"a", true}}},
		{"twice", func(tt *tableTest) { tt.goodbye("a"); tt.gone("a"); tt.goodbye("a") }, []Event{Alive{a}, Dead{"a", true}}},
		{"none", func(tt *tableTest) { tt.gone("a"); tt.gone("a") }, []Event{Alive{a}, Dead{"a", false}}},
		{"of an earlier life", func(tt *tableTest) { tt.goodbye("a"); tt.joined(a); tt.gone("a") }, []Event{Alive{a}, Alive{a}, Dead{"a", false}}},
		{"long ago", func(tt *tableTest) {
			tt.goodbye("a")
			tt.clock = tt.clock.Add(goodbyeCounts)
			tt.gone("a")
		}, []Event{Alive{a}, Dead{"a", false}}},
		{"of a stranger", func(tt *tableTest) { tt.goodbye("b"); tt.gone("b") }, []Event{Alive{a}}},
		{"after the close", func(tt *tableTest) {
			tt.table.close()
			tt.gone("a")
			tt.goodbye("a")
			tt.joined(Member{Name: "b", Addr: at(2)})
			tt.event(Message{})
		}, []Event{Alive{a}}},
	} {
		tt := newTableTest()
		tt.joined(a)
		test.do(tt)
		if diff := cmp.Diff(test.want, tt.all(), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestTheTableKnowsWhomToTryAgain(t *testing.T) {
	tt := newTableTest(Peer{"self", at(9)}, Peer{"old", at(1)}, Peer{"broken", netip.AddrPort{}}, Peer{"renamed", at(2)})
	tt.joined(Member{Name: "self", Addr: at(9)})
	tt.joined(Member{Name: "new", Addr: at(2)}) // which was renamed's address
	if diff := cmp.Diff([]Event{Dead{"renamed", true}, Alive{Member{Name: "new", Addr: at(2)}}}, tt.all(), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("told of the renamed node (-want +got):\n%s", diff)
	}
	tt.joined(Member{Name: "left", Addr: at(3)})
	tt.joined(Member{Name: "died", Addr: at(4)})
	tt.goodbye("left")
	tt.gone("left")
	tt.gone("died")
	equal := cmpopts.EquateComparable(netip.AddrPort{})
	if diff := cmp.Diff([]Peer{{"died", at(4)}, {"old", at(1)}}, tt.lost(), equal); diff != "" {
		t.Errorf("lost (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Peer{{"died", at(4)}, {"new", at(2)}, {"old", at(1)}}, tt.known(), equal); diff != "" {
		t.Errorf("known (-want +got):\n%s", diff)
	}
	if tt.alone() || len(tt.lonely) != 0 {
		t.Error("alone with a member")
	}
	tt.gone("new")
	if !tt.alone() || len(tt.lonely) != 1 {
		t.Error("not alone without members")
	}
	tt.joined(Member{Name: "died", Addr: at(5)})
	if diff := cmp.Diff([]Peer{{"new", at(2)}, {"old", at(1)}}, tt.lost(), equal); diff != "" {
		t.Errorf("lost after the dead one came back (-want +got):\n%s", diff)
	}
}

func TestTheLongestLostAreForgotten(t *testing.T) {
	tt := newTableTest(Peer{"oldest", at(1)})
	for i := range maxKnown {
		name := fmt.Sprint(i)
		tt.joined(Member{Name: name, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)})
		tt.clock = tt.clock.Add(time.Second)
		tt.gone(name)
	}
	lost := tt.lost()
	if len(lost) != maxKnown {
		t.Errorf("%d are remembered, want %d", len(lost), maxKnown)
	}
	for _, p := range lost {
		if p.Name == "oldest" {
			t.Error("the longest lost is remembered, so another is not")
		}
	}
	tt.joined(Member{Name: "one more", Addr: at(2)})
	tt.gone("one more")
	if all := tt.all(); !slices.Contains(all, Event(Dead{"0", true})) || slices.Contains(all, Event(Dead{"1", true})) {
		t.Error("who is forgotten here is not forgotten by everybody")
	}
}
