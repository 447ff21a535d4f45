package node

import (
	"net/netip"
	"slices"
)

// Stranger is somebody on this node's segment who sends beacons to the VIP, or to this
// node, that are none of its cluster's: of another key, another cluster name, or another
// format. Mostly it is a node with a typo in its configuration. Whoever can send frames
// can make one up, so nothing that a stranger says is believed but that it is there.
//
// (A verified sender that is no member is no stranger: see Core.unlisted.)
type Stranger struct {
	Address netip.Addr
	// MAC is what the segment says of the address; "": nothing.
	MAC     string
	Tag     uint64 // of its cluster's name
	Nonce   uint64
	Format  uint8
	Differs Difference
	// Serves: it says that it has buckets, or may have some, or has said so in the last
	// strangerLasts: whoever sends beacons in its name cannot make it one that does not.
	Serves bool
}

// Unreadable reports whether it has this cluster's name and key, and only its format is
// another: then it is a member that cannot be understood, and no stranger.
func (s Stranger) Unreadable() bool { return s.Differs == DiffersFormat }

const (
	// strangerBeacons must come, each with another number, within strangerWithin before
	// their sender is a stranger: a datagram now and then makes none.
	strangerBeacons = 5
	strangerWithin  = Time(1e9)
	// strangerLasts is how long a stranger is one after its last beacon.
	strangerLasts = Time(3e9)
	// MaxStrangers are kept, by address: those who serve before the others, and of
	// equals those of the lowest addresses.
	MaxStrangers = 16
	// maxSuspects bounds the senders of which too few beacons have come yet.
	maxSuspects = 64
)

// Strangers tells who is a stranger. What it keeps and does for a beacon is bounded,
// whatever comes.
type Strangers struct {
	within, lasts Time
	kept          []sender // in rising order of their addresses, one of each
	suspects      []sender
	noise         Noise
}

// Noise are beacons of senders that have not become strangers: too few came.
type Noise struct {
	Count uint64
	Last  Stranger // who sent the last one
}

// sender is an address, a tag and a nonce, and what has come from there.
type sender struct {
	Stranger
	lastAt   Time
	servedAt Time                  // when it last said that it serves
	at       [strangerBeacons]Time // when the last ones came, as a ring
	seqs     [strangerBeacons]Seq  // and their numbers
	count    int
}

// NewStrangers returns what knows of no stranger yet. With an interval between beacons of
// which fewer than 5 fit into a second, strangers have longer.
func NewStrangers(interval Time) *Strangers {
	within := max(strangerWithin, (strangerBeacons+1)*interval)
	return &Strangers{within: within, lasts: max(strangerLasts, 2*within)}
}

// Hear takes a beacon that is not of this cluster, or cannot be read. It reports whether
// List has something new.
func (s *Strangers) Hear(now Time, from netip.Addr, head BeaconHead, differs Difference) (news bool) {
	s.forget(now)
	heard := sender{Stranger: Stranger{Address: from, Tag: head.Tag, Nonce: head.Nonce, Format: head.Format, Differs: differs, Serves: head.Serves}}
	if i := find(s.kept, &heard); i >= 0 {
		before := s.kept[i].Stranger
		s.kept[i].take(now, &heard, head.Seq, s.lasts)
		return s.kept[i].Stranger != before
	}
	i := find(s.suspects, &heard)
	if i < 0 {
		i = s.suspect(heard)
	}
	s.suspects[i].take(now, &heard, head.Seq, s.lasts)
	if s.suspects[i].steady(now, s.within) && s.keep(s.suspects[i]) {
		s.suspects = slices.Delete(s.suspects, i, i+1)
		return true
	}
	if s.suspects[i].count > strangerBeacons { // the first ones count when it ends
		s.noise.Count++
		s.noise.Last = heard.Stranger
	}
	return false
}

// Noise returns what has come of noise so far.
func (s *Strangers) Noise(now Time) Noise {
	s.forget(now)
	return s.noise
}

// drop gives a suspect up, and counts what it has sent.
func (s *Strangers) drop(suspect sender) {
	s.noise.Count += uint64(min(suspect.count, strangerBeacons))
	s.noise.Last = suspect.Stranger
}

// List returns the strangers, in rising order of their addresses.
func (s *Strangers) List(now Time) []Stranger {
	s.forget(now)
	list := make([]Stranger, 0, len(s.kept))
	for i := range s.kept {
		list = append(list, s.kept[i].Stranger)
	}
	return list
}

// forget ends those of whom nothing has come for too long.
func (s *Strangers) forget(now Time) {
	s.kept = slices.DeleteFunc(s.kept, func(k sender) bool { return now-k.lastAt >= s.lasts })
	s.suspects = slices.DeleteFunc(s.suspects, func(k sender) bool {
		if now-k.lastAt < s.within {
			return false
		}
		s.drop(k)
		return true
	})
}

// suspect begins to count the beacons of a sender and returns its place. If there is no
// room, whoever has been silent for the longest gives it.
func (s *Strangers) suspect(heard sender) int {
	if len(s.suspects) < maxSuspects {
		s.suspects = append(s.suspects, heard)
		return len(s.suspects) - 1
	}
	oldest := 0
	for i := range s.suspects {
		if s.suspects[i].lastAt < s.suspects[oldest].lastAt {
			oldest = i
		}
	}
	s.drop(s.suspects[oldest])
	s.suspects[oldest] = heard
	return oldest
}

// keep makes a sender a stranger, if there is room for it. One that begins anew at an
// address takes the place of the one that was there, but if that serves and it does not.
func (s *Strangers) keep(new sender) bool {
	i := slices.IndexFunc(s.kept, func(k sender) bool { return k.Address == new.Address })
	if i < 0 && len(s.kept) == MaxStrangers {
		i = 0
		for j := range s.kept {
			if s.kept[i].before(&s.kept[j]) {
				i = j
			}
		}
		if !new.before(&s.kept[i]) {
			return false
		}
	} else if i >= 0 && s.kept[i].Serves && !new.Serves {
		return false
	}
	if i >= 0 {
		s.kept = slices.Delete(s.kept, i, i+1)
	}
	at, _ := slices.BinarySearchFunc(s.kept, new.Address, func(k sender, a netip.Addr) int { return k.Address.Compare(a) })
	s.kept = slices.Insert(s.kept, at, new)
	return true
}

// find returns the place of the sender in the list, or -1. Who has a key of this cluster
// is never the same as who has none and says to be it.
func find(list []sender, s *sender) int {
	for i := range list {
		if o := &list[i]; s.Nonce == o.Nonce && s.Address == o.Address && s.Tag == o.Tag && (s.Differs^o.Differs)&DiffersKey == 0 {
			return i
		}
	}
	return -1
}

// before reports whether it is kept rather than the other one.
func (s *sender) before(o *sender) bool {
	if s.Serves != o.Serves {
		return s.Serves
	}
	return s.Address.Less(o.Address)
}

// take counts a beacon of the sender, but not one that has just come by the other medium.
// Whether the numbers rise does not matter: whoever sends in the stranger's name, with a
// number that it will not reach, would hide it.
func (s *sender) take(now Time, heard *sender, seq Seq, lasts Time) {
	if slices.Contains(s.seqs[:min(s.count, strangerBeacons)], seq) {
		return
	}
	served := s.Serves && now-s.servedAt < lasts
	s.Stranger, s.lastAt = heard.Stranger, now
	if s.Serves {
		s.servedAt = now
	}
	s.Serves = s.Serves || served
	s.at[s.count%strangerBeacons], s.seqs[s.count%strangerBeacons] = now, seq
	s.count++
}

// steady reports whether enough beacons have come within that time.
func (s *sender) steady(now, within Time) bool {
	return s.count >= strangerBeacons && now-s.at[s.count%strangerBeacons] <= within
}
