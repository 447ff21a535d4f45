package node

import (
	"slices"
	"testing"

	"github.com/peervip/peervip/hashring"
)

// TestRequestFollowsTheStatement: a holder that does not know the view that a request
// comes of would refuse it, and the heir ask again much later.
func TestRequestFollowsTheStatement(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16), "c": everything(16)})
	effects := d.says("b", func(s *Statement) { s.Phase = Draining })
	index := func(is func(*Message) bool) int {
		return slices.IndexFunc(effects, func(e Effect) bool {
			s, ok := e.(Send)
			return ok && s.To == "c" && is(s.Message)
		})
	}
	statement := index(func(m *Message) bool { return m.Delta != nil && m.Delta.View == d.core.view.Digest() })
	request := index(func(m *Message) bool { return m.Request != nil })
	if statement < 0 || request < statement {
		t.Errorf("c gets the request as effect %d and the statement with the view as %d", request, statement)
	}
}

// TestLingerIsToldWhenTheBucketIsReleased: until then the claim says it all.
func TestLingerIsToldWhenTheBucketIsReleased(t *testing.T) {
	d := holderDesk(t)
	give := d.owned("b")
	effects := d.tells("b", Message{Request: &Request{ID: 7, Slots: give}})
	if commits := effectsOf[Commit](effects); len(commits) != 1 || len(commits[0].Changes) != give.Count() {
		t.Fatalf("commits %v, want one of %d buckets", commits, give.Count())
	}
	if told := sent(effects, "b", deltaOf); len(told) > 0 {
		t.Errorf("told before the commit: %+v", told[0])
	}
	d.commits(nil)
	if !d.core.said.Linger.Equal(give) || d.core.said.Claims.Intersects(give) {
		t.Errorf("released %v, and says linger %v, claims %v", give, d.core.said.Linger, d.core.said.Claims)
	}
}
