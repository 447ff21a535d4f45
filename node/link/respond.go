package link

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// respond answers what the socket hears, until it is closed or fails; then look
// opens another.
func (l *Link) respond(conn *packet.Conn) {
	buffer := make([]byte, snapLength)
	var warned time.Time
	for {
		n, _, err := conn.ReadFrom(buffer)
		if errors.Is(err, unix.ENETDOWN) {
			continue // told once; the socket hears again when the interface is up
		}
		if err != nil {
			return
		}
		frame, err := parseARP(buffer[:n])
		if err != nil {
			continue // not ours to judge
		}
		if l.note(frame, time.Since(warned) > conflictEvery) {
			warned = time.Now()
		}
		reply, why := l.speaker.Load().answer(frame)
		if why != answered {
			continue
		}
		if err := transmit(conn, reply); err != nil {
			l.log.Debug("an ARP request stays unanswered", "client", frame.senderIP, "error", err)
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
