package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Run answers ARP for the VIPs while the link is up, sends gratuitous ARP, watches
// the interface and repairs what Up did. It returns nil when the context is
// cancelled, and changes nothing then: that is Down's part.
//
// notify gets the Status as it is at the start and then each change, one call at a
// time; changes that come faster than notify returns are coalesced, but an outage
// is never left out, however short: what else hangs on the interface, such as rules
// at its ingress, may be gone. What Run cannot do for the moment is a Status with a reason, and tried again
// each second; events of the kernel are only a hint to look.
func (l *Link) Run(ctx context.Context, notify func(Status)) error {
	return l.run(ctx, notify, subscribe)
}

func (l *Link) run(ctx context.Context, notify func(Status), subscribe func() (notices, error)) error {
	tasks, ctx := errgroup.WithContext(ctx)
	w := &watch{Link: l, tasks: tasks, subscribe: subscribe, statuses: make(chan Status, 2), failed: map[string]string{}}
	tasks.Go(func() error { return deliver(ctx, w.statuses, notify) })
	w.loop(ctx)
	w.events.close()
	w.arp.close()
	return tasks.Wait()
}

// watch is the state of one Run. Its goroutine is the one that called Run, and it
// alone opens sockets, so that they are in the network namespace of that
// goroutine's thread; the tasks only use what it has opened.
type watch struct {
	*Link
	tasks     *errgroup.Group
	subscribe func() (notices, error)
	statuses  chan Status // those that were not delivered, coalesced: room for two

	events source // the kernel's notices of changes
	arp    source // the packet socket of the responder
	send   *packet.Conn
	bound  int // the interface that arp is for

	defence defence // of the VIPs

	told   bool // status was given to deliver at least once
	status Status
	asked  *[]netip.Addr     // the targets of Ask that were asked at least once
	failed map[string]string // what fails, and how: logged when it changes, not each second
}

// source is an open socket with the task that reads it. The zero value is closed.
type source struct {
	shut func()
	done chan struct{} // closed when the task has ended
}

// alive says whether somebody still reads.
func (s source) alive() bool {
	if s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// close ends the task and waits for it.
func (s *source) close() {
	if s.done != nil {
		s.shut()
		<-s.done
	}
	*s = source{}
}

// read starts a task that reads until its socket is closed or fails.
func (w *watch) read(task func(), shut func()) source {
	s := source{shut: shut, done: make(chan struct{})}
	w.tasks.Go(func() error {
		defer close(s.done)
		task()
		return nil
	})
	return s
}

func (w *watch) loop(ctx context.Context) {
	slow := time.NewTicker(w.lookEvery)
	defer slow.Stop()
	again := time.NewTicker(w.announceEvery)
	defer again.Stop()
	for {
		w.look()
		if w.asking.Load() != w.asked {
			w.ask()
		}
		select {
		case <-ctx.Done():
			return
		case <-w.kick:
		case <-slow.C:
			w.ask()
		case <-again.C:
			w.announce()
		case <-w.challenged:
			w.defence.wake(time.Now())
		case <-w.defence.due:
			w.defence.done(time.Now())
			w.announce()
		}
	}
}

// look reads the state of the host from the kernel and acts on it.
func (w *watch) look() {
	w.report("listening for changes, looking each second meanwhile", w.hear())
	// Taken before the state is read, or what happens between the two would be forgotten.
	deleted := w.deleted.Swap(false)
	before := w.seen.Load()
	now, err := w.readSight()
	w.report("looking at the interface", err)
	if err != nil {
		if deleted {
			w.deleted.Store(true)
		}
		return
	}
	outage := now.outageSince(before, deleted)
	if outage == "" && before.working() {
		now.carrierSince = before.carrierSince
	} else {
		now.carrierSince = time.Now()
		w.heard.Store(false) // who answered before the loss proves nothing now
	}
	w.seen.Store(&now)
	w.findFaults(&now)

	if deleted {
		w.arp.close()
	}
	status := now.status(w.config, w.chosen)
	err = errors.Join(w.bind(&now), w.repair(&now, deleted))
	if err != nil && status.OK {
		status = Status{Reason: strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	if outage != "" && status.OK {
		w.tell(Status{Reason: fmt.Sprintf("interface %s %s", w.config.Interface, outage)})
	}
	changed := w.tell(status)
	if status.OK && (w.fresh.Swap(false) || changed) {
		w.announce()
	}
}

func (l *Link) readSight() (sight, error) {
	device, err := readDevice(l.config.Interface)
	if err != nil {
		return sight{}, err
	}
	addresses, err := readAddresses()
	if err != nil {
		return sight{}, err
	}
	return newSight(l.config, device, addresses), nil
}

// report logs a failure of something that is tried again, once until it changes.
func (w *watch) report(doing string, err error) {
	if err == nil {
		delete(w.failed, doing)
		return
	}
	if w.failed[doing] != err.Error() {
		w.failed[doing] = err.Error()
		w.log.Warn("failed, and will be tried again: "+doing, "interface", w.config.Interface, "error", err)
	}
}

// bind sees to it that the responder's socket is on the interface that is there now.
func (w *watch) bind(now *sight) error {
	if w.arp.alive() && w.bound == now.index {
		return nil
	}
	w.arp.close()
	w.bound, w.send = 0, nil
	if !now.found {
		return nil
	}
	r, err := w.openResponder(now.device)
	if err != nil {
		return err
	}
	w.bound, w.send = now.index, r.send
	w.arp = w.read(r.run, r.intake.end)
	return nil
}

// listenARP opens a packet socket for the ARP frames that matter. One that is
// bound to ETH_P_ARP costs other packets nothing.
func (l *Link) listenARP(device device) (*packet.Conn, error) {
	filter, err := bpf.Assemble(arpFilter(l.config.VIPs))
	if err != nil {
		return nil, fmt.Errorf("assembling the ARP filter for %d VIPs: %w", len(l.config.VIPs), err)
	}
	on := &net.Interface{Index: device.index, Name: l.config.Interface, HardwareAddr: device.mac.hardware()}
	conn, err := packet.Listen(on, packet.Raw, unix.ETH_P_ARP, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket for ARP on %s: %w", l.config.Interface, err)
	}
	return conn, nil
}
