package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/peervip/peervip/e2e/lab"
)

// A node whose name another one has is no member and does not serve; it says why, names
// the name's owner, knocks again now and then, and takes part as soon as the name is free.
func TestTakenName(t *testing.T) {
	l := build(t, 3)
	members, twin := l.Nodes[:2], l.Nodes[2]
	twin.Config.Node.Name = members[0].Name
	start(t, members...)
	settle(t, l, members...)
	clients := listen(t, l)
	clients.allServed(t)
	start(t, twin)
	eventually(t, func() error {
		phase, problems := problemsOf(t, twin)
		if phase != "joining" || !strings.Contains(problems, "not serving yet: joining the cluster \"lab\" is refused, and tried again") ||
			!strings.Contains(problems, "this node's name is taken by the node at "+members[0].Addr.String()) {
			return fmt.Errorf("it is %s and says %s", phase, problems)
		}
		return nil
	})
	if by := clients.allServed(t); count(by, twin) > 0 {
		t.Errorf("%s serves %d clients", twin.Name, count(by, twin))
	}
	clients.quiet(t)
	if n := strings.Count(twin.Log(), "joining the cluster was refused"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, twin.Log())
	}
	must(t, members[0].Stop(patiently(t)))
	// Not settle: it expects the lab's name of the twin.
	eventually(t, func() error {
		for _, n := range []*lab.Node{members[1], twin} {
			s, err := n.Status(t.Context())
			if err != nil {
				return err
			}
			if err := s.Unsettled([]string{twin.Config.Node.Name, members[1].Name}); err != nil {
				return err
			}
		}
		return nil
	})
	if by := clients.allServed(t); count(by, twin) == 0 {
		t.Errorf("%s serves nobody, though the name is free", twin.Name)
	}
}

// One edited file does not stop those who serve: the newcomer with
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
