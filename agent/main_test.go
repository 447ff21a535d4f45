package agent

import (
	"fmt"
	"net"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Tests never change the host: an agent that runs in one of their namespaces must stay on
// the thread that is there, or it works on the host's network.
func TestMain(m *testing.M) {
	before := hostAddresses()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if after := hostAddresses(); after != before {
			fmt.Printf("FAIL: tests have changed the host: its lo has %s, and had %s\n", after, before)
			code = 1
		}
		os.Exit(code)
	}))
}

// hostAddresses are those of the host's own lo.
func hostAddresses() string {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err.Error()
	}
	addresses, err := lo.Addrs()
	return fmt.Sprint(addresses, err)
}
