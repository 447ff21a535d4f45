package node

import (
	"slices"
	"strings"
	"testing"

	"github.com/peervip/peervip/hashring"
)

func TestDifferenceOfViews(t *testing.T) {
	member := func(name string, change func(*Member)) Member {
		m := Member{Incarnation: Incarnation{name, uint64(name[0])}, Weight: 10, Phase: Active}
		if change != nil {
			change(&m)
		}
		return m
	}
	before := NewView([]Member{member("a", nil), member("b", nil), member("c", func(m *Member) { m.Unfit = []int{0} })})
	for _, c := range []struct {
		want  string
		after []Member
	}{
		{"", before.Members()},
		{"b has gone", []Member{before.members[0], before.members[2]}},
		{"this node has gone, d has come", []Member{before.members[1], before.members[2], member("d", nil)}},
		{"this node is draining, b is back, c is fit again", []Member{
			member("a", func(m *Member) { m.Phase = Draining }), member("b", func(m *Member) { m.Nonce = 9 }), member("c", nil)}},
		{"this node has weight 50, b is cut off", []Member{
			member("a", func(m *Member) { m.Weight = 5 }), member("b", func(m *Member) { m.CutOff = true }), before.members[2]}},
		{"b is unfit", []Member{before.members[0], member("b", func(m *Member) { m.Unfit = []int{0} }), before.members[2]}},
	} {
		if got := before.difference(NewView(c.after), "a"); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func noticesIn(effects []Effect) (texts []string) {
	for _, n := range effectsOf[Notice](effects) {
		texts = append(texts, n.Text)
	}
	return texts
}

// The log of a node says why its buckets move, and what its peers are about.
func TestLogSaysWhyBucketsMove(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{}, lingering)
	d.commits(nil)
	d.alive("b")
	effects := append(d.says("b", func(*Statement) {}), d.agrees("b")...)
	d.tells("b", Message{Request: &Request{ID: 7, Slots: d.owned("b")}})
	d.commits(nil)
	effects = append(effects, d.tells("b", Message{Confirm: &Confirm{ID: 7, Slots: d.owned("b")}})...)
	effects = append(effects, d.says("b", func(s *Statement) { s.Phase = Restarting })...)
	effects = append(effects, d.says("b", func(s *Statement) {})...)
	got := noticesIn(effects)
	for _, want := range []string{"buckets to b, since b has come", "b is restarting"} {
		if n := slices.IndexFunc(got, func(s string) bool { return strings.HasSuffix(s, want) }); n < 0 {
			t.Errorf("%q is not among %q", want, got)
		}
	}
}
