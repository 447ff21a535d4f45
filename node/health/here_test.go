package health

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func listenOn(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func portOf(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }

func TestListens(t *testing.T) {
	at := func(addr string, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
	}
	one := listenOn(t, "tcp4", "127.0.0.1:0")
	all := listenOn(t, "tcp4", "0.0.0.0:0")
	both := listenOn(t, "tcp", "[::]:0") // takes IPv4 too
	gone := listenOn(t, "tcp4", "127.0.0.1:0")
	conn, err := net.Dial("tcp", gone.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	gone.Close() // a connection lives on
	for _, test := range []struct {
		at   netip.AddrPort
		want bool
	}{
		{at("127.0.0.1", portOf(one)), true},
		{at("127.0.0.2", portOf(one)), false},
		{at("127.0.0.2", portOf(all)), true},
		{at("127.0.0.1", portOf(both)), true},
		{at("::1", portOf(both)), true},
		{at("::1", portOf(all)), false},
		{at("127.0.0.1", portOf(gone)), false},
	} {
		if got, err := Listens(test.at); err != nil || got != test.want {
			t.Errorf("%s: %t, %v; want %t", test.at, got, err, test.want)
		}
	}
}

// monitorOf runs checks and returns what it reports.
func monitorOf(t *testing.T, checks []Check, vips ...netip.Addr) <-chan bool {
	t.Helper()
	m, err := New(checks, discard(), vips...)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan bool, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- m.Run(ctx, func(fit bool, _ string) { told <- fit }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return told
}

func verdict(t *testing.T, told <-chan bool, want bool) {
	t.Helper()
	select {
	case got := <-told:
		if got != want {
			t.Fatalf("fit: %t", got)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("no report")
	}
}

// TestStoppedServiceIsFoundInASecond, whatever interval and fall say; and one that is
// started again within a second is not noticed at all.
func TestStoppedServiceIsFoundInASecond(t *testing.T) {
	long := Options{Interval: new(time.Hour), Timeout: new(20 * time.Second), Fall: new(1000)}
	for _, kind := range []string{"tcp", "http"} {
		l := listenOn(t, "tcp4", "127.0.0.1:0")
		addr := l.Addr().String()
		serve := func(l net.Listener) *http.Server {
			s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
			go s.Serve(l)
			return s
		}
		server := serve(l)
		o := long.tcp(addr)
		if kind == "http" {
			o = long.http("http://" + addr + "/")
		}
		c, err := o.Parse()
		if err != nil {
			t.Fatal(err)
		}
		told := monitorOf(t, []Check{c})
		verdict(t, told, true)
		time.Sleep(3 * lookEvery) // it is seen to listen
		server.Close()
		time.Sleep(refusedFor / 3) // a restart
		server = serve(listenOn(t, "tcp4", addr))
		select {
		case <-told:
			t.Errorf("%s: a restart was taken for an end", kind)
		case <-time.After(2 * refusedFor):
		}
		server.Close()
		stopped := time.Now()
		verdict(t, told, false)
		if took := time.Since(stopped); took < refusedFor || took > refusedFor+10*time.Second {
			t.Errorf("%s: unfit after %v", kind, took)
		} else {
			t.Logf("%s: unfit after %v", kind, took)
		}
	}
}

// TestRefusedAtTheStart: nobody waits a second for what has never worked.
func TestRefusedAtTheStart(t *testing.T) {
	l := listenOn(t, "tcp4", "127.0.0.1:0")
	l.Close()
	c, err := Options{Interval: new(time.Hour), Timeout: new(20 * time.Second), Fall: new(1000)}.tcp(l.Addr().String()).Parse()
	if err != nil {
		t.Fatal(err)
	}
	verdict(t, monitorOf(t, []Check{c}), false)
}

// TestRefusedElsewhere: what another host refuses counts by fall and interval.
func TestRefusedElsewhere(t *testing.T) {
	for target, want := range map[string]bool{
		"127.0.0.1:80": true, "localhost:80": true, "[::1]:80": true, "198.51.100.7:80": false, "example.org:80": false,
	} {
		c := Check{Type: TCP, Target: target}
		if got := c.refusedHere(unix.ECONNREFUSED); got != want {
			t.Errorf("%s: %t", target, got)
		}
		if c.refusedHere(errors.New("no connection within 1s")) {
			t.Errorf("%s: what is late is not refused", target)
		}
	}
	for target, want := range map[string]string{
		"http://127.0.0.1/healthz": "127.0.0.1:80", "https://[2001:db8::1]/": "[2001:db8::1]:443", "http://localhost:8080/": "127.0.0.1:8080", "http://web/": "",
	} {
		got, ok := Check{Type: HTTP, Target: target}.asks()
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s asks %s, %t", target, got, ok)
		}
	}
}

// TestCheckOfTheVIP: until the VIP is on this host its check says nothing, or
// it would be another node that passes it; and then this host answers.
func TestCheckOfTheVIP(t *testing.T) {
	l := listenOn(t, "tcp4", "127.0.0.77:0")
	vip := netip.MustParseAddr("127.0.0.77")
	quick := Options{Interval: new(20 * time.Second), Timeout: new(20 * time.Second)}
	here, err := quick.tcp(l.Addr().String()).Parse()
	if err != nil {
		t.Fatal(err)
	}
	verdict(t, monitorOf(t, []Check{here}, vip), true)
	elsewhere := netip.MustParseAddr("198.51.100.77")
	c, err := quick.http("http://198.51.100.77/").Parse()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case fit := <-monitorOf(t, []Check{c}, elsewhere):
		t.Errorf("fit %t, by the check of an address that is not here", fit)
	case <-time.After(5 * lookEvery):
	}
	ask, free := newProbe(c, elsewhere)
	defer free()
	if err := ask(t.Context()); err == nil || !strings.Contains(err.Error(), "198.51.100.77 is not on this host yet") {
		t.Errorf("%v", err)
	}
}

// TestMisledCheck: the server listens where the check asks, and not on the VIP.
func TestMisledCheck(t *testing.T) {
	one := listenOn(t, "tcp4", "127.0.0.1:0")
	all := listenOn(t, "tcp4", "0.0.0.0:0")
	vip := netip.MustParseAddr("127.0.0.9")
	quick := Options{Interval: new(20 * time.Second), Timeout: new(20 * time.Second)}
	var checks []Check
	for _, port := range []uint16{portOf(one), portOf(all)} {
		c, err := quick.tcp(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String()).Parse()
		if err != nil {
			t.Fatal(err)
		}
		checks = append(checks, c)
	}
	m, err := New(checks, discard(), vip)
	if err != nil {
		t.Fatal(err)
	}
	// Whatever else listens on the host of the tests.
	m.listeners = func() ([]listener, error) { return nil, nil }
	if lines := m.Misled([]netip.Addr{vip}); len(lines) > 0 {
		t.Errorf("before any check has passed: %q", lines)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	told := make(chan bool, 10)
	go func() { done <- m.Run(ctx, func(fit bool, _ string) { told <- fit }) }()
	verdict(t, told, true)
	lines := m.Misled([]netip.Addr{vip, netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("::1")})
	if len(lines) != 1 || !strings.Contains(lines[0], netip.AddrPortFrom(vip, portOf(one)).String()) {
		t.Errorf("%q", lines)
	}
	// The program listens on the VIP at another port: the one that is asked is for checks.
	m.listeners = listeners
	if lines := m.Misled([]netip.Addr{vip}); len(lines) > 0 {
		t.Errorf("a check with a port of its own: %q", lines)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListeners(t *testing.T) {
	var want []netip.AddrPort
	for network, address := range map[string]string{"tcp4": "127.0.0.9:0", "tcp6": "[::1]:0"} {
		want = append(want, netip.MustParseAddrPort(listenOn(t, network, address).Addr().String()))
	}
	v6 := listenOn(t, "tcp6", "[::]:0")
	want = append(want, netip.AddrPortFrom(netip.IPv6Unspecified(), portOf(v6)))
	all, err := listeners()
	if err != nil {
		t.Fatal(err)
	}
	programs := map[uint64]bool{}
	for _, at := range want {
		i := slices.IndexFunc(all, func(l listener) bool { return l.at == at })
		if i < 0 {
			t.Fatalf("nobody listens at %s: %v", at, all)
		}
		programs[all[i].program] = true
	}
	if len(programs) != 1 {
		t.Errorf("this process is %d programs", len(programs))
	}
}

// TestACheckWithAPortOfItsOwn: its program's other listeners decide.
func TestACheckWithAPortOfItsOwn(t *testing.T) {
	asked, vip := netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddr("192.0.2.100")
	at := func(text string, program uint64) listener { return listener{netip.MustParseAddrPort(text), program} }
	for _, test := range []struct {
		all  []listener
		want bool
	}{
		{nil, false},
		{[]listener{at("127.0.0.1:8080", 1)}, false},
		{[]listener{at("127.0.0.1:8080", 1), at("0.0.0.0:22", 2)}, false},
		{[]listener{at("127.0.0.1:8080", 1), at("127.0.0.1:80", 1), at("192.0.2.11:80", 1)}, false},
		{[]listener{at("127.0.0.1:8080", 1), at("192.0.2.100:80", 1)}, true},
		{[]listener{at("127.0.0.1:8080", 1), at("0.0.0.0:80", 1)}, true},
		{[]listener{at("127.0.0.1:8080", 1), at("[::]:80", 1)}, true},
		{[]listener{at("127.0.0.2:8080", 1), at("0.0.0.0:80", 1)}, false},
	} {
		if got := hasItsOwnPort(test.all, asked, vip); got != test.want {
			t.Errorf("%v: %t", test.all, got)
		}
	}
}
