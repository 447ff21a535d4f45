package link

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// notices is a subscription to the kernel's notices of changes. *nl.NetlinkSocket
// is one.
type notices interface {
	Receive() ([]syscall.NetlinkMessage, *unix.SockaddrNetlink, error)
	Close()
}

// subscribe opens the notices of changed interfaces and addresses.
func subscribe() (notices, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribing to changes of interfaces and addresses: %w", err)
	}
	return socket, nil
}

// hear subscribes, unless a subscription is alive.
func (w *watch) hear() error {
	if w.events.alive() {
		return nil
	}
	w.events.close()
	notices, err := w.subscribe()
	if err != nil {
		return err
	}
	w.events = w.read(func() { w.listen(notices) }, notices.Close)
	return nil
}

// listen turns notices into nudges, until they fail for good. Notices that the
// socket had no room for (ENOBUFS) are no loss: the state is read anyway.
func (l *Link) listen(notices notices) {
	for {
		messages, _, err := notices.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return // the next look subscribes again
		}
		for _, m := range messages {
			l.heed(m)
		}
		l.nudge()
	}
}

// heed takes from a notice that our interface was deleted, or moved to another
// network namespace. One that comes back may have the same index, but it has
// forgotten its groups and the sockets on it.
func (l *Link) heed(m syscall.NetlinkMessage) {
	if m.Header.Type != unix.RTM_DELLINK || len(m.Data) < unix.SizeofIfInfomsg {
		return
	}
	info := nl.DeserializeIfInfomsg(m.Data)
	// A bridge tells of a port that it loses with the same type and another family.
	if info.Family == unix.AF_UNSPEC && int(info.Index) == l.seen.Load().index {
		l.deleted.Store(true)
	}
}
