package agent

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// While a name server does not answer, the rest goes on: flows are counted, and whether
// the wire forwards is told, for which a node waits that starts alone.
func TestDeadNameServerHoldsNothingUp(t *testing.T) {
	resolver := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = resolver })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	began := time.Now()
	r := newRig(t, "a", func(c *Config) { c.Join = []string{"web-2.example", "web-3.example"} }).start()
	eventually(t, func() error {
		if r.listable.Load() == nil {
			return errors.New("flows were not counted")
		}
		return nil
	})
	if took := time.Since(began); took >= lookUp {
		t.Errorf("flows were counted after %v", took)
	}
}
