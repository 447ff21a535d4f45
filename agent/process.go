package agent

import (
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/peervip/peervip/node/link"
)

// gcPercent has the heap collected every 8 MB instead of every 4 MB: a collection
// stops all threads twice, the one that sends beacons among them. An agent at rest
// lives on 2 MB, and collects a few times a minute.
const gcPercent = 200

// memoryLimit has garbage collected sooner while much of it is made in a short time:
// the memory is locked, so the machine does not get it back soon. No agent needs a
// quarter of it.
const memoryLimit = 512 << 20

// Tune makes this process fit to send beacons on time on a busy machine: its memory is
// locked, its threads go before others, and garbage is collected seldom and at a quiet
// moment. It is for the start of the program, once. The error says what was refused,
// and is for Options.Untuned: an agent runs without, and may be late.
func Tune() error {
	debug.SetGCPercent(gcPercent)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	go func() {
		for s := newSweeper(); ; time.Sleep(time.Second) {
			s.sweep() // that a change begins just then is a matter of one in a hundred
		}
	}()
	return errors.Join(link.LockMemory(), link.TuneProcess())
}

// litter is how much garbage is collected at a quiet moment. A change of a third of the
// buckets makes some 2 MB, and a collection in its midst would take longer than the
// change: the runtime's own comes at two to three times as much.
const litter = 3 << 20

// sweeper collects garbage before the runtime does.
type sweeper struct {
	samples [2]metrics.Sample
	swept   uint64 // what had been allocated when the last collection was noticed
	cycles  uint64
}

func newSweeper() *sweeper {
	return &sweeper{samples: [2]metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}}
}

// sweep collects garbage if there is litter since the last collection, whoever's that
// was.
func (s *sweeper) sweep() {
	metrics.Read(s.samples[:])
	allocated, cycles := s.samples[0].Value.Uint64(), s.samples[1].Value.Uint64()
	switch {
	case cycles != s.cycles:
		s.swept = allocated
	case allocated-s.swept >= litter:
		runtime.GC()
		s.swept = allocated
		cycles++
	}
	s.cycles = cycles
}
