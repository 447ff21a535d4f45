package health

import (
	"testing"

	"pgregory.net/rapid"
)

func TestRiseAndFall(t *testing.T) {
	for _, test := range []struct {
		name       string
		rise, fall int
		results    string // + passed, - failed
		want       string // ? unknown, F fit, U unfit, after each result
	}{
		{"the first success decides alone", 3, 3, "+", "F"},
		{"the first failure decides alone", 3, 3, "-", "U"},
		{"fall failures in a row", 2, 3, "+---", "FFFU"},
		{"a success ends the row of failures", 2, 3, "+--+--+---", "FFFFFFFFFU"},
		{"rise successes in a row", 3, 2, "-+++", "UUUF"},
		{"a failure ends the row of successes", 3, 2, "-++-+++", "UUUUUUF"},
		{"the row starts anew after a change", 2, 2, "+--+-++--", "FFUUUUFFU"},
		{"one is at once", 1, 1, "+-+-", "FUFU"},
		{"flapping under both limits changes nothing", 2, 2, "+-+-+-+-", "FFFFFFFF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var state State
			var got []byte
			for _, result := range test.results {
				state = state.Next(result == '+', test.rise, test.fall)
				got = append(got, "?FU"[state.Verdict])
			}
			if string(got) != test.want {
				t.Errorf("rise %d, fall %d, results %s: verdicts %s, want %s", test.rise, test.fall, test.results, got, test.want)
			}
		})
	}
}

// The verdict depends on nothing but the last results: a row as long as the
// limit forces it, whatever came before.
func TestARowLongEnoughForcesTheVerdict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rise, fall := rapid.IntRange(1, 9).Draw(t, "rise"), rapid.IntRange(1, 9).Draw(t, "fall")
		var state State
		row, last := 0, false
		for i, ok := range rapid.SliceOfN(rapid.Bool(), 1, 60).Draw(t, "results") {
			before := state.Verdict
			state = state.Next(ok, rise, fall)
			if i > 0 && ok == last {
				row++
			} else {
				row, last = 1, ok
			}
			switch {
			case before == Unknown:
			case ok && row >= rise && state.Verdict != Fit:
				t.Fatalf("%d successes in a row with rise %d: %v", row, rise, state.Verdict)
			case !ok && row >= fall && state.Verdict != Unfit:
				t.Fatalf("%d failures in a row with fall %d: %v", row, fall, state.Verdict)
			case ok && row < rise && state.Verdict != before, !ok && row < fall && state.Verdict != before:
				t.Fatalf("verdict changed from %v after a row of %d (rise %d, fall %d)", before, row, rise, fall)
			}
		}
	})
}

func TestVerdictText(t *testing.T) {
	for _, v := range []Verdict{Unknown, Fit, Unfit} {
		text, err := v.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		back := Verdict(99)
		if err := back.UnmarshalText(text); err != nil || back != v {
			t.Errorf("%v became %q became %v (%v)", v, text, back, err)
		}
	}
	if err := new(Verdict).UnmarshalText([]byte("well")); err == nil {
		t.Error("no error for the verdict \"well\"")
	}
}
