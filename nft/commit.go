package nft

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/node"
)

// Change is the wish to have a bucket in a state.
type Change struct {
	Service int // index into Spec.Services
	Bucket  int
	State   node.State
}

type move struct {
	service, bucket int
	from, to        node.State
}

// Transaction is a change of the filter that happens as a whole or not at all.
type Transaction struct {
	// Changes: a bucket named twice gets the later state.
	Changes []Change
	// ArmBy, unless it is zero, arms the lease: it is held from now on for
	// Spec.ArmFor, whether it was held or not. If the kernel is not done by that time,
	// because another program has it busy, the rest of the transaction is made
	// without: a lease may come neither back nor late.
	ArmBy time.Time
	// List names flows that only the lists can tell apart (LingerAll): for a bucket
	// in Adopt or Yield those that its old owner keeps, for one in Linger or Wary those
	// that this node does. Old and new owner must have the same list. A flow
	// of TCP, SCTP or ICMP, or of a bucket in another state, is passed over. When a
	// bucket changes its state its list is empty; then come Unlist and List.
	List, Unlist []Flow
	// Patience bounds how long a passing obstacle is waited for (ErrBusy); 0: for 2 s.
	Patience time.Duration
	// Rewrite: write every bucket and list anew, though nothing may have changed.
	Rewrite bool
}

// Commit moves buckets to their new states: Apply with nothing else.
func (f *Filter) Commit(changes []Change) error {
	_, err := f.Apply(Transaction{Changes: changes})
	return err
}

// doing says what the transaction is for.
func (t Transaction) doing() string {
	switch {
	case len(t.Changes)+len(t.List)+len(t.Unlist) > 0:
		return fmt.Sprintf("committing %d bucket changes", len(t.Changes))
	case t.Rewrite:
		return "writing all buckets anew"
	case !t.ArmBy.IsZero():
		return "arming the lease"
	}
	return "committing no changes"
}

// Apply makes the transaction, in all tables at once, and says whether it has
// armed the lease. After an error nothing has changed, in the kernel and in what
// the Filter holds for true (State), with two exceptions. ErrUncertain: the
// kernel's answer was lost, and the next transaction rewrites every bucket and
// list. ErrLate: all has changed, and a lease came late and could not be dropped;
// it runs out by itself.
func (f *Filter) Apply(t Transaction) (armed bool, err error) {
	doing := t.doing()
	if err := f.usable(); err != nil {
		return false, fmt.Errorf("%s: %w", doing, err)
	}
	arming := !t.ArmBy.IsZero()
	if arming && f.rules.spec.Lease == 0 {
		return false, fmt.Errorf("%s: the rules were made without a lease that could be armed", doing)
	}
	moves, err := f.moves(t.Changes)
	if err != nil {
		return false, fmt.Errorf("%s: %w", doing, err)
	}
	after := contents{committed: f.committed.after(moves)}
	edit, err := f.editLists(moves, t, after.committed)
	if err != nil {
		return false, fmt.Errorf("%s: %w", doing, err)
	}
	rewrite := t.Rewrite || f.uncertain
	if len(moves) == 0 && edit.empty() && !arming && !rewrite {
		return false, nil
	}
	if rewrite {
		after.listed = f.listed.after(edit)
	}
	err = f.transactAt(cmp.Or(t.Patience, patience), func() (generation uint32, err error) {
		if armed = arming && time.Now().Before(t.ArmBy); armed {
			// A transaction of somebody else's that ours would have to wait for changes
			// the generation, and ours is refused.
			if generation, err = f.generation(); err != nil {
				return 0, err
			}
			if err := f.arm(); err != nil {
				return 0, err
			}
		}
		if permits := f.rules.spec.permits(after.committed); armed || f.open && permits != f.rules.spec.permits(f.committed) {
			if err := f.permit(permits); err != nil {
				return 0, err
			}
		}
		if rewrite {
			return generation, f.queueAll(after)
		}
		return generation, f.queue(moves, edit, after.committed)
	})
	switch {
	case err == nil:
	case errors.Is(err, ErrUncertain):
		f.uncertain = true
		return false, fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, unix.ENOENT):
		return false, fmt.Errorf("%s: %w: %w", doing, ErrGone, err)
	default:
		return false, fmt.Errorf("%s: %w", doing, err)
	}
	f.committed, f.uncertain, f.open = after.committed, false, f.open || armed
	f.listed.apply(edit)
	if armed && time.Now().After(t.ArmBy) {
		if err := f.DropLease(); err != nil {
			return false, fmt.Errorf("%s: %w: %w", doing, ErrLate, err)
		}
		return false, nil
	}
	return armed, nil
}

func (f *Filter) generation() (uint32, error) {
	gen, err := f.conn.GetGen()
	if err != nil {
		return 0, fmt.Errorf("asking for the ruleset's generation: %w", err)
	}
	return gen.ID, nil
}

// queue queues the moves for every map and the edit for every list.
func (f *Filter) queue(moves []move, edit listEdit, after states) error {
	for _, t := range f.rules.tables {
		lib := t.native()
		for _, m := range t.maps {
			if err := m.move(f.conn, lib, moves, after[m.service]); err != nil {
				return err
			}
		}
		if err := edit.queue(f.conn, t); err != nil {
			return err
		}
	}
	return nil
}

// queueAll queues the contents of every map and list, in the place of whatever is
// in them.
func (f *Filter) queueAll(after contents) error { return f.rules.queueAll(f.conn, after) }

func (r Ruleset) queueAll(c *nftables.Conn, after contents) error {
	for _, t := range r.tables {
		lib := t.native()
		for _, m := range t.maps {
			if err := m.rewrite(c, lib, after.committed[m.service]); err != nil {
				return err
			}
		}
		for _, s := range t.lists() {
			set := s.native(lib)
			c.FlushSet(set)
			if err := c.SetAddElements(set, after.listed.elements(s.name)); err != nil {
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
		if c.State > node.Wary {
			return nil, fmt.Errorf("bucket %d: there is no %s", c.Bucket, c.State)
		}
		if s := f.rules.spec.Services[c.Service]; c.State > node.Linger && s.Linger != LingerAll {
			return nil, fmt.Errorf("service %s lists no flows: bucket %d cannot be in %s", s.Name, c.Bucket, c.State)
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
