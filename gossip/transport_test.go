package gossip

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// A peer that accepts a connection and then says nothing does not hold up the end.
func TestShutdownEndsOpenConnections(t *testing.T) {
	checkLeaks(t)
	addrs := loopback()
	silent, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addrs(2)))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	tr, err := listen(addrs(1), nobody, dialDirect, newLimitedLog(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	out, err := tr.DialTimeout(addrs(2).String(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	caller, err := net.Dial("tcp", addrs(1).String())
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	in := <-tr.StreamCh()
	ended := make(chan error, 2)
	for _, c := range []net.Conn{out, in} {
		go func() {
			_, err := c.Read(make([]byte, 1))
			ended <- err
		}()
	}
	if err := tr.Shutdown(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("an open connection ended with %v", err)
		}
	}
	if _, err := tr.DialTimeout(addrs(2).String(), time.Hour); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dialling after shutdown: %v", err)
	}
	if err := tr.Shutdown(); err != nil {
		t.Errorf("second shutdown: %v", err)
	}
}

// memberlist forgets a connection when its first write fails.
func TestAFailedWriteEndsTheConnection(t *testing.T) {
	checkLeaks(t)
	addrs := loopback()
	near, far := net.Pipe()
	dial := func(context.Context, *net.Dialer, string) (net.Conn, error) { return near, nil }
	tr, err := listen(addrs(1), nobody, dial, newLimitedLog(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Shutdown()
	c, err := tr.DialTimeout(addrs(2).String(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	far.Close()
	if _, err := c.Write([]byte("label")); err == nil {
		t.Fatal("the write did not fail")
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.conns) != 0 {
		t.Error("the connection is still kept")
	}
}
