package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

// Of a service of mode single one node serves everybody. When it fails another one
// takes over, and goes on when the first is back; a drain moves it without a loss.
func TestSingle(t *testing.T) {
	l := build(t, 3, func(_ int, c *lab.AgentConfig) {
		c.Spec.Services = []lab.ServiceSection{{Name: "other", Mode: "single"}}
	})
	first, second := l.Nodes[0], l.Nodes[1]
	start(t, first) // whoever serves first goes on
	eventually(t, func() error {
		s, err := first.Status(t.Context())
		if err != nil {
			return err
		}
		if own, _ := s.Find(first.Name); own.Serves("other") != s.Services[0].Buckets {
			return fmt.Errorf("%s serves %d buckets", first.Name, own.Serves("other"))
		}
		return nil
	})
	start(t, l.Nodes[1:]...)
	clients := listen(t, l)
	servedBy := func(n *lab.Node) {
		t.Helper()
		eventually(t, func() error {
			for _, by := range l.Nodes {
				s, err := n.Status(t.Context())
				if err != nil {
					return err
				}
				own, _ := s.Find(by.Name)
				if got := own.Serves("other"); (got == s.Services[0].Buckets) != (by == n) {
					return fmt.Errorf("%s serves %d buckets", by.Name, got)
				}
			}
			return nil
		})
		if by := clients.allServed(t); count(by, n) != len(by) {
			t.Errorf("%s serves %d of %d clients", n.Name, count(by, n), len(by))
		}
	}
	servedBy(first)
	must(t, first.PowerOff())
	servedBy(second)
	must(t, first.PowerOn())
	start(t, first)
	time.Sleep(5 * time.Second) // longer than it takes to join
	servedBy(second)
	run(t, second, "drain")
	servedBy(first)
	run(t, second, "resume")
	time.Sleep(3 * time.Second)
	servedBy(first)
	clients.quiet(t)
}
