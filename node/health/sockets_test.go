package health

import (
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// refusedPort returns an address of loopback where nobody listens: a socket
// holds the port without listening, so that nobody else can get it meanwhile.
func refusedPort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", address.(*unix.SockaddrInet4).Port)
}

// shrinkBacklog lets at most one connection wait to be accepted.
func shrinkBacklog(t *testing.T, listener syscall.RawConn) {
	t.Helper()
	var err error
	if e := listener.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
}
