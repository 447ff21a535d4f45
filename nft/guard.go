package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// guardPrint is how the guard is recognised: the handles of its rules, which the
// kernel gives anew to every rule that is made, by table and chain.
type guardPrint map[string][]uint64

func printKey(t *nftables.Table, chain string) string { return fmt.Sprint(t.Family, " ", chain) }

func printOf(rules []*nftables.Rule) guardPrint {
	p := guardPrint{}
	for _, r := range rules {
		key := printKey(r.Table, r.Chain.Name)
		p[key] = append(p[key], r.Handle)
	}
	return p
}

// guards are the tables of the guard: those that outlive their maker.
func (r Ruleset) guards() []table {
	return slices.DeleteFunc(slices.Clone(r.tables), func(t table) bool { return t.owned })
}

// EnsureGuard puts the guard back if somebody removed or changed it, as `nft
// flush ruleset` does, and says whether it had to. It is cheap enough to be
// called every second. The counters of a guard put back start from 0.
func (f *Filter) EnsureGuard() (restored bool, err error) {
	const doing = "keeping the guard in place"
	switch {
	case f.conn == nil:
		return false, fmt.Errorf("%s: %w", doing, ErrClosed)
	case f.guard == nil:
		return false, fmt.Errorf("%s: %w", doing, ErrGone)
	}
	guards := f.rules.guards()
	whole := true
	for _, guard := range guards {
		here, err := f.guardIsWhole(guard)
		if err != nil {
			return false, fmt.Errorf("%s: %w", doing, err)
		}
		whole = whole && here
	}
	if whole {
		return false, nil
	}
	var rules []*nftables.Rule
	err = f.transact(func() error {
		old, err := f.present(guards)
		if err != nil {
			return err
		}
		for _, t := range old {
			f.conn.DelTable(t)
		}
		rules = nil
		for _, guard := range guards {
			made, err := guard.create(f.conn, contents{})
			if err != nil {
				return err
			}
			rules = append(rules, made...)
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("%s: %w", doing, err)
	}
	f.guard = printOf(rules)
	return true, nil
}

// guardIsWhole compares the guard in the kernel, rule by rule, with the one that
// was made. Its set needs no look: the kernel lets nobody change a constant set
// in use.
func (f *Filter) guardIsWhole(guard table) (bool, error) {
	t, err := f.conn.ListTableOfFamily(guard.name, libraryFamily[guard.family])
	if errors.Is(err, unix.ENOENT) || (err == nil && t.Flags != 0) { // gone, or put to sleep
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for table %s: %w", guard, err)
	}
	for _, c := range guard.chains {
		rules, err := f.conn.GetRules(t, &nftables.Chain{Name: c.name})
		if err != nil {
			return false, fmt.Errorf("listing the rules of table %s, chain %s: %w", guard, c.name, err)
		}
		var handles []uint64
		for _, r := range rules {
			handles = append(handles, r.Handle)
		}
		if !slices.Equal(handles, f.guard[printKey(t, c.name)]) {
			return false, nil
		}
	}
	return true, nil
}
