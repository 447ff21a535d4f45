package gossip

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"
)

func nobody(netip.Addr) bool { return false }

// door is a transport whose streams nobody reads but the test.
func door(t *testing.T, known func(netip.Addr) bool) (*transport, netip.AddrPort) {
	t.Helper()
	checkLeaks(t)
	at := loopback()(1)
	tr, err := listen(at, known, dialDirect, newLimitedLog(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Shutdown() })
	tr.calls.mu.Lock()
	tr.calls.rate, tr.calls.most = 1e6, 1e6 // who tests it says so
	tr.calls.mu.Unlock()
	return tr, at
}

// caller connects to the address from another one; nil: it was closed at once.
func caller(t *testing.T, from netip.Addr, to netip.AddrPort) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: patience}
	c, err := d.Dial("tcp", to.String())
	if errors.Is(err, syscall.ECONNRESET) {
		return nil // closed before it was seen to be open
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// strangerAt are addresses of 127/8 that loopback() never gives.
func strangerAt(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 255, byte(i >> 8), byte(i + 1)})
}

// isReset waits until the other end has closed the connection.
func isReset(t *testing.T, what string, c net.Conn) {
	t.Helper()
	if c == nil {
		return // at once
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%s: it was answered", what)
	} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Errorf("%s: it is still open", what)
	}
}

// One host may open few connections, however many it tries.
func TestOneStrangerHasFewPlaces(t *testing.T) {
	tr, at := door(t, nobody)
	var in []net.Conn
	for range strangerPlacesEach {
		caller(t, strangerAt(0), at)
		in = append(in, <-tr.StreamCh())
	}
	for range 3 {
		isReset(t, "a fifth connection", caller(t, strangerAt(0), at))
	}
	// Another host is not in its way, and the first has a place again when one ends.
	caller(t, strangerAt(1), at)
	<-tr.StreamCh()
	in[0].Close()
	caller(t, strangerAt(0), at)
	<-tr.StreamCh()
	if got := tr.surplus.Load(); got != 3 {
		t.Errorf("%d connections were too many, want 3", got)
	}
}

// Strangers that hold every place they can get lock nobody out: neither a member, a
// seed, nor a joiner that nobody knows yet.
func TestStrangersLockNobodyOut(t *testing.T) {
	member := strangerAt(1000)
	tr, at := door(t, func(a netip.Addr) bool { return a == member })
	var strangers []net.Conn
	for i := range strangerPlaces {
		strangers = append(strangers, caller(t, strangerAt(i/strangerPlacesEach), at))
		<-tr.StreamCh()
	}
	for range knownPlacesEach {
		caller(t, member, at)
		if in := (<-tr.StreamCh()).(*conn); in.from != member || in.stranger {
			t.Fatalf("the connection of a member is taken for %v's", in.from)
		}
	}
	isReset(t, "one too many of a member", caller(t, member, at))
	joiner := caller(t, strangerAt(2000), at)
	in := (<-tr.StreamCh()).(*conn)
	isReset(t, "the oldest stranger", strangers[0])
	// Once it is answered it stays, whoever comes.
	if _, err := in.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * strangerPlaces {
		caller(t, strangerAt(3000+i), at)
		<-tr.StreamCh()
	}
	if _, err := joiner.Read(make([]byte, 1)); err != nil {
		t.Errorf("the answered joiner was put out: %v", err)
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.strangers) != strangerPlaces || len(tr.conns) != strangerPlaces+knownPlacesEach {
		t.Errorf("%d strangers of %d connections are open", len(tr.strangers), len(tr.conns))
	}
}

// Places are free again when their connections end, however they end.
func TestPlacesAreGivenBack(t *testing.T) {
	tr, at := door(t, nobody)
	for i := range 5 * strangerPlaces {
		out := caller(t, strangerAt(i%7), at)
		in := <-tr.StreamCh()
		if i%2 == 0 {
			out.Close()
			in.Read(make([]byte, 1))
		}
		in.Close()
		in.Close()
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.conns) != 0 || len(tr.places) != 0 || len(tr.strangers) != 0 || tr.surplus.Load() != 0 {
		t.Errorf("left: %d connections, %d places, %d strangers, surplus %d", len(tr.conns), len(tr.places), len(tr.strangers), tr.surplus.Load())
	}
}

// Strangers that come and go cost little, and members do not pay for it.
func TestTheConnectionsOfStrangersAreRationed(t *testing.T) {
	member := strangerAt(1000)
	tr, at := door(t, func(a netip.Addr) bool { return a == member })
	tr.calls.mu.Lock()
	tr.calls.rate, tr.calls.most = 1e-3, 5
	tr.calls.mu.Unlock()
	for i := range 5 {
		caller(t, strangerAt(i), at)
		(<-tr.StreamCh()).Close()
	}
	for i := range 5 {
		isReset(t, "one too many", caller(t, strangerAt(i), at))
	}
	caller(t, member, at)
	(<-tr.StreamCh()).Close()
}

func TestBucket(t *testing.T) {
	now := time.Unix(1000, 0)
	b := bucket{rate: 10, most: 5}
	for i := range 7 {
		if got := b.take(now, 1); got != (i < 5) {
			t.Errorf("the %dth of five: %v", i+1, got)
		}
	}
	if now = now.Add(100 * time.Millisecond); !b.take(now, 1) || b.take(now, 1) {
		t.Error("a tenth of a second is worth one of ten a second")
	}
	if got := b.owe(now, 3); got != 300*time.Millisecond {
		t.Errorf("three more have to wait for %v", got)
	}
	if got := b.owe(now, 1); got != 400*time.Millisecond {
		t.Errorf("and the next for %v", got)
	}
	if b.take(now.Add(300*time.Millisecond), 1) || !b.take(now.Add(600*time.Millisecond), 1) {
		t.Error("what is owed comes first")
	}
}

// What claims to be 20 MB is read up to a bound, and costs no more memory than that.
func TestTheBytesOfAConnectionAreBounded(t *testing.T) {
	for _, known := range []bool{false, true} {
		tr, at := door(t, func(netip.Addr) bool { return known })
		most := map[bool]int{false: strangerBytes, true: knownBytes}[known]
		out := caller(t, strangerAt(0), at)
		in := <-tr.StreamCh()
		go func() {
			for chunk := make([]byte, 64<<10); ; {
				if _, err := out.Write(chunk); err != nil {
					return
				}
			}
		}()
		total := 0
		for buf := make([]byte, 4096); ; {
			n, err := in.Read(buf)
			if total += n; err != nil {
				if !errors.Is(err, errTooMuch) {
					t.Error(err)
				}
				break
			}
		}
		if total != most {
			t.Errorf("known %v: %d bytes were read, want %d", known, total, most)
		}
		in.Close()
		tr.Shutdown()
	}
}

// Who is known may say much, but not all at a time: the third waits for the first.
func TestFewSayMuchAtATime(t *testing.T) {
	tr, at := door(t, func(netip.Addr) bool { return true })
	var in []net.Conn
	for range largeAtOnce + 1 {
		out := caller(t, strangerAt(0), at)
		in = append(in, <-tr.StreamCh())
		go out.Write(make([]byte, largeFrom+1))
	}
	read := func(c net.Conn) error {
		buf := make([]byte, largeFrom+1)
		for n := 0; n < len(buf); {
			m, err := c.Read(buf[n:])
			if err != nil {
				return err
			}
			n += m
		}
		return nil
	}
	for _, c := range in[:largeAtOnce] {
		if err := read(c); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- read(in[largeAtOnce]) }()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	in[0].Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	in[1].Close()
	in[2].Close()
	if len(tr.large) != 0 {
		t.Errorf("%d still hold what the large ones take", len(tr.large))
	}
}

// The way that a stranger without the key made 2 GB of locked memory: many connections,
// each of which claims to bring 20 MB. The node goes on as a member meanwhile.
func TestAFloodOfLargeClaimsCostsLittle(t *testing.T) {
	c := newCluster(t)
	nodes := c.startAll(2)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	claim := append([]byte{244, 4}, "test"...)
	claim = binary.BigEndian.AppendUint32(append(claim, 10), 20<<20)
	stop := make(chan struct{})
	ended := make(chan uint64, 40)
	for i := range cap(ended) {
		go func() {
			var sent uint64
			defer func() { ended <- sent }()
			chunk := make([]byte, 64<<10)
			for {
				select {
				case <-stop:
					return
				default:
				}
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: strangerAt(i).AsSlice()}, Timeout: time.Second}
				out, err := d.Dial("tcp", c.at(2).String())
				if err != nil {
					continue
				}
				out.SetDeadline(time.Now().Add(time.Second))
				for n, err := out.Write(claim); err == nil; n, err = out.Write(chunk) {
					sent += uint64(n)
				}
				out.Close()
			}
		}()
	}
	// Meanwhile a joiner that nobody knows comes in.
	joiner := c.config(3)
	joiner.Seeds = []string{c.at(2).Addr().String()}
	nodes = append(nodes, c.start(joiner))
	meshed(t, nodes...)
	time.Sleep(time.Second)
	runtime.ReadMemStats(&after)
	close(stop)
	var sent uint64
	for range cap(ended) {
		sent += <-ended
	}
	grown := int64(after.HeapSys-after.HeapReleased) - int64(before.HeapSys-before.HeapReleased)
	t.Logf("%d MB were sent; the heap of sender and nodes together has grown by %d MB, %d connections were too many", sent>>20, grown>>20, nodes[1].Stats().Surplus)
	if grown > 64<<20 {
		t.Errorf("the heap has grown by %d MB", grown>>20)
	}
}
