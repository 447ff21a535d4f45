package node

// The formats of beacons that this program reads. It writes one of them: a beacon is one
// frame for all, so it is the highest that all read who may hear it.
const (
	BeaconMin = 1
	BeaconMax = 2
)

// Formats are the highest formats that a program reads, of messages and of beacons; 0: it
// is not known, and it is taken to read the lowest only.
type Formats struct{ Message, Beacon uint8 }

// readable reports whether this program reads that format, and its sender one of this
// program's.
func readable(format, lowest, highest uint8) bool {
	return format >= BeaconMin && format <= BeaconMax && lowest <= BeaconMax && highest >= BeaconMin
}

// formatPatience is for how long all must have read a higher format before it is spoken. A
// node with an older program that comes and goes does not make the format flap, and one
// that has just started has time to hear who is there.
const formatPatience = Time(5e9)

// formatChoice is in which format a node speaks. Those who may hear it are all whom
// gossip lists, and all whose beacons have come, until liveness forgets them: a joiner
// with an older program is heard before gossip lists it, and a node that is dead and still
// listed may be back. As long as nothing is known of one of them, it reads the lowest.
//
// Each node chooses for itself, since everybody reads all formats of its range at any time:
// a node that still speaks the lower one, or already, stops nobody.
type formatChoice struct {
	spoken uint8 // 0: nothing has been sent yet
	// moreSince is since when all have read a higher one; 0: they do not.
	moreSince Time
}

// choose returns the format of the next beacon, given the highest that all read.
func (f *formatChoice) choose(now, patience Time, all uint8) uint8 {
	all = max(all, BeaconMin)
	if f.spoken == 0 {
		f.spoken = BeaconMin
	}
	switch {
	case all <= f.spoken:
		f.spoken, f.moreSince = all, 0
	case f.moreSince == 0:
		f.moreSince = max(now, 1)
	case now-f.moreSince >= patience:
		f.spoken, f.moreSince = all, 0
	}
	return f.spoken
}

// Reads tells which formats an incarnation reads at the most, as gossip says.
func (l *Liveness) Reads(inc Incarnation, highest uint8) {
	if n := l.find(inc); n != nil && highest > 0 {
		n.reads = highest
	}
}

// allRead is the highest format that all read whom this node knows, and it itself.
func (l *Liveness) allRead(own uint8) uint8 {
	all := own
	for _, n := range l.neighbours {
		if n.standing != Gone {
			all = min(all, n.reads)
		}
	}
	return all
}

// Reads tells which formats of beacons a member reads at the most; 0: gossip does not say.
func (h *Herald) Reads(inc Incarnation, highest uint8) { h.live.Reads(inc, highest) }

// Format is the format in which this node speaks now, and LeastReader a node that keeps
// it from speaking a higher one; "": nobody does.
func (h *Herald) Format() (format uint8, leastReader string) {
	for _, n := range h.live.neighbours {
		if n.standing != Gone && n.reads < h.reads {
			leastReader = n.Name
			break
		}
	}
	return max(h.format.spoken, BeaconMin), leastReader
}
