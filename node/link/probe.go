package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/packet"
)

// The timing of Probe, a quicker version of RFC 5227 section 2.1.1 (three probes,
// 1 to 2 s apart, then 2 s): the whole takes probes*probeEvery.
const (
	probes     = 3
	probeEvery = 300 * time.Millisecond
)

// ConflictError says that another host has a VIP for its own.
type ConflictError struct {
	VIP     netip.Addr
	MAC     net.HardwareAddr // the other's
	Cluster ClusterMAC       // what every node would have answered
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("VIP %s is in use by the host with MAC %s: remove it there, or, if that is a node of this cluster, give all nodes the same spec.mac (here %s)",
		e.VIP, e.MAC, e.Cluster)
}

// Probe asks the segment, for the better part of a second, whether another host
// has one of the VIPs; if so the error is a *ConflictError. Answers with the
// cluster MAC come from the other nodes and are fine. It is for before Up; silence
// proves nothing unless the wire forwards (Heard). Cancelled, it returns the
// context's error; an interface that does not work is an error too.
func (l *Link) Probe(ctx context.Context) error {
	if err := l.probe(ctx); err != nil {
		return fmt.Errorf("probing for the VIPs on %s: %w", l.config.Interface, err)
	}
	return nil
}

func (l *Link) probe(ctx context.Context) (err error) {
	now, err := l.readSight()
	if err != nil {
		return err
	}
	if status := now.status(l.config, l.chosen); !status.OK {
		return errors.New(status.Reason)
	}
	conn, err := l.listenARP(now.device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()

	for range probes {
		for _, vip := range l.config.VIPs {
			if err := transmit(conn, request(now.mac, netip.IPv4Unspecified(), vip)); err != nil {
				return err
			}
		}
		if err := l.hearClaims(ctx, conn, probeEvery); err != nil {
			return err
		}
	}
	return nil
}

// hearClaims listens for a while and returns a *ConflictError for the first claim.
func (l *Link) hearClaims(ctx context.Context, conn *packet.Conn, wait time.Duration) error {
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	// A deadline in the past ends the read when the caller gives up; should it fail,
	// the read ends after the wait.
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buffer := make([]byte, snapLength)
	for {
		n, _, err := conn.ReadFrom(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return ctx.Err() // nil, unless the caller gave up
		}
		if err != nil {
			return err
		}
		frame, err := parseARP(buffer[:n])
		if err == nil && frame.claims(l.config.VIPs, l.config.MAC.addr) {
			return &ConflictError{VIP: frame.senderIP, MAC: frame.senderMAC.hardware(), Cluster: l.config.MAC}
		}
	}
}
