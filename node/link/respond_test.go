package link

import (
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
)

// lookUp makes the client ask for the address with its own kernel; the ping itself
// may stay unanswered.
func lookUp(c host, target netip.Addr) (neighbour string) {
	c.t.Helper()
	eventually(c.t, "a neighbour entry for "+target.String(), func() bool {
		c.Run("ping", "-c1", "-W1", target.String())
		neighbour = c.ip("neigh show " + target.String())
		return strings.Contains(neighbour, "lladdr")
	})
	return neighbour
}

func TestClientsGetTheClusterMAC(t *testing.T) {
	for name, c := range modes {
		t.Run(name, func(t *testing.T) {
			s := newSegment(t)
			node, user := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24")
			l := mustOpen(node, func(config *Config) { config.MAC = clusterMAC(t, c.mode) })
			cluster := l.config.MAC
			serve(node, l)
			seen := captureARP(user, "eth0")

			if entry := lookUp(user, vip); !strings.Contains(entry, "lladdr "+cluster.String()) {
				t.Errorf("the client's entry is %s, not the cluster MAC %s", entry, cluster)
			}
			// A client that revalidates its entry asks by unicast.
			inject(user, "eth0", arpFrame{
				dst: cluster.addr, src: user.mac("eth0"), operation: layers.ARPRequest,
				senderMAC: user.mac("eth0"), senderIP: client, targetMAC: cluster.addr, targetIP: vip,
			})
			eventually(t, "an answer to broadcast and unicast", func() bool { return len(seen.replies(vip)) >= 2 })
			// An RFC 5227 probe.
			inject(user, "eth0", request(user.mac("eth0"), nobody, vip))
			eventually(t, "an answer to a probe", func() bool {
				for _, f := range seen.replies(vip) {
					if f.targetIP == nobody {
						return true
					}
				}
				return false
			})
			for _, f := range seen.about(vip) {
				if f.src != node.mac("eth0") || f.senderMAC != cluster.addr {
					t.Errorf("frame from %s tells of %s; want it from %s, telling of %s", f.src, f.senderMAC, node.mac("eth0"), cluster)
				}
			}
		})
	}
}

// The VIP serves once the frames are marked as the host's, which is the packet
// filter's part: TCP ignores a frame to a multicast MAC.
func TestTrafficToTheVIP(t *testing.T) {
	for name, c := range modes {
		t.Run(name, func(t *testing.T) {
			s := newSegment(t)
			node, user := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24")
			l := mustOpen(node, func(config *Config) { config.MAC = clusterMAC(t, c.mode) })
			node.run("nft", `add table netdev t; add chain netdev t in { type filter hook ingress device eth0 priority 0; }; `+
				`add rule netdev t in ether daddr `+l.config.MAC.String()+` ip daddr 192.0.2.100 meta pkttype set host`)
			serve(node, l)

			node.echo()
			user.run("ping", "-c3", "-i0.05", "-W5", "192.0.2.100")
			for _, network := range []string{"tcp", "udp"} {
				if got := user.ask(network); got != "hello" {
					t.Errorf("%s: the VIP answered %q", network, got)
				}
			}
		})
	}
}

// echo serves TCP and UDP on port 7 of the VIP until the test ends.
func (h host) echo() {
	h.t.Helper()
	for _, kind := range []string{"TCP-LISTEN:7,bind=192.0.2.100,fork", "UDP-LISTEN:7,bind=192.0.2.100,fork"} {
		cmd := exec.Command("socat", kind, "PIPE")
		if err := h.Start(cmd); err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
	eventually(h.t, "two listening sockets", func() bool {
		return strings.Count(h.run("ss", "-Htuln"), "192.0.2.100:7") == 2
	})
}

// ask sends hello to port 7 of the VIP and returns what comes back.
func (h host) ask(network string) (reply string) {
	h.t.Helper()
	var conn net.Conn
	h.do(func() (err error) {
		conn, err = net.DialTimeout(network, "192.0.2.100:7", patience)
		return err
	})
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		h.t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		h.t.Fatal(err)
	}
	buffer := make([]byte, 16)
	n, err := conn.Read(buffer)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(buffer[:n])
}

// A second NIC on the same segment answers ARP for the VIP, and so
// does the first, if the kernel is let.
func TestKernelNeverAnswersForTheVIP(t *testing.T) {
	// answers returns who answers a few requests, with nobody but the kernel to do it.
	answers := func(s *segment, node, user host) map[hwAddr]bool {
		seen := captureARP(user, "eth0")
		answered := func(ip netip.Addr) func() bool { return func() bool { return len(seen.replies(ip)) > 0 } }
		for range 3 {
			inject(user, "eth0", request(user.mac("eth0"), client, vip))
			inject(user, "eth0", request(user.mac("eth0"), nobody, vip))
		}
		// Frames keep their order: when these are answered, those would have been.
		for _, own := range addrs("192.0.2.11", "192.0.2.12") {
			inject(user, "eth0", request(user.mac("eth0"), client, own))
			eventually(t, own.String()+" answers", answered(own))
		}
		by := map[hwAddr]bool{}
		for _, f := range seen.about(vip) {
			by[f.senderMAC] = true
		}
		return by
	}
	scene := func(t *testing.T) (*segment, host, host) {
		s := newSegment(t)
		node, user := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24")
		s.plug(node, "eth1", "192.0.2.12/24")
		return s, node, user
	}
	t.Run("up", func(t *testing.T) {
		s, node, user := scene(t)
		up(node, mustOpen(node, nil))
		if by := answers(s, node, user); len(by) != 0 {
			t.Errorf("answered by %v", by)
		}
	})
	t.Run("without the sysctls, for comparison", func(t *testing.T) {
		s, node, user := scene(t)
		node.ip("addr add 192.0.2.100/32 dev lo scope host")
		by := answers(s, node, user)
		if !by[node.mac("eth0")] || !by[node.mac("eth1")] {
			t.Errorf("the test would not notice: answered by %v", by)
		}
	})
	t.Run("running", func(t *testing.T) {
		s, node, user := scene(t)
		l := mustOpen(node, nil)
		serve(node, l)
		if by := answers(s, node, user); len(by) != 1 || !by[l.config.MAC.addr] {
			t.Errorf("answered by %v, want the cluster MAC %s alone", by, l.config.MAC)
		}
	})
}

// The values of arp_ignore that Up leaves alone are those under which the kernel
// is silent about the VIP, and no others.
func TestValuesOfArpIgnoreThatWillDo(t *testing.T) {
	s := newSegment(t)
	node, user := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24")
	node.ip("addr add 192.0.2.100/32 dev lo scope host")
	user.ip("neigh add 192.0.2.11 lladdr " + node.mac("eth0").String() + " dev eth0 nud permanent")
	enough := arpIgnore("all", nil).enough
	for value := range 10 {
		node.setSysctl("all/arp_ignore", strconv.Itoa(value))
		heard := captureARP(user, "eth0")
		inject(user, "eth0", request(user.mac("eth0"), client, vip))
		user.run("ping", "-c1", "-W10", "192.0.2.11") // answered after the request before it
		last := netip.MustParseAddr("192.0.2.99")
		inject(node, "eth0", request(node.mac("eth0"), last, client))
		eventually(t, "all that came before has been captured", func() bool { return len(heard.about(last)) > 0 })
		if silent, want := len(heard.replies(vip)) == 0, slices.Contains(enough, value); silent != want {
			t.Errorf("arp_ignore=%d: the kernel is silent %v, we hold it for %v", value, silent, want)
		}
	}
}

// The kernel asks for a neighbour in the name of a socket bound to the VIP:
// without arp_announce=2 the request would name the VIP with the NIC's MAC.
func TestKernelNeverAsksInTheVIPsName(t *testing.T) {
	s := newSegment(t)
	node, user := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24")
	up(node, mustOpen(node, nil))
	seen := captureARP(user, "eth0")
	node.do(func() error {
		conn, err := net.DialUDP("udp", &net.UDPAddr{IP: vip.AsSlice()}, &net.UDPAddr{IP: client.AsSlice(), Port: 7})
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("hello"))
		return err
	})
	eventually(t, "a request from the node's own address", func() bool { return len(seen.about(netip.MustParseAddr("192.0.2.11"))) > 0 })
	if frames := seen.about(vip); len(frames) > 0 {
		t.Errorf("the kernel spoke of the VIP: %+v", frames)
	}
}

func TestSilentUnlessUp(t *testing.T) {
	s := newSegment(t)
	node, user := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24")
	l := mustOpen(node, nil)
	l.announceEvery = 10 * time.Millisecond
	seen, _ := run(node, l)
	seen.await(t, "")
	heard := captureARP(user, "eth0")
	quiet := func(when string) {
		t.Helper()
		before := len(heard.about(vip))
		inject(user, "eth0", request(user.mac("eth0"), client, vip))
		lookUp(user, netip.MustParseAddr("192.0.2.11")) // the node has had its chance
		user.ip("neigh flush all")
		if frames := heard.about(vip)[before:]; len(frames) > 0 {
			t.Errorf("%s the node said %+v", when, frames)
		}
	}
	quiet("before Up")
	up(node, l)
	inject(user, "eth0", request(user.mac("eth0"), client, vip))
	eventually(t, "an answer while up", func() bool { return len(heard.replies(vip)) > 0 })
	node.do(l.Down)
	lookUp(user, netip.MustParseAddr("192.0.2.11")) // what was under way has come
	user.ip("neigh flush all")
	quiet("after Down")
}

func TestGratuitousARPAtTheStartAndAgain(t *testing.T) {
	s := newSegment(t)
	node, user := s.join("n", "192.0.2.11/24"), s.join("c", "192.0.2.1/24")
	l := mustOpen(node, func(c *Config) { c.VIPs = append(c.VIPs, otherVIP) })
	l.announceEvery = time.Hour
	heard := captureARP(user, "eth0")
	// The client remembers an older owner of the VIP.
	user.ip("neigh replace 192.0.2.100 lladdr 02:00:00:00:00:99 dev eth0 nud stale")

	seen, stop := run(node, l)
	seen.await(t, "")
	up(node, l)
	for _, vip := range l.config.VIPs {
		eventually(t, "gratuitous ARP at Up", func() bool { return len(heard.about(vip)) == 1 })
		want := (&speaker{own: node.mac("eth0"), cluster: l.config.MAC.addr}).announcement(vip)
		if got := heard.about(vip)[0]; got != want {
			t.Errorf("gratuitous ARP %+v, want %+v", got, want)
		}
	}
	eventually(t, "the client's entry is the cluster MAC", func() bool {
		return strings.Contains(user.ip("neigh show 192.0.2.100"), l.config.MAC.String())
	})
	stop()
	l.announceEvery = 20 * time.Millisecond
	run(node, l)
	eventually(t, "gratuitous ARP again and again", func() bool { return len(heard.about(vip)) > 5 })
}

// Another host that claims the VIP while we serve is a line in the log, and told on.
func TestConflictWhileServingIsTold(t *testing.T) {
	s := newSegment(t)
	node, other := s.join("n", "192.0.2.11/24"), s.join("o", "192.0.2.1/24")
	log := &recorder{}
	l := mustOpen(node, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
	serve(node, l)
	if err := l.Conflict(time.Hour); err != nil {
		t.Error(err)
	}
	for range 10 {
		inject(other, "eth0", request(other.mac("eth0"), vip, vip))
	}
	eventually(t, "a warning", func() bool { return log.count("level=WARN") > 0 })
	line := "VIP 192.0.2.100 is in use by the host with MAC " + other.mac("eth0").String()
	if log.count(line) != 1 || log.count("level=WARN") != 1 {
		t.Errorf("the log says %q, want one warning with %q", log.text, line)
	}
	if err := l.Conflict(time.Hour); err == nil || !strings.HasPrefix(err.Error(), line) {
		t.Errorf("the conflict is %v, want %s", err, line)
	}
	if err := l.Conflict(0); err != nil {
		t.Errorf("within no time: %v", err)
	}
}

// recorder is a log to look into.
type recorder struct {
	mu   sync.Mutex
	text string
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text += string(p)
	return len(p), nil
}

func (r *recorder) count(part string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.text, part)
}
