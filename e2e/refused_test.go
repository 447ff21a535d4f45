package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// A node whose name another one has is no member, does not serve, and ends with a
// line that tells the name's owner.
func TestTakenName(t *testing.T) {
	l := build(t, 3)
	members, twin := l.Nodes[:2], l.Nodes[2]
	twin.Config.Node.Name = members[0].Name
	start(t, members...)
	settle(t, l, members...)
	clients := listen(t, l)
	clients.allServed(t)
	start(t, twin)
	if err := twin.WaitExit(patiently(t)); err == nil {
		t.Error("an agent whose name is taken ends as if all were well")
	}
	for _, words := range []string{"this node's name is taken", members[0].Addr.String()} {
		if !strings.Contains(twin.Log(), words) {
			t.Errorf("%s does not say %q", twin.Name, words)
		}
	}
	settle(t, l, members...)
	if by := clients.allServed(t); count(by, twin) > 0 {
		t.Errorf("%s serves %d clients", twin.Name, count(by, twin))
	}
	clients.quiet(t)
	nothingLeft(t, twin)
}

// One edited file does not stop those who serve (pitfall 24): the newcomer with
// another layout stays out, and says which field differs.
func TestAnotherLayout(t *testing.T) {
	l := build(t, 3)
	members, edited := l.Nodes[:2], l.Nodes[2]
	edited.Config.Spec.Buckets = 512
	start(t, members...)
	settle(t, l, members...)
	clients := listen(t, l)
	clients.allServed(t)
	start(t, edited)
	eventually(t, func() error {
		s, err := edited.Status(t.Context())
		if err != nil {
			return err
		}
		problems := strings.Join(s.Problems, "\n")
		if s.Phase != "joining" || !strings.Contains(problems, "spec.buckets") ||
			!strings.Contains(problems, "512") || !strings.Contains(problems, "1024") {
			return fmt.Errorf("%s is %s and says: %s", edited.Name, s.Phase, problems)
		}
		return nil
	})
	for _, n := range members {
		s, err := n.Status(patiently(t))
		must(t, err)
		if problems := strings.Join(s.Problems, "\n"); !strings.Contains(problems, edited.Name) {
			t.Errorf("%s does not tell of %s: %s", n.Name, edited.Name, problems)
		}
	}
	if by := clients.allServed(t); count(by, edited) > 0 {
		t.Errorf("%s serves %d clients", edited.Name, count(by, edited))
	}
	clients.quiet(t)

	must(t, edited.Stop(patiently(t)))
	edited.Config.Spec.Buckets = 1024
	start(t, edited)
	settle(t, l, l.Nodes...)
	clients.allServed(t)
}
