package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
)

// packetFilter is the kernel's part, as nft.Filter plays it. One goroutine uses it.
type packetFilter interface {
	Counters() (nft.Counters, error)
	EnsureGuard() (restored bool, err error)
	Reinstall() error
	leaseFilter
}

// leaseFilter is what of it has to do with the lease and beacons.
type leaseFilter interface {
	Apply(nft.Transaction) (armed bool, err error)
	DropLease() error
	LeaseLeft() (left time.Duration, held bool, err error)
	KeepWays(held bool) error
	SetPeers([]netip.Addr) error
}

// guardPeriod is how often the guard is looked for, and what failed is tried again.
const guardPeriod = time.Second

// While a commit waits for a passing obstacle, such as another program that changes rules,
// the lease goes first: the kernel goroutine looks for what is to be done about it after
// each commitTurn, for commitPatience at the most.
const (
	commitTurn     = 20 * time.Millisecond
	commitPatience = 2 * time.Second
)

// sureTries is how often a commit is repeated whose answer the kernel has lost.
const sureTries = 3

// kernel is the goroutine that owns the packet filter: it commits, counts, and
// looks after the rules.
type kernel struct {
	filter  packetFilter
	log     *slog.Logger
	report  kernelReport
	look    time.Duration            // see guardPeriod
	cut     func(hashring.Set) error // ends the flows of these slots
	lease   lessee
	holds   time.Duration // for how long the kernel keeps the lease without a beacon
	drops   chan struct{} // the lease is to be dropped, before all else
	arms    chan struct{} // it may have to be armed
	looks   chan struct{} // beacons are to be counted
	commits chan node.Commit
	peers   chan []netip.Addr // the last ones
	counts  chan chan<- counted
	renewal chan uint64 // the last one asked for
	ended   chan struct{}
}

// lessee is whom the kernel goroutine asks about the lease, as beacons are.
type lessee interface {
	mayArm() (began node.Time, by time.Time, ok bool)
	armed(began node.Time, armed bool)
	dropped()
	lapsed()
	looked(nft.BeaconCounters, error)
}

// kernelReport is told what becomes of the rules, from the kernel goroutine.
type kernelReport interface {
	committed(node.Committed)
	// renewed: the rules are in place again, as of that renewal, or why not yet.
	renewed(renewal uint64, err error)
	// guarded: why the guard may be missing; nil: it is there.
	guarded(err error)
}

type counted struct {
	counters nft.Counters
	err      error
}

func newKernel(filter packetFilter, log *slog.Logger, report kernelReport) *kernel {
	return &kernel{
		filter: filter, log: log, report: report, look: guardPeriod,
		drops: make(chan struct{}, 1), arms: make(chan struct{}, 1), looks: make(chan struct{}, 1), peers: make(chan []netip.Addr, 1),
		commits: make(chan node.Commit, 1), counts: make(chan chan<- counted), renewal: make(chan uint64, 1),
		ended: make(chan struct{}),
	}
}

// run ends with the context, or when the rules are gone for good: then the node
// claims what it does not serve, and nothing but a new start helps. Any other
// failure may pass, and while it lasts the rules stand as they are.
func (k *kernel) run(ctx context.Context) error {
	defer close(k.ended)
	look := time.NewTicker(k.look)
	defer look.Stop()
	var renewal uint64 // to be done; 0: none
	var failing error  // of the guard
	for {
		err := k.gone(k.dropFirst())
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.drops:
			err = k.dropLease()
		case <-k.arms:
			err = k.armLease()
		case <-k.looks:
			var c nft.Counters
			c, err = k.filter.Counters()
			k.lease.looked(c.Beacons, err)
		case addrs := <-k.peers:
			if err = k.filter.SetPeers(addrs); err != nil {
				k.log.Warn("beacons of members may be counted as those of strangers", "error", err)
			}
		case answer := <-k.counts:
			var c counted
			c.counters, c.err = k.filter.Counters()
			answer <- c
			err = c.err
		case c := <-k.commits:
			err = k.commit(c)
		case renewal = <-k.renewal:
			renewal, err = k.renewRules(renewal)
		case <-look.C:
			if renewal > 0 {
				renewal, err = k.renewRules(renewal)
			} else {
				err = errors.Join(k.lookAfterLease(), k.lookAfterGuard(&failing))
			}
		}
		if err = k.gone(err); err != nil {
			return err
		}
	}
}

// gone is the error after which the rules are gone for good; nil: they are not.
func (k *kernel) gone(err error) error {
	if errors.Is(err, nft.ErrGone) || errors.Is(err, nft.ErrClosed) {
		return fmt.Errorf("this node serves nothing any more: %w", err)
	}
	return nil
}

// ask asks for what a channel of the kernel's is for. It never waits; asked twice is
// asked once.
func (k *kernel) ask(work chan struct{}) {
	select {
	case work <- struct{}{}:
	default:
	}
}

// dropFirst drops the lease if that was asked for.
func (k *kernel) dropFirst() error {
	select {
	case <-k.drops:
		return k.dropLease()
	default:
		return nil
	}
}

func (k *kernel) dropLease() error {
	err := k.filter.DropLease()
	if err != nil {
		k.log.Warn("the lease could not be dropped; it runs out by itself", "error", err)
	}
	k.lease.dropped()
	return err
}

// armLease arms the lease if it still may be.
func (k *kernel) armLease() error {
	began, by, ok := k.lease.mayArm()
	if !ok {
		return nil
	}
	armed, err := k.filter.Apply(nft.Transaction{ArmBy: by})
	if err != nil {
		k.log.Warn("the lease could not be armed, and will be tried again", "error", err)
	}
	k.lease.armed(began, armed)
	return err
}

// lookAfterLease asks the kernel for the lease: somebody may have deleted it, or a
// beacon that prolongs it may have failed to.
func (k *kernel) lookAfterLease() error {
	_, held, err := k.filter.LeaseLeft()
	if err != nil {
		return err
	}
	if !held {
		k.lease.lapsed()
	}
	return k.filter.KeepWays(held)
}

// setPeers has beacons from these addresses counted. It never waits; only the last
// request counts. It is for one goroutine at a time.
func (k *kernel) setPeers(addrs []netip.Addr) {
	select {
	case <-k.peers:
	default:
	}
	k.peers <- addrs
}

func (k *kernel) commit(c node.Commit) error {
	changes := make([]nft.Change, len(c.Changes))
	for i, ch := range c.Changes {
		changes[i] = nft.Change{Service: ch.Service, Bucket: ch.Bucket, State: ch.State}
	}
	if !c.Cut.Empty() {
		if err := k.cutMeanwhile(c.Cut); err != nil {
			k.log.Warn("not all flows whose time is over could be ended; they break without a word", "error", err)
		}
	}
	t := nft.Transaction{Changes: changes, List: filterFlows(c.List), Unlist: filterFlows(c.Unlist), Rewrite: c.Probe, Patience: commitTurn}
	err := k.apply(t)
	// The core takes an error for "nothing has changed", so the outcome must be certain:
	// after a lost answer the same transaction makes it so, for it rewrites everything.
	for range sureTries {
		if !errors.Is(err, nft.ErrUncertain) {
			break
		}
		err = k.apply(t)
	}
	if errors.Is(err, nft.ErrUncertain) {
		dropErr := k.dropLease() // what may have been taken is not answered for
		k.lease.lapsed()         // and to arm it anew rewrites everything
		if dropErr != nil {
			// No beacon prolongs it any more. Before it has run out nobody must believe that
			// nothing has changed.
			time.Sleep(k.holds)
		}
		err = errors.Join(err, dropErr)
	}
	k.report.committed(node.Committed{ID: c.ID, Err: err})
	return err
}

// apply makes a transaction. What is to be done about the lease does not wait for it.
func (k *kernel) apply(t nft.Transaction) error {
	for deadline := time.Now().Add(commitPatience); ; {
		k.leaseFirst()
		_, err := k.filter.Apply(t)
		if !errors.Is(err, nft.ErrBusy) || time.Now().After(deadline) {
			return err
		}
	}
}

// leaseFirst drops the lease or arms it, if that was asked for. What is wrong with the
// rules shows in what comes next.
func (k *kernel) leaseFirst() {
	_ = k.dropFirst()
	select {
	case <-k.arms:
		_ = k.armLease()
	default:
	}
}

// cutMeanwhile ends the flows of these slots, which is a walk over all sockets. The lease does
// not wait for that.
func (k *kernel) cutMeanwhile(slots hashring.Set) error {
	done := make(chan error, 1)
	go func() { done <- k.cut(slots) }()
	for {
		select {
		case err := <-done:
			return err
		case <-k.drops:
			_ = k.dropLease()
		case <-k.arms:
			_ = k.armLease()
		}
	}
}

// renewRules returns the renewal that is still to be done.
func (k *kernel) renewRules(renewal uint64) (uint64, error) {
	err := k.filter.Reinstall()
	if err == nil {
		k.lease.lapsed() // there is none with new rules
	}
	k.report.renewed(renewal, err)
	if err != nil {
		return renewal, err
	}
	k.log.Info("the interface is back, and the packet filter in place")
	return 0, nil
}

// lookAfterGuard puts the guard back. It is the second line only: when it cannot,
// the first one stands.
func (k *kernel) lookAfterGuard(failing *error) error {
	restored, err := k.filter.EnsureGuard()
	if restored {
		k.log.Warn("somebody removed the table peervip_guard, perhaps by `nft flush ruleset`; it is back")
	}
	if (err == nil) != (*failing == nil) || err != nil && err.Error() != (*failing).Error() {
		k.report.guarded(err)
	}
	*failing = err
	return err
}

// renew asks for the rules anew. It never waits; only the last request counts. It
// is for one goroutine.
func (k *kernel) renew(renewal uint64) {
	select {
	case <-k.renewal:
	default:
	}
	k.renewal <- renewal
}

// counters asks the kernel goroutine.
func (k *kernel) counters(ctx context.Context) (nft.Counters, error) {
	answer := make(chan counted, 1)
	select {
	case k.counts <- answer:
	case <-k.ended:
		return nft.Counters{}, errors.New("counting packets: this agent is stopping")
	case <-ctx.Done():
		return nft.Counters{}, fmt.Errorf("counting packets: %w", ctx.Err())
	}
	c := <-answer // who took the question answers it
	return c.counters, c.err
}
