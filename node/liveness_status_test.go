package node

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// liveWiring hears unicast always, and the wire except for those who are cut off.
func liveWiring(deafOrMute ...string) func(from, to *liveVoice) []Medium {
	return func(from, to *liveVoice) []Medium {
		for _, name := range deafOrMute {
			if from.self.Name == name || to.self.Name == name {
				return []Medium{Unicast}
			}
		}
		return []Medium{Wire, Unicast}
	}
}

func TestWireProof(t *testing.T) {
	for _, c := range []struct {
		cut  []string
		want map[string][2]bool // proof, others have it
	}{
		{nil, map[string][2]bool{"a": {true, true}, "b": {true, true}, "c": {true, true}}},
		{[]string{"a"}, map[string][2]bool{"a": {false, true}, "b": {true, true}, "c": {true, true}}},
		// All deaf, and nobody is cut off.
		{[]string{"a", "b"}, map[string][2]bool{"a": {}, "b": {}, "c": {}}},
	} {
		tb := metTable(t, "a", "b", "c")
		tb.hears = liveWiring(c.cut...)
		tb.rounds(15)
		got := map[string][2]bool{}
		for _, v := range tb.voices {
			ok, others := v.WireProof(tb.now)
			got[v.self.Name] = [2]bool{ok, others}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("without a wire: %v (-want +got):\n%s", c.cut, diff)
		}
		tb.expect(map[string][]string{})
	}
}

// Who hears but is not heard has no proof, nor the other way round.
func TestWireProofNeedsBothWays(t *testing.T) {
	tb := metTable(t, "a", "b", "c")
	tb.hears = func(from, _ *liveVoice) []Medium {
		if from.self.Name == "a" {
			return []Medium{Unicast}
		}
		return []Medium{Wire}
	}
	tb.rounds(15)
	if ok, others := tb.voice("a").WireProof(tb.now); ok || !others {
		t.Fatalf("mute: %v, %v", ok, others)
	}
	tb.hears = func(_, to *liveVoice) []Medium {
		if to.self.Name == "a" {
			return []Medium{Unicast}
		}
		return []Medium{Wire}
	}
	tb.rounds(15)
	if ok, others := tb.voice("a").WireProof(tb.now); ok || !others {
		t.Fatalf("deaf: %v, %v", ok, others)
	}
}

// The only one who hears the wire is the only one who can serve: frames to the cluster
// MAC reach it, and not the others (as on macvlans with a unicast one).
func TestWhoAloneHearsTheWireIsNotCutOff(t *testing.T) {
	tb := metTable(t, "a", "b", "c")
	tb.hears = func(_, to *liveVoice) []Medium {
		if to.self.Name == "a" {
			return []Medium{Wire, Unicast}
		}
		return []Medium{Unicast}
	}
	tb.rounds(15)
	for name, want := range map[string]bool{"a": false, "b": true, "c": true} {
		if ok, others := tb.voice(name).WireProof(tb.now); ok || others != want {
			t.Errorf("%s: proof %v, others do better %v; want %v", name, ok, others, want)
		}
	}
}

// Of two nodes of which one hears the other on the wire none is cut off: the path from one
// to the other may lose frames, and that of the clients none.
func TestOneWayOfTwoCutsNobodyOff(t *testing.T) {
	tb := metTable(t, "a", "b")
	tb.hears = func(_, to *liveVoice) []Medium {
		if to.self.Name == "a" {
			return []Medium{Wire, Unicast}
		}
		return []Medium{Unicast}
	}
	tb.rounds(15)
	for _, name := range []string{"a", "b"} {
		if ok, others := tb.voice(name).WireProof(tb.now); ok || others {
			t.Errorf("%s: proof %v, others do better %v", name, ok, others)
		}
	}
}

func TestUnicastWhereTheWireIsSilent(t *testing.T) {
	tb := metTable(t, "a", "b", "c")
	b := []Incarnation{{"b", 2}}
	if silent := tb.voice("a").SilentOnWire(tb.now); silent != nil {
		t.Fatalf("all is well, and %v are silent", silent)
	}
	// The wire brings nothing from b.
	tb.hears = func(from, to *liveVoice) []Medium {
		if from.self.Name == "b" && to.self.Name == "a" {
			return nil
		}
		return []Medium{Wire}
	}
	tb.rounds(3)
	if silent := tb.voice("a").SilentOnWire(tb.now); !cmp.Equal(silent, b) {
		t.Fatalf("silent: %v", silent)
	}
	// And b, which hears a, learns that a does not hear it.
	if silent := tb.voice("b").SilentOnWire(tb.now); !cmp.Equal(silent, []Incarnation{{"a", 1}}) {
		t.Fatalf("silent: %v", silent)
	}
	// One that has just died may only have slept, and hears of its death at once;
	// then it is left to the beacon of each second.
	tb.leave(tb.voice("b"))
	tb.rounds(25)
	if silent := tb.voice("a").SilentOnWire(tb.now); !cmp.Equal(silent, b) {
		t.Fatalf("silent: %v", silent)
	}
	tb.rounds(60)
	if silent := tb.voice("a").SilentOnWire(tb.now); silent != nil {
		t.Fatalf("silent: %v", silent)
	}
}

func TestStatus(t *testing.T) {
	tb := metTable(t, "a", "b", "c")
	tb.leave(tb.voice("c"))
	tb.rounds(20)
	a := tb.voice("a")
	got := a.Status(tb.now)
	want := []NeighbourStatus{
		{
			Incarnation: Incarnation{"b", 2}, Standing: Alive, Phase: Active,
			Heard: [...]Time{18 * mil, Never}, Seen: 18 * mil, Acked: 19 * mil, Proven: 19 * mil,
			HearsOnWire: true, WireProof: true,
		},
		{
			Incarnation: Incarnation{"c", 3}, Standing: Dead, Phase: Active,
			Heard: [...]Time{417 * mil, Never}, Seen: 417 * mil, Acked: 419 * mil, Proven: 419 * mil,
			WireProof: true,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if text, err := json.Marshal(got[0]); err != nil || len(text) == 0 {
		t.Fatalf("%s, %v", text, err)
	}
}

func TestLivenessIsDeterministic(t *testing.T) {
	run := func() []string { return liveChaos(3, true).trace }
	if diff := cmp.Diff(run(), run()); diff != "" {
		t.Fatalf("two runs of one seed differ:\n%s", diff)
	}
}

func TestNamesForPeople(t *testing.T) {
	text, err := json.Marshal([]Standing{Unheard, Alive, Dead, Refused})
	if want := `["unheard","alive","dead","refused"]`; err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
	seen := map[string]bool{"": true}
	for kind := HeardFresh; int(kind) < HearingKinds; kind++ {
		if seen[kind.String()] {
			t.Errorf("kind %d is %q", kind, kind)
		}
		seen[kind.String()] = true
	}
	for fault := BeaconOversize; int(fault) < BeaconFaults; fault++ {
		if seen[fault.String()] || fault.Error() != "beacon: "+fault.String() {
			t.Errorf("fault %d is %q", fault, fault.Error())
		}
		seen[fault.String()] = true
	}
	if Wire.String() != "wire" || Unicast.String() != "unicast" {
		t.Errorf("%v, %v", Wire, Unicast)
	}
}
