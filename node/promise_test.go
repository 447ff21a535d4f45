package node

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPromiseText: what travels of a promise is short, and one text for each.
func TestPromiseText(t *testing.T) {
	p := Promise{To: 0x0102030405060708, ID: 12, Slots: setOf(1024, 72)}
	text, err := json.Marshal(p)
	if want := `"AQIDBAUGBwg.12.gAgJAQ"`; err != nil || string(text) != want {
		t.Errorf("%s (%v), want %s", text, err, want)
	}
	var got Promise
	if err := json.Unmarshal(text, &got); err != nil || !cmp.Equal(got, p) {
		t.Errorf("read as %+v (%v)", got, err)
	}
	for _, bad := range []string{`""`, `"AQIDBAUGBwg.12"`, `"AQIDBAUGBw.12.gAgJAQ"`, `"AQIDBAUGBwg.-1.gAgJAQ"`, `"AQIDBAUGBwg.12.gAgJAA"`, `{}`, `7`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s is read as %+v", bad, got)
		}
		if !cmp.Equal(got, p) {
			t.Errorf("%s has left %+v", bad, got)
		}
	}
}

// TestPromisesAreToldOnce: a change of a statement tells the promises that are new, and
// the end of those that are over, and nothing of the rest.
func TestPromisesAreToldOnce(t *testing.T) {
	stays, shrinks, ends := Promise{1, 1, setOf(16, 1)}, Promise{2, 2, setOf(16, 2, 3)}, Promise{3, 3, setOf(16, 4)}
	smaller, fresh := Promise{2, 2, setOf(16, 3)}, Promise{2, 9, setOf(16, 5)}
	changes := promiseChanges([]Promise{stays, shrinks, ends}, []Promise{stays, smaller, fresh})
	if want := []Promise{smaller, fresh, {3, 3, setOf(16)}}; !cmp.Equal(changes, want) {
		t.Errorf("told %+v, want %+v", changes, want)
	}
}
