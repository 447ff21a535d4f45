package nft

import (
	"errors"
	"fmt"
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

// Change is the wish to have a bucket in a state.
type Change struct {
	Service int // index into Spec.Services
	Bucket  int
	State   node.State
}

// states are the states of all buckets, by service and bucket.
type states [][]node.State

// Filter holds this node's packet filter in the kernel. The owner tables live as
// long as its netlink connection, which is not to be shared: a Filter belongs to
// one goroutine.
type Filter struct {
	conn      *nftables.Conn // nil when closed
	port      uint32         // the connection's netlink port, by which the kernel names owners
	rules     Ruleset
	committed states // what the kernel has; nil until Install
	uncertain bool   // the kernel may have something else than committed
	guard     guardPrint
}

// Open connects to the packet filter of the network namespace that the calling
// thread is in. It changes nothing.
func Open() (*Filter, error) {
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(prepareSocket))
	if err != nil {
		return nil, fmt.Errorf("opening a netlink connection to the packet filter: %w", err)
	}
	port, err := conn.GetPortID()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("asking for the netlink port: %w", err), conn.CloseLasting())
	}
	return &Filter{conn: conn, port: port}, nil
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
// in state none. Rules of an earlier Install, an abandoned guard, and tables of
// our name that nobody owns are replaced. If another agent owns the tables it
// waits a moment for that agent to be gone, then says so and has changed nothing.
//
// Since Linux 6.16 the kernel takes rules for an interface that does not exist:
// whoever calls must have looked.
func (f *Filter) Install(rules Ruleset) error {
	none := make(states, len(rules.spec.Services))
	for i := range none {
		none[i] = make([]node.State, rules.spec.Layout.Buckets)
	}
	return f.install(rules, none)
}

// Reinstall puts the same rules into the kernel again, in one transaction, with
// the buckets in the states last committed; the counters start from 0. It is for
// an interface that was deleted and made again: the kernel may have removed the
// chain with it.
func (f *Filter) Reinstall() error {
	if f.committed == nil {
		return fmt.Errorf("reinstalling the packet filter: %w", ErrGone)
	}
	return f.install(f.rules, f.committed)
}

func (f *Filter) install(rules Ruleset, buckets states) error {
	const doing = "installing the packet filter"
	if f.conn == nil {
		return fmt.Errorf("%s: %w", doing, ErrClosed)
	}
	var guard []*nftables.Rule
	err := f.transact(func() error {
		old, err := f.present(rules.tables)
		if err != nil {
			return err
		}
		for _, t := range old {
			f.conn.DelTable(t)
		}
		for _, t := range rules.tables {
			if guard, err = t.create(f.conn, buckets); err != nil { // the guard is the last
				return err
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
	f.rules, f.committed, f.uncertain = rules, buckets, false
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

type move struct {
	service, bucket int
	from, to        node.State
}

// Commit moves buckets to their new states in one transaction over all tables.
// A bucket named twice gets the later state. After an error nothing has changed,
// in the kernel and in what the Filter holds for true, with one exception:
// ErrUncertain, when the kernel's answer was lost; then the next Commit rewrites
// every bucket.
func (f *Filter) Commit(changes []Change) error {
	doing := fmt.Sprintf("committing %d bucket changes", len(changes))
	if f.conn == nil {
		return fmt.Errorf("%s: %w", doing, ErrClosed)
	}
	if f.committed == nil {
		return fmt.Errorf("%s: %w", doing, ErrGone)
	}
	moves, err := f.moves(changes)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if len(moves) == 0 && !f.uncertain {
		return nil
	}
	next := f.committed
	if f.uncertain {
		next = f.committed.after(moves)
	}
	err = f.transact(func() error { return f.queue(moves, next) })
	switch {
	case err == nil:
	case errors.Is(err, ErrUncertain):
		f.uncertain = true
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%s: %w: %w", doing, ErrGone, err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
	for _, m := range moves {
		f.committed[m.service][m.bucket] = m.to
	}
	f.uncertain = false
	return nil
}

// queue queues the moves for every map; when it is not certain what the maps
// hold, it empties them and fills them with next.
func (f *Filter) queue(moves []move, next states) error {
	for _, t := range f.rules.tables {
		lib := t.library()
		for _, m := range t.maps {
			if !f.uncertain {
				if err := m.move(f.conn, lib, moves); err != nil {
					return err
				}
				continue
			}
			set := m.library(lib)
			f.conn.FlushSet(set)
			if err := f.conn.SetAddElements(set, m.elements(next[m.service])); err != nil {
				return err
			}
		}
	}
	return nil
}

// moves returns the changes that change something, each bucket once.
func (f *Filter) moves(changes []Change) ([]move, error) {
	type key struct{ service, bucket int }
	last := make(map[key]node.State, len(changes))
	for _, c := range changes {
		if c.Service < 0 || c.Service >= len(f.committed) {
			return nil, fmt.Errorf("there is no service %d", c.Service)
		}
		if c.Bucket < 0 || c.Bucket >= len(f.committed[c.Service]) {
			return nil, fmt.Errorf("service %s has no bucket %d", f.rules.spec.Services[c.Service].Name, c.Bucket)
		}
		if c.State > node.Linger {
			return nil, fmt.Errorf("bucket %d: there is no %s", c.Bucket, c.State)
		}
		last[key{c.Service, c.Bucket}] = c.State
	}
	moves := make([]move, 0, len(last))
	for k, to := range last {
		if from := f.committed[k.service][k.bucket]; from != to {
			moves = append(moves, move{k.service, k.bucket, from, to})
		}
	}
	return moves, nil
}

func (s states) after(moves []move) states {
	next := make(states, len(s))
	for i := range s {
		next[i] = slices.Clone(s[i])
	}
	for _, m := range moves {
		next[m.service][m.bucket] = m.to
	}
	return next
}

// transact builds a transaction and commits it, again and again while only a
// passing obstacle is in the way.
func (f *Filter) transact(build func() error) error {
	deadline := time.Now().Add(patience)
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := build()
		passing := errors.As(err, new(errOwned))
		// Flush also forgets what was queued, and sends nothing after a builder's error.
		if flushErr := f.conn.Flush(); err == nil {
			// EPERM and EEXIST: tables that appeared after they were listed.
			err = explain(flushErr)
			passing = errors.Is(err, unix.ENFILE) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EEXIST)
		}
		if err == nil || !passing || time.Now().After(deadline) {
			return err
		}
		time.Sleep(wait)
	}
}

// explain tells the kernel's refusal of a transaction, which changes nothing,
// from an answer that was lost on the way.
func explain(err error) error {
	var op *netlink.OpError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOTSOCK):
		return fmt.Errorf("%w: the netlink connection that owns them is dead: %w", ErrGone, err)
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("the kernel has not yet freed the elements deleted before: %w", err)
	case errors.As(err, &op) && op.Op == "receive" && op.Sequence == 0:
		return fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return err
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
