package nft

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/node"
)

func destroy(t testing.TB, ns *lab.Namespace, pick func(Flow) bool) Destroyed {
	t.Helper()
	var done Destroyed
	err := ns.Do(func() (err error) {
		done, err = Destroy([]netip.Addr{vip}, pick)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// holder accepts connections to the address and says when they end, and how.
func holder(t testing.TB, ns *lab.Namespace, network, addr string) (ends <-chan error) {
	t.Helper()
	var listener net.Listener
	err := ns.Do(func() (err error) {
		listener, err = net.Listen(network, addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 100)
	var all sync.WaitGroup
	var open []net.Conn
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			open = append(open, conn)
			all.Go(func() {
				conn.Write([]byte("hello\n"))
				_, err := conn.Read(make([]byte, 100))
				ended <- err
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		for _, conn := range open {
			conn.Close()
		}
		all.Wait()
	})
	return ended
}

// opens opens a connection in the namespace and reads its greeting.
func opens(t testing.TB, ns *lab.Namespace, from, to string) net.Conn {
	t.Helper()
	var conn net.Conn
	err := ns.Do(func() (err error) {
		dialer := net.Dialer{Timeout: soon, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err = dialer.Dial("tcp4", to)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(soon))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatalf("greeted with %q: %v", line, err)
	}
	return conn
}

func isOpen(conn net.Conn) bool {
	conn.SetReadDeadline(time.Now().Add(second))
	_, err := conn.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// At the end of a drain both ends learn that their connection is over, whatever
// kind of socket the server has; everything else goes on.
func TestDestroyEndsThePickedConnectionsAtBothEnds(t *testing.T) {
	s := testSpec()
	s.Services[0].Linger = LingerTCP
	w := newWire(t, 1)
	ns := w.nodes[0]
	f := installed(t, ns, s)
	commit(t, f, allBuckets(s, node.Own)...)
	const port, dualPort = ":5000", ":5001"
	ends := holder(t, ns, "tcp4", "0.0.0.0"+port)
	dualEnds := holder(t, ns, "tcp", "[::]"+dualPort)
	cut := map[string]net.Conn{
		"IPv4": opens(t, w.client, clientAddr(0).String(), vip.String()+port),
		"dual": opens(t, w.client, clientAddr(0).String(), vip.String()+dualPort),
	}
	half := opens(t, w.client, clientAddr(0).String(), vip.String()+port)
	if err := half.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := <-ends; err == nil || err.Error() != "EOF" {
		t.Fatal(err)
	}
	cut["half closed"] = half
	stay := map[string]net.Conn{
		"another client":            opens(t, w.client, clientAddr(1).String(), vip.String()+port),
		"to the node's own address": opens(t, w.client, clientAddr(0).String(), "10.77.0.1"+port),
		"the node's own":            opens(t, ns, vip.String(), vip.String()+port),
	}
	commit(t, f, allBuckets(s, node.Linger)...)
	eventually(t, "conntrack knows that they are open", func() bool {
		live := 0
		for _, flow := range flows(t, ns, vip) {
			if flow.Live {
				live++
			}
		}
		return live == 4
	})

	got := destroy(t, ns, func(f Flow) bool {
		return f.Protocol == unix.IPPROTO_TCP && (f.Client.Addr() == clientAddr(0) || f.Client.Addr() == vip)
	})
	if got != (Destroyed{Sockets: 3}) {
		t.Errorf("%+v, want 3 sockets, which leave no live flow", got)
	}
	for what, conn := range cut {
		conn.SetReadDeadline(time.Now().Add(soon))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the client reads %v, want a reset", what, err)
		}
	}
	for _, server := range []<-chan error{ends, dualEnds} {
		if err := <-server; !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("the server reads %v, want an abort", err)
		}
	}
	for what, conn := range stay {
		if !isOpen(conn) {
			t.Errorf("%s: the connection does not go on", what)
		}
	}
	commit(t, f, allBuckets(s, node.Own)...)
	opens(t, w.client, clientAddr(0).String(), vip.String()+port) // it still listens
	opens(t, w.client, clientAddr(0).String(), vip.String()+dualPort)
}

// The kernel would take the server that listens for the connection that has just
// ended, were it not for the cookie.
func TestDestroyOfAConnectionThatIsGoneSparesTheServer(t *testing.T) {
	w := newWire(t, 1)
	ns := w.nodes[0]
	f := installed(t, ns, testSpec())
	commit(t, f, allBuckets(testSpec(), node.Own)...)
	holder(t, ns, "tcp4", "0.0.0.0:5000")
	conn := opens(t, w.client, clientAddr(0).String(), vip.String()+":5000")
	err := ns.Do(func() error {
		socket, err := openNetlink(unix.NETLINK_SOCK_DIAG)
		if err != nil {
			return err
		}
		defer socket.close()
		var found []connection
		if err := socket.connections(unix.AF_INET, vip, func(c connection) bool {
			found = append(found, c)
			return true
		}); err != nil {
			return err
		}
		if len(found) != 1 || found[0].client.Addr() != clientAddr(0) || found[0].vip != netip.AddrPortFrom(vip, 5000) {
			t.Fatalf("found %+v", found)
		}
		for i, want := range []bool{true, false} {
			if got, err := socket.destroy(found[0]); got != want || err != nil {
				t.Errorf("time %d: destroyed %t, error %v", i+1, got, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	opens(t, w.client, clientAddr(0).String(), vip.String()+":5000")
}

// What has no socket here, but perhaps in a container, is forgotten by conntrack.
func TestDestroyForgetsFlowsWithoutASocket(t *testing.T) {
	ns := trackingHost(t)
	tcp, other, udp := flowOf(clientAddr(0), unix.IPPROTO_TCP), flowOf(clientAddr(1), unix.IPPROTO_TCP), flowOf(clientAddr(2), unix.IPPROTO_UDP)
	track(t, ns, 3, tcp, other, udp)
	got := destroy(t, ns, func(f Flow) bool { return f.Client.Addr() != clientAddr(1) })
	if got != (Destroyed{Flows: 2}) {
		t.Errorf("%+v, want 2 flows", got)
	}
	if left := flows(t, ns, vip); len(left) != 1 || left[0].Client != other.Client {
		t.Errorf("left are %+v", left)
	}
}

func TestProbeDestroy(t *testing.T) {
	ns := namespace(t, "p")
	if err := ns.Do(ProbeDestroy); err != nil {
		t.Error(err)
	}
	want := "the kernel lacks the closing of connections from outside (SOCK_DESTROY), for the end of a drain: it needs Linux 4.5 or later, built with CONFIG_INET_DIAG_DESTROY: use a newer or fuller kernel (it answered: operation not supported)"
	if got := cannotDestroy(unix.EOPNOTSUPP); got.Error() != want {
		t.Errorf("message %q, want %q", got, want)
	}
	if got := cannotDestroy(unix.EPERM); got != ErrNotPermitted {
		t.Errorf("without a capability: %v", got)
	}
}

func FuzzParseConnection(f *testing.F) {
	f.Add(make([]byte, diagMessageSize))
	f.Add(append([]byte{unix.AF_INET6, 1}, make([]byte, diagMessageSize)...))
	f.Add([]byte{unix.AF_INET})
	f.Fuzz(func(t *testing.T, msg []byte) {
		c, err := parseConnection(msg)
		if err == nil && (!c.client.Addr().IsValid() || !c.vip.Addr().IsValid()) {
			t.Errorf("%x: a connection without addresses: %+v", msg, c)
		}
	})
}
