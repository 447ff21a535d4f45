package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(asDoomedLab) != "" {
		doomedLab()
	}
	goleak.VerifyTestMain(m)
}

// asDoomedLab in the environment makes the test binary a lab that waits to be
// killed.
const asDoomedLab = "PEERVIP_TEST_DOOMED_LAB"

// doomedLab prints its namespace and its child, and waits.
func doomedLab() {
	ns, err := NewNamespace(UniquePrefix() + "n")
	if err != nil {
		panic(err)
	}
	p, err := startProcess(ns, exec.Command("sleep", "60"))
	if err != nil {
		panic(err)
	}
	fmt.Println(ns.Name, p.pid())
	<-p.done
}

func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// newLab makes a lab whose nodes share the VIP by rules loaded by hand: node i
// takes the sources whose hash modulo the number of nodes is i.
func newLab(t *testing.T, nodes, sources int) *Lab {
	t.Helper()
	l, err := New(t.Context(), Config{Nodes: nodes, Sources: sources})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	must(t, l.Client.Do(func() error {
		return exec.Command("ip", "neigh", "replace", VIP.String(), "lladdr", clusterMAC, "dev", "eth0", "nud", "permanent").Run()
	}))
	for _, n := range l.Nodes {
		joinByHand(t, n)
		own(t, n, n.Index)
	}
	return l
}

const clusterMAC = "01:00:5e:7f:00:64"

func joinByHand(t *testing.T, n *Node) {
	t.Helper()
	must(t, n.NS.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0o644) }))
	_, err := n.NS.Run("ip", "address", "add", VIP.String()+"/32", "dev", "lo", "scope", "host")
	must(t, err)
}

// own has the node take these buckets and drop the others.
func own(t *testing.T, n *Node, buckets ...int) {
	t.Helper()
	elements := make([]string, len(buckets))
	for i, b := range buckets {
		elements[i] = fmt.Sprintf("%d : accept", b)
	}
	verdict := "drop"
	if len(buckets) > 0 {
		verdict = fmt.Sprintf("meta pkttype set host jhash ip saddr mod %d seed 0x1234 vmap { %s }; ether daddr %s ip daddr %s drop",
			len(n.lab.Nodes), strings.Join(elements, ", "), clusterMAC, VIP)
	}
	script := fmt.Sprintf(`table netdev hand
delete table netdev hand
table netdev hand {
 chain ingress {
  type filter hook ingress device eth0 priority 0
  ether daddr %s ip daddr %s %s
 }
}
`, clusterMAC, VIP, verdict)
	nft(t, n.NS, script)
}

// nft loads a script in the namespace, in one transaction.
func nft(t *testing.T, ns *Namespace, script string) {
	t.Helper()
	must(t, ns.Do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s in\n%s", err, out, script)
		}
		return nil
	}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// during measures a window while do runs.
func (l *Lab) during(do func()) Window {
	from := l.Now()
	do()
	return Window{from, l.Now()}
}
