package agent

import (
	"errors"
	"runtime/debug"

	"github.com/peervip/peervip/node/link"
)

// gcPercent has the heap collected every 8 MB instead of every 4 MB: a collection
// stops all threads twice, the one that sends beacons among them. An agent at rest
// lives on 2 MB, and collects a few times a minute.
const gcPercent = 200

// Tune makes this process fit to send beacons on time on a busy machine: its memory is
// locked, its threads go before others, and garbage is collected seldom. It is for
// the start of the program. The error says what was refused, and is for
// Options.Untuned: an agent runs without, and may be late.
func Tune() error {
	debug.SetGCPercent(gcPercent)
	return errors.Join(link.LockMemory(), link.TuneProcess())
}
