package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/node"
)

var (
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("the packet filter is closed")
	// ErrGone says that the kernel no longer has the tables: the connection that
	// owned them is dead, or they were never installed. The node serves nothing.
	ErrGone = errors.New("the packet filter's tables are gone from the kernel")
	// ErrUncertain says that the kernel's answer to a transaction was lost.
	ErrUncertain = errors.New("the kernel's answer was lost")
	// ErrBusy says that only a passing obstacle was in the way, for all the patience.
	ErrBusy = errors.New("the kernel may take it a little later")
	// ErrLate says that the lease was armed later than it may be.
	ErrLate = errors.New("the lease was armed too late")
)

const (
	// patience is how long an obstacle that should pass is waited for: the tables
	// of an agent that has just died (10-30 ms), or deleted elements that the
	// kernel has yet to free.
	patience = 2 * time.Second
	// sendLimit is the largest transaction, in bytes. It reserves nothing. One
	// bucket's move takes about 400, in two tables.
	sendLimit = 256 << 20
	// receiveLimit is for answers: 1 KB for each rule that is made.
	receiveLimit = 8 << 20
)

// states are the states of all buckets, by service and bucket.
type states [][]node.State

// Filter holds this node's packet filter in the kernel. The owner tables live as
// long as its netlink connection, which is not to be shared: a Filter belongs to
// one goroutine.
type Filter struct {
	conn      *nftables.Conn // nil when closed
	port      uint32         // the connection's netlink port, by which the kernel names owners
	room      int            // the most bytes that the kernel takes at a time
	rules     Ruleset
	contents       // what the kernel has
	uncertain bool // the kernel may have other buckets and lists
	open      bool // other ways in may have their permission (KeepWays)
	guard     guardPrint
}

// contents are what the tables hold beside the rules.
type contents struct {
	committed states              // nil until Install
	listed    lists               // of buckets in Adopt and Linger
	peers     map[netip.Addr]bool // nil: perhaps something else
}

// usable says why the filter cannot be used, if it cannot.
func (f *Filter) usable() error {
	switch {
	case f.conn == nil:
		return ErrClosed
	case f.committed == nil:
		return ErrGone
	}
	return nil
}

// Open connects to the packet filter of the network namespace that the calling
// thread is in. It changes nothing.
func Open() (*Filter, error) {
	room := 0
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(prepareSocket, func(c *netlink.Conn) (err error) {
		room, err = c.WriteBuffer()
		return err
	}))
	if err != nil {
		return nil, fmt.Errorf("opening a netlink connection to the packet filter: %w", err)
	}
	port, err := conn.GetPortID()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("asking for the netlink port: %w", err), conn.CloseLasting())
	}
	return &Filter{conn: conn, port: port, room: room}, nil
}

func prepareSocket(c *netlink.Conn) error {
	// The kernel then says in words what it dislikes.
	if err := c.SetOption(netlink.ExtendedAcknowledge, true); err != nil {
		return fmt.Errorf("asking netlink for errors in words: %w", err)
	}
	if err := c.SetWriteBuffer(sendLimit); err != nil {
		return fmt.Errorf("setting the netlink send limit: %w", err)
	}
	if err := c.SetReadBuffer(receiveLimit); err != nil {
		return fmt.Errorf("setting the netlink receive limit: %w", err)
	}
	return nil
}

// Install puts the rules into the kernel, in one transaction, with every bucket
// in state none, no peers and no lease. Rules of an earlier Install, an abandoned
// guard, and tables of our name that nobody owns are replaced. If another agent
// owns the tables it waits a moment for that agent to be gone, then says so and
// has changed nothing.
//
// Since Linux 6.16 the kernel takes rules for an interface that does not exist:
// whoever calls must have looked.
func (f *Filter) Install(rules Ruleset) error {
	none := make(states, len(rules.spec.Services))
	for i := range none {
		none[i] = make([]node.State, rules.spec.Layout.Buckets)
	}
	return f.install(rules, rules.tables, contents{committed: none, listed: lists{}, peers: map[netip.Addr]bool{}})
}

// InstallGuard puts the guard of these rules alone into the kernel, as Install does:
// the host may have the VIPs from then on, and keeps silent until Install.
func (f *Filter) InstallGuard(rules Ruleset) error {
	return f.install(rules, rules.guards(), contents{})
}

// Reinstall puts the same rules into the kernel again, in one transaction, with
// the buckets in the states last committed, and the listed flows and peers; the
// counters start from 0, and there is no lease. It is for an interface that was
// deleted and made again: the kernel may have removed the chain with it.
func (f *Filter) Reinstall() error {
	if f.committed == nil {
		return fmt.Errorf("reinstalling the packet filter: %w", ErrGone)
	}
	return f.install(f.rules, f.rules.tables, f.contents)
}

// install makes those of the tables, the guard among them, unless another agent owns some.
func (f *Filter) install(rules Ruleset, tables []table, with contents) error {
	const doing = "installing the packet filter"
	if f.conn == nil {
		return fmt.Errorf("%s: %w", doing, ErrClosed)
	}
	if err := rules.fits(f.room); err != nil {
		return err
	}
	var guard []*nftables.Rule
	err := f.transact(func() error {
		if _, err := f.present(rules.tables); err != nil { // another agent's
			return err
		}
		old, err := f.present(tables)
		if err != nil {
			return err
		}
		for _, t := range old {
			f.conn.DelTable(t)
		}
		guard = nil
		for _, t := range tables {
			made, err := t.create(f.conn, with)
			if err != nil {
				return err
			}
			if !t.owned {
				guard = append(guard, made...)
			}
		}
		return nil
	})
	if errors.Is(err, ErrUncertain) {
		f.rules = rules // Close must remove what may be there
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	f.rules, f.contents, f.uncertain, f.open = rules, with, false, false
	f.guard = printOf(guard)
	return nil
}

// present returns those of the tables that the kernel has and that are ours to
// delete; one that belongs to somebody else is an errOwned.
func (f *Filter) present(tables []table) ([]*nftables.Table, error) {
	all, err := f.conn.ListTables()
	if errors.Is(err, unix.EPERM) {
		return nil, ErrNotPermitted
	}
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	var ours []*nftables.Table
	for _, t := range tables {
		i := slices.IndexFunc(all, func(k *nftables.Table) bool {
			return k.Name == t.name && k.Family == libraryFamily[t.family]
		})
		if i < 0 {
			continue
		}
		if owner := all[i].Owner; owner != 0 && owner != f.port {
			return nil, errOwned{t.String(), owner}
		}
		ours = append(ours, all[i])
	}
	return ours, nil
}

type errOwned struct {
	table string
	port  uint32
}

func (e errOwned) Error() string {
	return fmt.Sprintf("another peervip agent runs on this host: netlink port %d (often its process id) owns table %s: stop it first, or run this one in a network namespace of its own", e.port, e.table)
}

// State returns the bucket's state as last committed. It is an error of the
// caller to ask for a bucket that there is not, or before Install.
func (f *Filter) State(service, bucket int) node.State { return f.committed[service][bucket] }

// Withdraw deletes the owner tables in one transaction: the guard now silences
// the VIP. It is the first half of Close, for a caller that takes the VIP from
// the node before the guard goes.
func (f *Filter) Withdraw() error {
	const doing = "withdrawing the packet filter"
	if f.conn == nil {
		return fmt.Errorf("%s: %w", doing, ErrClosed)
	}
	owned := slices.DeleteFunc(slices.Clone(f.rules.tables), func(t table) bool { return !t.owned })
	if err := f.remove(owned); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	f.committed = nil
	return nil
}

// Close removes everything from the kernel, the guard last, and ends the
// connection. A guard that another agent has already taken over stays. Close may
// be called again.
func (f *Filter) Close() error {
	if f.conn == nil {
		return nil
	}
	err := f.Withdraw()
	if guardErr := f.remove(f.rules.tables); guardErr != nil && !errors.As(guardErr, new(errOwned)) {
		err = errors.Join(err, fmt.Errorf("removing the guard: %w", guardErr))
	}
	err = errors.Join(err, f.conn.CloseLasting())
	f.conn = nil
	return err
}

// Abandon ends the connection. The owner tables go with it; the guard stays and
// silences the VIP, until the next Install takes it over.
func (f *Filter) Abandon() error {
	if f.conn == nil {
		return nil
	}
	err := errors.Join(f.Withdraw(), f.conn.CloseLasting())
	f.conn = nil
	return err
}

// remove deletes those of the tables that are there.
func (f *Filter) remove(tables []table) error {
	there, err := f.present(tables)
	if err != nil {
		return err
	}
	for _, t := range there {
		f.conn.DelTable(t)
	}
	return explain(f.conn.Flush())
}
