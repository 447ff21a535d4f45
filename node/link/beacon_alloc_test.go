//go:build !race

package link

import (
	"net/netip"
	"testing"
	"time"
)

// The loop that sends allocates nothing, so that it never waits for the collection of
// garbage that it would have to help with. (The race detector allocates by itself.)
func TestSendingAllocatesNothing(t *testing.T) {
	beacons := lone(t, time.Millisecond, nil)
	s := &beacons.sender
	s.pace = newPace(s.interval, s.bell.monotonic())
	peers := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.12:7947"), netip.MustParseAddrPort("192.0.2.13:7947")}
	marked := false
	build := func(_ time.Duration, buf []byte) ([]byte, bool, []netip.AddrPort, bool) {
		marked = !marked
		return append(buf, "beacon"...), marked, peers, true
	}
	if got := testing.AllocsPerRun(200, func() {
		s.turn(build)
		beacons.Kick()
	}); got != 0 {
		t.Errorf("%v allocations in a turn", got)
	}
	if status := beacons.Status(); status.Wire.Sent < 50 || status.Unicast.Sent < 100 || status.Extra == 0 || status.Lateness.Max == 0 {
		t.Errorf("%+v: the turns did not do what they should", status)
	}
}
