package agent

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// reports notes when the outcome of a commit was reported.
type reports struct {
	kernelReport
	at  time.Time
	got node.Committed
}

func (r *reports) committed(ev node.Committed) { r.at, r.got = time.Now(), ev }

func bareKernel() (*kernel, *fakeFilter, *reports) {
	f, r := newFakeFilter(), &reports{}
	k := newKernel(f, slog.New(slog.DiscardHandler), r)
	k.lease = fakeLessee{}
	return k, f, r
}

// A refusal says that nothing has changed. If the kernel's answer was lost, and the lease
// cannot be dropped either, the node may serve what it has just taken for as long as the
// lease lasts. The holder takes it back when it hears of the refusal: not before.
func TestARefusalThatMayBeNoneWaitsForTheLease(t *testing.T) {
	for _, dropFails := range []bool{false, true} {
		k, f, r := bareKernel()
		f.lost, k.holds = sureTries+1, 200*time.Millisecond
		if dropFails {
			f.fail["DropLease"] = errFake
		}
		began := time.Now()
		err := k.commit(node.Commit{ID: 7})
		if r.got.ID != 7 || r.got.Err == nil || errors.Is(err, errFake) != dropFails {
			t.Errorf("reported %+v, error %v", r.got, err)
		}
		if waited := r.at.Sub(began); waited >= k.holds != dropFails {
			t.Errorf("the drop fails: %v; reported after %v, and the lease lasts for %v", dropFails, waited, k.holds)
		}
	}
}

// A commit that waits for a passing obstacle holds up neither the end of the lease nor a
// new one.
func TestTheLeaseDoesNotWaitBehindABusyCommit(t *testing.T) {
	k, f, r := bareKernel()
	f.busy = 2
	k.ask(k.arms)
	k.ask(k.drops)
	if err := k.commit(node.Commit{ID: 1, Changes: []node.Change{{Bucket: 1, State: node.Own}}}); err != nil || r.got.Err != nil {
		t.Errorf("%v; reported %+v", err, r.got)
	}
	if want := []string{"DropLease", "Arm", "busy", "busy", "Commit"}; !slices.Equal(f.done, want) {
		t.Errorf("done: %q, want %q", f.done, want)
	}
}

// Nor does one that ends flows first: that is a walk over all sockets of the host.
func TestTheLeaseDoesNotWaitBehindACut(t *testing.T) {
	k, f, _ := bareKernel()
	k.cut = func(hashring.Set) error {
		k.ask(k.drops)
		for f.called("DropLease") == 0 {
			time.Sleep(time.Millisecond)
		}
		k.ask(k.arms)
		for f.called("Arm") == 0 {
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	cut := hashring.NewSet(16)
	cut.Add(3)
	if err := k.commit(node.Commit{ID: 1, Cut: cut}); err != nil {
		t.Error(err)
	}
	if want := []string{"DropLease", "Arm", "Commit"}; !slices.Equal(f.done, want) {
		t.Errorf("done: %q, want %q", f.done, want)
	}
}
