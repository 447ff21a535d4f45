package link

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

const (
	beaconPort = 7947
	leaseMark  = 0xbeac
)

// beaconRules are to a node in these tests what the packet filter is to a real one:
// what came to the cluster MAC for the VIP becomes the host's own, a guard drops the
// rest, and a marked beacon that leaves prolongs the lease and cannot make one.
const beaconRules = `
table netdev t {
	counter came { }
	counter guarded { }
	counter left { }
	counter marked { }
	counter urgent { }
	set lease { type mark; flags dynamic,timeout; }
	chain in {
		type filter hook ingress device eth0 priority 0
		ether daddr 01:00:5e:7f:02:64 ip daddr 192.0.2.100 udp dport 7947 counter name came meta pkttype set host accept
	}
	chain guard {
		type filter hook ingress device eth0 priority 10
		ip daddr 192.0.2.100 meta pkttype != host counter name guarded drop
	}
	chain out {
		type filter hook egress device eth0 priority 0
		ip daddr 192.0.2.100 udp dport 7947 counter name left
		meta priority 0:7 counter name urgent
		meta mark 0xbeac counter name marked
		meta mark 0xbeac meta mark @lease update @lease { meta mark timeout 2s }
	}
}
add element netdev t lease { 0xbeac timeout 2s }
`

func nft(h host, rules string) {
	h.t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := h.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		h.t.Fatalf("loading rules: %v: %s", err, out.String())
	}
}

// counter reads a counter of beaconRules.
func counter(h host, name string) uint64 {
	h.t.Helper()
	var list struct {
		Nftables []struct{ Counter struct{ Packets uint64 } }
	}
	if err := json.Unmarshal([]byte(h.run("nft", "-j", "list", "counter", "netdev", "t", name)), &list); err != nil {
		h.t.Fatal(err)
	}
	for _, object := range list.Nftables {
		if object.Counter.Packets > 0 {
			return object.Counter.Packets
		}
	}
	return 0
}

func leaseHeld(h host) bool {
	h.t.Helper()
	return strings.Contains(h.run("nft", "list", "set", "netdev", "t", "lease"), "elements")
}

var testStart = time.Now()

// testClock is the clock of all beacons in these tests.
func testClock() time.Duration { return time.Since(testStart) }

// beaconer is a node that sends and receives beacons.
type beaconer struct {
	host
	link *Link
	*Beacons
	heard         *heard
	stopReceiving func()
}

// newBeaconer opens the node's sockets and then puts it on the wire, in an agent's
// order. It hears, and sends when told. change, if any, edits the configuration.
func newBeaconer(s *segment, name, address string, change func(*BeaconConfig)) *beaconer {
	s.t.Helper()
	n := &beaconer{host: s.join(name, address+"/24"), heard: &heard{beacons: map[string]int{}}}
	nft(n.host, beaconRules)
	n.link = mustOpen(n.host, nil)
	n.open(change)
	serve(n.host, n.link)
	n.receive()
	return n
}

// open opens the sockets.
func (n *beaconer) open(change func(*BeaconConfig)) {
	n.t.Helper()
	config := BeaconConfig{Port: beaconPort, Interval: 20 * time.Millisecond, Mark: leaseMark, Now: testClock}
	if change != nil {
		change(&config)
	}
	n.do(func() (err error) {
		n.Beacons, err = n.link.OpenBeacons(config)
		return err
	})
	n.t.Cleanup(func() {
		if err := n.Close(); err != nil {
			n.t.Error(err)
		}
	})
}

// background runs a task until the test ends or stop is called.
func background(t *testing.T, task func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- task(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("a task returned %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func (n *beaconer) receive() {
	n.stopReceiving = background(n.t, func(ctx context.Context) error { return n.Receive(ctx, n.heard.add) })
}

func (n *beaconer) send(build Build) (stop func()) {
	return background(n.t, func(ctx context.Context) error { return n.Send(ctx, build) })
}

// says is a Build of a constant beacon.
func says(text string, marked bool, to ...netip.AddrPort) Build {
	return func(_ time.Duration, buf []byte) ([]byte, bool, []netip.AddrPort, bool) {
		return append(buf, text...), marked, to, true
	}
}

// at is the address of a node's unicast beacons.
func (n *beaconer) at() netip.AddrPort { return netip.AddrPortFrom(n.link.Address(), beaconPort) }

// heard counts the beacons that came, by all that is the same in each.
type heard struct {
	mu      sync.Mutex
	beacons map[string]int
	last    time.Time
	each    func(Received) // gets each one, too
}

func (h *heard) add(r Received) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = time.Now()
	if h.each != nil {
		h.each(r)
	}
	if r.At <= 0 || r.At > testClock() {
		panic(fmt.Sprintf("received at %v, and it is %v", r.At, testClock()))
	}
	h.beacons[fmt.Sprintf("%s %v ttl %d: %s", r.Medium, r.Source, r.TTL, r.Payload)]++
}

// of returns how often a beacon came, and in all when the last of any came.
func (h *heard) of(beacon string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.beacons[beacon]
}

// kinds lists what came, without how often.
func (h *heard) kinds() map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	kinds := map[string]bool{}
	for beacon := range h.beacons {
		kinds[beacon] = true
	}
	return kinds
}

// frames collects what comes to an interface and passes the filter.
type frames struct {
	mu   sync.Mutex
	list [][]byte
}

func (f *frames) all() [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([][]byte(nil), f.list...)
}

// captureFrames keeps the IPv4 frames for which keep is true.
func captureFrames(h host, device string, keep func([]byte) bool) *frames {
	h.t.Helper()
	var conn *packet.Conn
	h.do(func() error {
		i, err := net.InterfaceByName(device)
		if err == nil {
			conn, err = packet.Listen(i, packet.Raw, unix.ETH_P_ALL, nil)
		}
		return err
	})
	f := &frames{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 2000)
		for {
			n, _, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			frame := buffer[:n]
			if n >= headersLen && frame[12] == 0x08 && frame[13] == 0 && keep(frame) {
				f.mu.Lock()
				f.list = append(f.list, append([]byte(nil), frame...))
				f.mu.Unlock()
			}
		}
	}()
	h.t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			h.t.Error(err)
		}
		<-done
	})
	return f
}

// injectFrame sends a frame as it is from an interface of the host.
func injectFrame(h host, device string, frame []byte) {
	h.t.Helper()
	h.do(func() error {
		i, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		conn, err := packet.Listen(i, packet.Raw, 0, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
		return err
	})
}

func (h *heard) lastAt() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// beaconFrameFrom is a beacon on the wire from an address, by nobody's MAC.
func beaconFrameFrom(source netip.Addr, ttl byte, payload string) []byte {
	var frame beaconFrame
	frame.address(sharedMAC, hwAddr{2, 0, 0, 0, 0, 0xee}, source, vip, beaconPort)
	frame[ethernetLen+8] = ttl
	return append([]byte(nil), frame.seal(len(append(frame.payload(), payload...)))...)
}
