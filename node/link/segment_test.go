package link

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait: much more than anything here takes on a busy machine.
const patience = 20 * time.Second

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// host is a network namespace of the test.
type host struct {
	*lab.Namespace
	t *testing.T
}

// ip runs ip(8) in the namespace.
func (h host) ip(arguments string) string {
	h.t.Helper()
	return h.run("ip", strings.Fields(arguments)...)
}

func (h host) run(name string, args ...string) string {
	h.t.Helper()
	out, err := h.Run(name, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h host) do(f func() error) {
	h.t.Helper()
	if err := h.Do(f); err != nil {
		h.t.Fatal(err)
	}
}

// groups lists the groups of eth0 in no particular order of the kernel's.
func (h host) groups() string {
	h.t.Helper()
	lines := strings.Split(h.ip("maddr show eth0"), "\n")[1:] // without the interface's index
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (h host) sysctl(key string) string {
	h.t.Helper()
	var value []byte
	h.do(func() (err error) {
		value, err = os.ReadFile("/proc/sys/net/ipv4/conf/" + key)
		return err
	})
	return strings.TrimSpace(string(value))
}

func (h host) setSysctl(key, value string) {
	h.t.Helper()
	h.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/"+key, []byte(value), 0) })
}

// mac returns the interface's hardware address.
func (h host) mac(device string) hwAddr {
	h.t.Helper()
	var found hwAddr
	h.do(func() error {
		i, err := net.InterfaceByName(device)
		if err == nil {
			found = hwAddr(i.HardwareAddr)
		}
		return err
	})
	return found
}

// segment is a switch with hosts on it.
type segment struct {
	host
	prefix string
	ports  int
}

func newSegment(t *testing.T) *segment {
	s := &segment{prefix: lab.UniquePrefix()}
	s.host = newHost(t, s.prefix+"sw")
	s.ip("link add br0 type bridge mcast_snooping 0")
	s.ip("link set br0 up")
	return s
}

func newHost(t *testing.T, name string) host {
	t.Helper()
	ns, err := lab.NewNamespace(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return host{ns, t}
}

// host adds a host with eth0 on the segment; address is with its prefix length.
func (s *segment) join(name, address string) host {
	s.t.Helper()
	h := newHost(s.t, s.prefix+name)
	s.plug(h, "eth0", address)
	return h
}

// plug adds an interface of the host to the segment and returns its port there.
func (s *segment) plug(h host, device, address string) (port string) {
	s.t.Helper()
	s.ports++
	port = fmt.Sprintf("p%d", s.ports)
	s.ip("link add " + port + " type veth peer name " + device + " netns " + h.Name)
	s.ip("link set " + port + " master br0 up")
	if address != "" {
		h.ip("addr add " + address + " dev " + device)
	}
	h.ip("link set " + device + " addrgenmode none") // no IPv6 that comes when it likes
	h.ip("link set " + device + " up")
	eventually(s.t, device+" is operational and its port forwards", func() bool {
		return strings.Contains(h.ip("link show "+device), "state UP") &&
			strings.Contains(s.ip("-details link show "+port), "bridge_slave state forwarding")
	})
	return port
}

func clusterMAC(t *testing.T, mode string) ClusterMAC {
	t.Helper()
	m, err := ParseClusterMAC(mode, []netip.Addr{vip})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// open opens a link in the namespace for vip on eth0; change, if any, edits the
// configuration first.
func open(h host, change func(*Config)) (*Link, error) {
	h.t.Helper()
	config := Config{
		Interface: "eth0", VIPs: []netip.Addr{vip}, MAC: clusterMAC(h.t, "multicast"),
		Log: slog.New(slog.NewTextHandler(testWriter{h.t}, nil)),
	}
	if change != nil {
		change(&config)
	}
	var l *Link
	err := h.Do(func() (err error) {
		l, err = Open(config)
		return err
	})
	return l, err
}

func mustOpen(h host, change func(*Config)) *Link {
	h.t.Helper()
	l, err := open(h, change)
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

// testWriter sends logs to the test's own.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// statuses records what Run reports.
type statuses struct {
	mu   sync.Mutex
	list []Status
}

func (s *statuses) add(status Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, status)
}

func (s *statuses) all() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Status(nil), s.list...)
}

// last returns the newest status; the zero Status before the first.
func (s *statuses) last() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return Status{}
	}
	return s.list[len(s.list)-1]
}

// await waits for a status: ok "" means OK, else it is the reason.
func (s *statuses) await(t *testing.T, reason string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("statuses so far: %+v", s.all())
		}
	}()
	want := Status{OK: reason == "", Reason: reason}
	eventually(t, fmt.Sprintf("status %+v", want), func() bool { return s.last() == want })
}

// run runs the link inside the host until the test ends or stop is called.
func run(h host, l *Link) (seen *statuses, stop func()) {
	h.t.Helper()
	seen = &statuses{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Do(func() error { return l.Run(ctx, seen.add) }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Errorf("Run returned %v", err)
		}
	})
	h.t.Cleanup(stop)
	return seen, stop
}

// serve puts a link up and runs it; it is down again when the test ends.
func serve(h host, l *Link) *statuses {
	h.t.Helper()
	up(h, l)
	seen, _ := run(h, l)
	seen.await(h.t, "")
	return seen
}

func up(h host, l *Link) {
	h.t.Helper()
	h.t.Cleanup(func() { h.do(l.Down) })
	h.do(l.Up)
}

// capture collects the ARP frames that come to an interface.
type capture struct {
	mu     sync.Mutex
	frames []arpFrame
}

// captureARP reads with a decoder of its own, not the one under test.
func captureARP(h host, device string) *capture {
	h.t.Helper()
	var conn *packet.Conn
	h.do(func() error {
		i, err := net.InterfaceByName(device)
		if err == nil {
			conn, err = packet.Listen(i, packet.Raw, unix.ETH_P_ARP, nil)
		}
		return err
	})
	c := &capture{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 1500)
		for {
			n, _, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			c.take(buffer[:n])
		}
	}()
	h.t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			h.t.Error(err)
		}
		<-done
	})
	return c
}

func (c *capture) take(b []byte) {
	if len(b) < 42 {
		return
	}
	f := arpFrame{
		dst: hwAddr(b[0:6]), src: hwAddr(b[6:12]), operation: uint16(b[20])<<8 | uint16(b[21]),
		senderMAC: hwAddr(b[22:28]), senderIP: netip.AddrFrom4([4]byte(b[28:32])),
		targetMAC: hwAddr(b[32:38]), targetIP: netip.AddrFrom4([4]byte(b[38:42])),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, f)
}

// about returns the frames so far whose sender is the address.
func (c *capture) about(sender netip.Addr) []arpFrame {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []arpFrame
	for _, f := range c.frames {
		if f.senderIP == sender {
			list = append(list, f)
		}
	}
	return list
}

// replies returns the replies among them.
func (c *capture) replies(sender netip.Addr) []arpFrame {
	var list []arpFrame
	for _, f := range c.about(sender) {
		if f.operation == layers.ARPReply {
			list = append(list, f)
		}
	}
	return list
}

// inject sends a frame from an interface of the host.
func inject(h host, device string, frame arpFrame) {
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
		_, err = conn.WriteTo(frame.bytes(), &packet.Addr{HardwareAddr: frame.dst.hardware()})
		return err
	})
}
