package e2e

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/peervip/peervip/e2e/lab"
)

// anotherKey writes a key that the lab's nodes do not have, and returns the file.
func anotherKey(t *testing.T, l *lab.Lab) string {
	t.Helper()
	binary, err := tested()
	must(t, err)
	file := filepath.Join(l.Dir, "another-key")
	must(t, lab.WriteKey(patiently(t), binary, file))
	return file
}

// keepsOut waits until the node is joining and says the words.
func keepsOut(t *testing.T, n *lab.Node, words ...string) {
	t.Helper()
	eventually(t, func() error {
		phase, problems := problemsOf(t, n)
		for _, w := range words {
			if phase != "joining" || !strings.Contains(problems, w) {
				return fmt.Errorf("%s is %s and does not say %q, but: %s", n.Name, phase, w, problems)
			}
		}
		return nil
	})
}

// notWell waits until the node says NOT WELL because of a stranger at that node.
func notWell(t *testing.T, n, stranger *lab.Node, differs ...string) {
	t.Helper()
	want := lab.StrangerStatus{Address: stranger.Addr.String(), MAC: stranger.MAC().String(), Differs: differs}
	eventually(t, func() error {
		s, err := n.Status(t.Context())
		if err != nil {
			return err
		}
		if s.Alert != "strangers on the wire" || !slices.ContainsFunc(s.Strangers, func(one lab.StrangerStatus) bool {
			return one.Address == want.Address && one.MAC == want.MAC && slices.Equal(one.Differs, want.Differs)
		}) {
			return fmt.Errorf("%s: alert %q, strangers %+v, want %+v", n.Name, s.Alert, s.Strangers, want)
		}
		return nil
	})
	if out := run(t, n, "status"); !strings.HasPrefix(out, "NOT WELL, strangers on the wire") {
		t.Errorf("%s: %s", n.Name, out)
	}
	eventually(t, func() error {
		for line := range strings.Lines(n.Log()) {
			if strings.Contains(line, "WARN") && strings.Contains(line, "on the wire: "+want.Address+" ("+want.MAC) {
				return nil
			}
		}
		return fmt.Errorf("the log of %s does not tell of %s", n.Name, want.Address)
	})
}

// TestATypoInOneNode is U1: one new node with another key, or another cluster name, with
// seeds or without. It must not take the address away from all: no client notices.
func TestATypoInOneNode(t *testing.T) {
	l := cluster(t, 4, func(i int, c *lab.AgentConfig) {
		if i == 3 {
			c.Cluster.Join = nil
		}
	})
	members, typo := l.Nodes[:3], l.Nodes[3]
	must(t, typo.Stop(patiently(t)))
	settle(t, l, members...)
	right := typo.Config.Cluster
	seeds := []string{members[0].Addr.String(), members[1].Addr.String()}
	key := anotherKey(t, l)
	for _, c := range []struct {
		name    string
		change  func(c *lab.ClusterSection)
		differs string
		says    []string
	}{
		{"another key and no seeds", func(c *lab.ClusterSection) { c.KeyFile, c.Join = key, nil }, "key",
			[]string{"this cluster's address is served already", members[0].Addr.String() + " (" + members[0].MAC().String() + ", another key), and it serves;", "compare cluster.key_file here and there", "it is proved: 02:77:"}},
		{"another key", func(c *lab.ClusterSection) { c.KeyFile, c.Join = key, seeds }, "key", nil},
		{"another name and no seeds", func(c *lab.ClusterSection) { c.Name, c.Join = "lba", nil }, "name",
			[]string{"this cluster's address is served already", "another cluster.name with this cluster's key), and it serves;", "compare cluster.name here and there", "it is proved: 02:77:"}},
		{"another name", func(c *lab.ClusterSection) { c.Name, c.Join = "lba", seeds }, "name", nil},
	} {
		ok := t.Run(c.name, func(t *testing.T) {
			clients := listen(t, l)
			clients.allServed(t)
			held := l.Hold(lab.HoldConfig{})
			defer held.Stop()
			must(t, held.WaitOpen(patiently(t)))
			browsers := l.Browse(lab.BrowseConfig{})
			defer browsers.Stop()
			from := l.Now()
			typo.Config.Cluster = right
			c.change(&typo.Config.Cluster)
			must(t, os.RemoveAll(typo.Config.Node.StateDir)) // a new node
			start(t, typo)
			keepsOut(t, typo, append(c.says, "not serving yet")...)
			for _, n := range members {
				notWell(t, n, typo, c.differs)
			}
			time.Sleep(max(0, 8*time.Second-(l.Now()-from))) // a node that is alone serves after five
			keepsOut(t, typo, append(c.says, "not serving yet")...)
			w := lab.Window{From: from, To: l.Now()}
			browsers.Stop()
			r, h := browsers.Report(w), held.Report(w, nil)
			t.Logf("%d connections while the node is there: %d failed, %d reset, %d timed out; %d held ones broken",
				r.Begun, r.Failed, r.Reset, r.TimedOut, h.OthersBroken)
			if bad := r.Failed + r.Reset + r.TimedOut + h.OthersBroken; bad > 0 || r.By[typo.ID()] > 0 {
				clients.demand(t, from, "%d connections failed or broke (%v), %d went to %s", bad, r.FirstError, r.By[typo.ID()], typo.Name)
			}
			must(t, typo.Stop(patiently(t)))
			for _, n := range members {
				eventually(t, func() error {
					if s, err := n.Status(t.Context()); err != nil || len(s.Strangers) > 0 || s.Alert != "" {
						return fmt.Errorf("%s still has strangers: %+v, %v", n.Name, s.Strangers, err)
					}
					if !strings.Contains(n.Log(), "over: a node that is none of this cluster is on the wire: "+typo.Addr.String()) {
						return fmt.Errorf("the log of %s has no end of it", n.Name)
					}
					return nil
				})
			}
			settle(t, l, members...)
		})
		if !ok {
			return
		}
	}
	typo.Config.Cluster = right
	typo.Config.Cluster.Join = seeds
	start(t, typo)
	settle(t, l, l.Nodes...)
}

// TestATypoThatBootsFirst serves alone when the cluster comes: the cluster says NOT
// SERVING, with a proof, until the node is stopped, or an operator decides.
func TestATypoThatBootsFirst(t *testing.T) {
	l := build(t, 3)
	typo, members := l.Nodes[0], l.Nodes[1:]
	typo.Config.Cluster.Name = "lba"
	typo.Config.Cluster.Join = nil
	start(t, typo)
	settle(t, l, typo)
	start(t, members...)
	for _, n := range members {
		keepsOut(t, n, "this cluster's address is served already, by nodes that are none of this cluster: "+typo.Addr.String(),
			"it is proved: "+typo.MAC().String()+" has answered", "`peervip serve --despite "+typo.Addr.String()+"`")
		if out := run(t, n, "status"); !strings.HasPrefix(out, "NOT SERVING") {
			t.Errorf("%s: %s", n.Name, out)
		}
	}
	notWell(t, typo, members[0], "name")
	clients := listen(t, l)
	if by := clients.allServed(t); count(by, typo) != len(by) {
		t.Errorf("%s serves %d of %d clients", typo.Name, count(by, typo), len(by))
	}
	must(t, typo.Stop(patiently(t)))
	settle(t, l, members...)
	clients.allServed(t)
	clients.Stop()

	// And the other way: an operator decides, and the other node of the cluster follows.
	for _, n := range members {
		must(t, n.Stop(patiently(t)))
	}
	start(t, typo)
	settle(t, l, typo)
	start(t, members...)
	keepsOut(t, members[0], "served already")
	keepsOut(t, members[1], "served already")
	if out := run(t, members[0], "serve", "--despite", typo.Addr.String()); !strings.Contains(out, "no longer keep "+members[0].Name+" from serving") {
		t.Error(out)
	}
	settle(t, l, members...)
}

// TestAHealedCableBetweenTwoClusters that serve the same address: both go on, and both
// are not well.
func TestAHealedCableBetweenTwoClusters(t *testing.T) {
	l := build(t, 4, func(i int, c *lab.AgentConfig) {
		c.Cluster.Join = []string{"10.77.0.11", "10.77.0.12"}
		if i >= 2 {
			c.Cluster.Name, c.Cluster.Join = "two", []string{"10.77.0.13", "10.77.0.14"}
		}
	})
	one, two := l.Nodes[:2], l.Nodes[2:]
	must(t, l.Partition(lab.All, names(one...), names(two...)))
	start(t, l.Nodes...)
	settle(t, l, one...)
	settle(t, l, two...)
	must(t, l.Heal())
	for _, n := range one {
		notWell(t, n, two[0], "name")
		notWell(t, n, two[1], "name")
		says(t, n, "clients get answers of both, and their connections break")
	}
	for _, n := range two {
		notWell(t, n, one[0], "name")
		notWell(t, n, one[1], "name")
	}
	// Who restarts has a peer that serves, and serves again.
	must(t, one[0].Restart())
	settle(t, l, one...)
	settle(t, l, two...)
	for _, n := range l.Nodes {
		if log := n.Log(); strings.Contains(log, "giving up all buckets") {
			t.Errorf("%s has given up", n.Name)
		}
	}
}

// foreignBeacons sends beacons that the test makes from a host that runs no agent.
func foreignBeacons(t *testing.T, host *lab.Namespace, from netip.Addr, mac net.HardwareAddr, datagram func(seq uint64) []byte) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	began := time.Now()
	go func() {
		_, err := host.Flood(ctx, "eth0", 50, func(int) []byte {
			return toTheVIP(t, from, mac, datagram(uint64(time.Hour/time.Microsecond)+uint64(time.Since(began)/time.Microsecond)))
		})
		done <- err
	}()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	return stop
}

// toTheVIP is a beacon's frame.
func toTheVIP(t *testing.T, from netip.Addr, mac net.HardwareAddr, payload []byte) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 255, Protocol: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: lab.VIP.AsSlice()}
	udp := &layers.UDP{SrcPort: lab.BeaconPort, DstPort: lab.BeaconPort}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		panic(err)
	}
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: mac, DstMAC: net.HardwareAddr{1, 0, 0x5e, 0x7f, 0, 100}, EthernetType: layers.EthernetTypeIPv4}, ip, udp, gopacket.Payload(payload))
	if err != nil {
		panic(err)
	}
	return buffer.Bytes()
}

// laterBeacon is a beacon of format 9, of which this program can read the head alone.
func laterBeacon(cluster string, key []byte, serves bool) func(seq uint64) []byte {
	return func(seq uint64) []byte {
		be := binary.BigEndian
		b := append([]byte("pvub"), 9, 8, 9, 0)
		if serves {
			b[7] = 4
		}
		b = be.AppendUint64(b, xxhash.Sum64String(cluster))
		b = be.AppendUint64(b, 4711)
		b = be.AppendUint64(b, seq)
		b = append(b, "what a later program has to say"...)
		sign := hmac.New(sha256.New, key)
		sign.Write(b)
		return sign.Sum(b)
	}
}

// TestAnotherFormat: a node of another cluster that speaks a later format is a stranger
// all the same; one of this cluster is a member that cannot be understood, and keeps a node
// from starting alone.
func TestAnotherFormat(t *testing.T) {
	l := build(t, 2)
	for _, n := range l.Nodes {
		n.Config.Cluster.Join = nil
	}
	host, addrs, err := l.Stranger(1)
	must(t, err)
	mac := net.HardwareAddr{0x02, 0x77, 0, 0, 0, 0xfd}
	text, err := os.ReadFile(l.Nodes[0].Config.Cluster.KeyFile)
	must(t, err)
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	must(t, err)
	derived, err := hkdf.Key(sha256.New, key, nil, "peervip beacon", sha256.Size)
	must(t, err)
	address := addrs[0].String() + " (" + mac.String()

	stop := foreignBeacons(t, host, addrs[0], mac, laterBeacon("lab", make([]byte, 32), true))
	start(t, l.Nodes[0])
	keepsOut(t, l.Nodes[0], "this cluster's address is served already, by nodes that are none of this cluster: "+addrs[0].String()+" (another key; format 9, and this program reads 1 to 2)", address+", another key; format 9",
		"run versions that are nearer to each other", "it may be forged: nobody has answered three echo requests")
	stop()
	settle(t, l, l.Nodes[0])

	stop = foreignBeacons(t, host, addrs[0], mac, laterBeacon("lab", derived, true))
	says(t, l.Nodes[0], "a member that cannot be understood is on the wire: "+addrs[0].String())
	if phase, _ := problemsOf(t, l.Nodes[0]); phase != "active" {
		t.Errorf("who serves is %s", phase)
	}
	must(t, l.Nodes[0].Stop(patiently(t)))
	start(t, l.Nodes[1])
	keepsOut(t, l.Nodes[1], "a member that cannot be understood sends beacons: "+addrs[0].String()+" (format 9, and this program reads 1 to 2)", address)
	stop()
	settle(t, l, l.Nodes[1])
}
