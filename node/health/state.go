package health

import "fmt"

// Verdict is what is held of one check, or of a node.
type Verdict uint8

const (
	// Unknown: no result yet. The zero value.
	Unknown Verdict = iota
	// Fit: the check passes.
	Fit
	// Unfit: the check fails.
	Unfit
)

var verdictNames = [...]string{Unknown: "unknown", Fit: "fit", Unfit: "unfit"}

func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// MarshalText writes the verdict's name.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads a verdict's name; any other word is an error.
func (v *Verdict) UnmarshalText(text []byte) error {
	for i, name := range verdictNames {
		if name == string(text) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("unknown verdict %q", text)
}

// State is the memory of one check: the verdict, and for how many results in a
// row it has been contradicted. The zero value is ready for the first result.
type State struct {
	Verdict Verdict
	against int
}

// Next returns the state after one more result. The first result decides alone,
// so that a node need not wait for rise or fall when it starts; then it takes
// `fall` failures in a row to become unfit and `rise` successes in a row to
// become fit. A result that agrees with the verdict ends the row.
func (s State) Next(ok bool, rise, fall int) State {
	says, need := Unfit, fall
	if ok {
		says, need = Fit, rise
	}
	if s.Verdict == Unknown || s.Verdict == says || s.against+1 >= need {
		return State{Verdict: says}
	}
	s.against++
	return s
}
