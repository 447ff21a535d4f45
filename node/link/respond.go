package link

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// responder answers ARP for the VIPs. It hears by a socket of its own, which Go's poller
// does not know: see intake.
type responder struct {
	*Link
	socket int
	intake *intake
	send   *packet.Conn

	warned time.Time // when a conflict was last logged
	budget float64   // of answers, at the time
	at     time.Time
}

// Every node answers, each request that it hears. Who sends more than so many a second
// is no client, and whoever is one asks again. Of those that came together the last are
// answered, and each client once.
const (
	answersASecond = 2000
	answersAtOnce  = 200
	// requestsAtOnce is how many are read with one call.
	requestsAtOnce = 64
)

func (l *Link) openResponder(device device) (_ *responder, err error) {
	r := &responder{Link: l, budget: answersAtOnce, at: time.Now()}
	// A packet socket of protocol 0 hears nothing.
	on := &net.Interface{Index: device.index, Name: l.config.Interface, HardwareAddr: device.mac.hardware()}
	if r.send, err = packet.Listen(on, packet.Raw, 0, nil); err != nil {
		return nil, fmt.Errorf("opening a packet socket for ARP on %s: %w", l.config.Interface, err)
	}
	if r.socket, err = hearARP(device.index, l.config.VIPs); err != nil {
		return nil, errors.Join(fmt.Errorf("opening a packet socket for ARP on %s: %w", l.config.Interface, err), r.send.Close())
	}
	if r.intake, err = newIntake(r.socket, requestsAtOnce, snapLength, 0); err != nil {
		return nil, errors.Join(err, unix.Close(r.socket), r.send.Close())
	}
	return r, nil
}

// hearARP opens a packet socket for the ARP frames that matter. One that is bound to
// ETH_P_ARP costs other packets nothing. It hears nothing before it has its filter.
func hearARP(index int, vips []netip.Addr) (int, error) {
	filter, err := bpf.Assemble(arpFilter(vips))
	if err != nil {
		return -1, fmt.Errorf("assembling the ARP filter for %d VIPs: %w", len(vips), err)
	}
	program := make([]unix.SockFilter, len(filter))
	for i, f := range filter {
		program[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err == nil {
		err = unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: index})
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(socket))
	}
	return socket, nil
}

// run answers what the socket hears, until the intake ends or fails; then look opens
// another.
func (r *responder) run() {
	defer r.send.Close()
	defer unix.Close(r.socket)
	defer r.intake.close()
	for {
		n, err := r.intake.read()
		if errors.Is(err, unix.ENETDOWN) {
			continue // told once; the socket hears again when the interface is up
		}
		if err != nil || n == 0 {
			return
		}
		r.take(n)
	}
}

// take looks at the frames of one read, the newest first.
func (r *responder) take(n int) {
	now := time.Now()
	r.budget = min(answersAtOnce, r.budget+now.Sub(r.at).Seconds()*answersASecond)
	r.at = now
	var done [requestsAtOnce]arpFrame // the answers
	answers := done[:0]
	for i := n - 1; i >= 0; i-- {
		frame, err := parseARP(r.intake.content(i))
		if err != nil {
			continue // not ours to judge
		}
		if r.note(frame, now.Sub(r.warned) > conflictEvery) {
			r.warned = now
		}
		reply, why := r.speaker.Load().answer(frame)
		if why != answered || slices.Contains(answers, reply) {
			continue
		}
		if r.budget < 1 {
			continue // what comes with it may still be worth a note
		}
		r.budget--
		answers = append(answers, reply)
		if err := transmit(r.send, reply); err != nil {
			r.log.Debug("an ARP request stays unanswered", "client", frame.senderIP, "error", err)
		}
	}
}

func transmit(conn *packet.Conn, frame arpFrame) error {
	_, err := conn.WriteTo(frame.bytes(), &packet.Addr{HardwareAddr: frame.dst.hardware()})
	if err != nil {
		return fmt.Errorf("sending an ARP frame for %s to %s: %w", frame.targetIP, frame.dst, err)
	}
	return nil
}

// note takes from a frame what it tells of the wire. It returns true if it logged a
// conflict, which it does only if told to warn.
func (l *Link) note(frame arpFrame, warn bool) bool {
	if frame.isAnswerTo(l.seen.Load().mac) {
		l.heard.Store(true)
	}
	if !frame.claims(l.config.VIPs, l.config.MAC.addr) {
		return false
	}
	conflict := &ConflictError{VIP: frame.senderIP, MAC: frame.senderMAC.hardware(), Cluster: l.config.MAC}
	l.claimed.Store(&claim{conflict, time.Now()})
	select {
	case l.challenged <- struct{}{}:
	default: // known already
	}
	if warn {
		l.log.Warn(conflict.Error())
	}
	return warn
}

// claim is a frame by which another host took a VIP for its own.
type claim struct {
	conflict *ConflictError
	at       time.Time
}

// Conflict returns the last conflict that was heard within that time; nil: there was
// none. It is heard while Run runs.
func (l *Link) Conflict(within time.Duration) error {
	if c := l.claimed.Load(); c != nil && time.Since(c.at) < within {
		return c.conflict
	}
	return nil
}

// conflictEvery is how often a VIP that others claim is a line in the log.
const conflictEvery = time.Minute

// defence has the VIPs announced when another host has claimed one, so that who believed
// it is right again within about a second (RFC 5227 2.4). Each node waits for a moment
// of its own before it does so, and at least defendEvery before it does so again: of
// two who both insist, none floods the segment.
type defence struct {
	due  <-chan time.Time // nil: nothing is to be announced
	last time.Time
}

const (
	defendEvery  = time.Second
	defendJitter = 50 * time.Millisecond
)

func (d *defence) wake(now time.Time) {
	if d.due == nil {
		d.due = time.After(max(0, d.last.Add(defendEvery).Sub(now)) + rand.N(defendJitter))
	}
}

func (d *defence) done(now time.Time) { d.due, d.last = nil, now }

// announce sends gratuitous ARP for every VIP, if the link is up and works.
func (w *watch) announce() {
	speaker := w.speaker.Load()
	if speaker == nil || w.send == nil || !w.seen.Load().working() {
		return
	}
	for _, vip := range speaker.vips {
		w.report("sending gratuitous ARP for "+vip.String(), transmit(w.send, speaker.announcement(vip)))
	}
}
