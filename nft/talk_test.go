package nft

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peervip/peervip/e2e/lab"
)

const talkPort = 8000 // TCP and UDP: whatever comes is answered with the node's name before it

// serveTalk answers on the VIP, until the test ends.
func serveTalk(t testing.TB, ns *lab.Namespace, name string) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	err := ns.Do(func() (err error) {
		if tcp, err = net.Listen("tcp4", netip.AddrPortFrom(vip, talkPort).String()); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp4", netip.AddrPortFrom(vip, talkPort).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			all.Go(func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					fmt.Fprintf(conn, "%s %s\n", name, lines.Text())
				}
			})
		}
	})
	all.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			udp.WriteTo(append([]byte(name+" "), buf[:n]...), from)
		}
	})
	t.Cleanup(func() {
		tcp.Close()
		udp.Close()
		mu.Lock()
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
}

// talker is a client's open connection, TCP or UDP.
type talker struct {
	net.Conn
	answers *bufio.Reader
	said    int
}

// talk opens a connection from the client's address.
func (w *wire) talk(network string, from netip.Addr) (*talker, error) {
	var local net.Addr = &net.TCPAddr{IP: from.AsSlice()}
	if network == "udp4" {
		local = &net.UDPAddr{IP: from.AsSlice()}
	}
	var conn net.Conn
	err := w.client.Do(func() (err error) {
		dialer := net.Dialer{Timeout: soon, LocalAddr: local}
		conn, err = dialer.Dial(network, netip.AddrPortFrom(vip, talkPort).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { conn.Close() })
	return &talker{Conn: conn, answers: bufio.NewReader(conn)}, nil
}

// ask says who answers the next line; "" and no error: nobody in that time.
func (c *talker) ask(within time.Duration) (string, error) {
	c.said++
	line := fmt.Sprintf("line %d\n", c.said)
	if _, err := c.Write([]byte(line)); err != nil {
		return "", err
	}
	c.SetReadDeadline(time.Now().Add(within))
	for {
		answer, err := c.answers.ReadString('\n')
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		if name, said, ok := strings.Cut(answer, " "); ok && said == line {
			return name, nil
		}
	}
}

// asked says who answers over the connection.
func asked(t testing.TB, c *talker) string {
	t.Helper()
	who, err := c.ask(soon)
	if err != nil {
		return err.Error()
	}
	return who
}

// datagrams counts the answers to datagrams that are sent from an address all the
// time.
type datagrams struct {
	conn    net.Conn
	done    chan struct{}
	all     sync.WaitGroup
	mu      sync.Mutex
	sent    int
	answers map[string]int // by number
	by      map[string]int // by node
}

// sendsDatagrams sends one each interval, until stop.
func (w *wire) sendsDatagrams(from netip.Addr, interval time.Duration) *datagrams {
	w.t.Helper()
	c, err := w.talk("udp4", from)
	if err != nil {
		w.t.Fatal(err)
	}
	d := &datagrams{conn: c.Conn, done: make(chan struct{}), answers: map[string]int{}, by: map[string]int{}}
	d.all.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-d.done:
				return
			case <-tick.C:
			}
			fmt.Fprint(d.conn, n)
			d.mu.Lock()
			d.sent++
			d.mu.Unlock()
		}
	})
	d.all.Go(func() {
		buf := make([]byte, 100)
		for {
			n, err := d.conn.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // a refusal of the moment
			}
			who, number, _ := strings.Cut(string(buf[:n]), " ")
			d.mu.Lock()
			d.answers[number]++
			d.by[who]++
			d.mu.Unlock()
		}
	})
	w.t.Cleanup(d.stop)
	return d
}

// answeredBy forgets who answered, waits for the next answer, and says whose it is.
func (d *datagrams) answeredBy(t testing.TB) string {
	t.Helper()
	d.mu.Lock()
	clear(d.by)
	d.mu.Unlock()
	var who []string
	eventually(t, "a datagram is answered", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		for name := range d.by {
			who = append(who, name)
		}
		return len(who) > 0
	})
	return strings.Join(who, ", ")
}

func (d *datagrams) stop() {
	select {
	case <-d.done:
		return
	default:
	}
	close(d.done)
	time.Sleep(second) // for a second answer to the last one
	d.conn.Close()
	d.all.Wait()
}

// twice is how many datagrams were answered more than once. It stops the sending.
func (d *datagrams) twice() int {
	d.stop()
	n := 0
	for _, answers := range d.answers {
		if answers > 1 {
			n++
		}
	}
	return n
}
