package health

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A check that asks this very host is answered by its kernel, at once: a refusal there
// says that nobody listens, and not that the network is slow.
const (
	// refusedEvery is how often a check is tried that was refused here.
	refusedEvery = 100 * time.Millisecond
	// refusedFor is how long it must be refused to be unfit: longer than a service takes
	// to be started again.
	refusedFor = time.Second
	// lookEvery is how often the kernel is asked whether somebody still listens, so that
	// the end of a service is seen before the next try.
	lookEvery = 100 * time.Millisecond
)

// notHere is the failure of a check that asks a VIP which is not on this host: others
// would answer.
type notHere struct{ vip netip.Addr }

func (e *notHere) Error() string { return e.vip.String() + " is not on this host yet" }

// keepHere makes a connection to a VIP end at this host, where it must be.
func keepHere(vips []netip.Addr, address string, raw syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !slices.Contains(vips, to.Addr().Unmap()) {
		return nil // what cannot be parsed is not to an address, and fails by itself
	}
	if !isHere(to.Addr()) {
		return &notHere{to.Addr().Unmap()}
	}
	return errors.Join(raw.Control(func(socket uintptr) {
		err = unix.BindToDevice(int(socket), "lo")
	}), err)
}

// isHere reports whether the address is one of this host.
func isHere(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return true
	}
	list, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(list, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		own, ok := netip.AddrFromSlice(n.IP)
		return ok && own.Unmap() == addr.Unmap()
	})
}

// asks is the address and port that the check asks, if its target has them in figures.
func (c Check) asks() (netip.AddrPort, bool) {
	hostPort := c.Target
	if c.Type == HTTP {
		u, err := url.Parse(c.Target)
		if err != nil {
			return netip.AddrPort{}, false
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		hostPort = net.JoinHostPort(u.Hostname(), port)
	}
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil || c.Type == Exec {
		return netip.AddrPort{}, false
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	number, errPort := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), err == nil && errPort == nil
}

// refusedHere reports whether the check asks this host and was refused by it.
func (c Check) refusedHere(err error) bool {
	if !errors.Is(err, unix.ECONNREFUSED) {
		return false
	}
	to, ok := c.asks()
	return ok && isHere(to.Addr())
}

// Misled names the checks that pass at an address of this host, while nobody listens at
// their port on an address of the VIPs, which is here too: its clients are refused all the
// same. A check may have a port of its own, beside those that clients come to: it is not
// named where the program that answers it listens on the VIP at another one. Each is one
// line with the cure.
func (m *Monitor) Misled(vips []netip.Addr) (lines []string) {
	for i, r := range m.Results() {
		to, ok := m.checks[i].asks()
		if !ok || !r.OK || slices.Contains(vips, to.Addr()) || !isHere(to.Addr()) {
			continue
		}
		if there, err := Listens(to); err != nil || !there {
			continue // a rule translates it, and may translate the VIP's too
		}
		for _, vip := range vips {
			at := netip.AddrPortFrom(vip, to.Port())
			if listens, err := Listens(at); vip.Is4() != to.Addr().Is4() || !isHere(vip) || err != nil || listens {
				continue
			}
			if all, err := m.listeners(); err == nil && !hasItsOwnPort(all, to, vip) {
				lines = append(lines, fmt.Sprintf("the check %s passes, and nobody listens on %s, so clients are refused: let the server listen there or on all addresses, and check the VIP", r.Check, at))
			}
		}
	}
	return lines
}
