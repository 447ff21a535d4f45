package node

// Bulletin is the core's word for beacons, and whether it needs the lease.
type Bulletin struct {
	Phase  Phase
	Weight int    // in tenths
	Unfit  uint64 // bits of services by number
	View   uint64 // digest
	Claims uint64 // version of the statement that says all this
	CutOff bool
	// Empty: see Beacon.
	Empty bool
	// Lease: the kernel shall accept packets, and what it accepts is what the core
	// knows of.
	Lease bool
	// Epoch is the last one that the core has heard of, see HeldDead.
	Epoch uint64
	// Mute: this node has no wire, and says nothing by beacons until it has. What is
	// left of the wire may carry beacons still, and nothing else that it would say.
	Mute bool
}

// sameNews reports whether two bulletins say the same to the peers.
func (b Bulletin) sameNews(o Bulletin) bool {
	b.Lease, b.Epoch, o.Lease, o.Epoch = false, 0, false, 0
	return b == o
}

// Herald stands between the core and the beacons: it says in beacons what the core
// has said last, tells the core what beacons have changed, and decides which of
// them may prolong the lease and when a lease may be armed. It is quick, and the
// core may be slow: that is why it is not part of it. It must be used by one
// goroutine at a time, and called at least once each interval.
type Herald struct {
	self   Incarnation
	detect Detect
	tick   Time // of the kernel's clock
	live   *Liveness
	now    Time

	word    Bulletin
	saidAt  Time // when the core last said so; 0: never
	muted   bool
	retired bool
	mutedAt Time // since when it must not speak; 0: it may
	// wireBack: this node had no wire, has one again, and does not serve yet. The silence
	// that it has seen was its own, so it holds nobody dead who speaks.
	wireBack bool

	// epoch counts how often this node had to yield. What the core said in an earlier
	// epoch gives no right to a lease.
	epoch uint64
	// leaseUntil is until when the kernel holds the lease at the least; 0: it is gone.
	leaseUntil Time
	lapsed     Time // when it was found to have run out; 0: it has not
	lapses     Lapses
	tried      Time // when a beacon last had the mark, or was sent because it might
	unicastAt  Time // when everybody is due for a beacon by unicast
	sentAt     Time // when the last beacon was made; 0: never
	number     Seq  // of that beacon
	format     formatChoice
	reads      uint8 // the highest format that this program reads
	resumedAt  Time  // when beacons began again after a silence of D; 0: they never stopped
	servingAt  Time  // since when beacons say that this node serves; 0: they do not

	told     map[Incarnation]Bulletin // by beacons, as the core knows it
	heralded Heralded                 // as the core knows it
	cutSince Time                     // when that was last otherwise than heralded; 0: it is not
	cutAt    Time                     // when that began, if heralded says that it is
	attached Time                     // when the wire could first be heard; 0: not yet
	events   []Event
}

// Lapses counts the pauses: leases that ran out though the core needed them.
type Lapses struct {
	Count   uint64
	Longest Time
	Last    Time // when the last one ended; 0: never
	LastFor Time // how long it was
}

// NewHerald returns the herald of a node. Tick is the period of the kernel's clock
// (1/HZ): it keeps a lease for up to two of them less.
func NewHerald(self Incarnation, detect Detect, tick Time) *Herald {
	return &Herald{
		self: self, detect: detect, tick: tick, live: NewLiveness(self, detect), reads: BeaconMax, told: map[Incarnation]Bulletin{},
	}
}

func (h *Herald) at(now Time) Time {
	h.now = max(h.now, now)
	return h.now
}

// Say takes the core's word. It is also the sign that the core makes progress:
// without it for D, there are no more beacons. News is worth a beacon at once; with
// drop the lease is to be dropped at once.
func (h *Herald) Say(now Time, b Bulletin) (news, drop bool) {
	news = !b.sameNews(h.word) || h.saidAt == 0
	drop = h.word.Lease && !b.Lease && h.leaseUntil > 0
	if h.word.Mute && !b.Mute { // it starts anew, as a node does that has just booted
		h.sentAt, h.resumedAt = 0, 0
	}
	h.wireBack = (h.wireBack || h.word.Mute) && !b.Mute && b.Phase == Joining
	h.word, h.saidAt = b, max(h.at(now), 1)
	h.fallSilent()
	if drop {
		h.leaseUntil, h.lapsed = 0, 0
	}
	return news, drop
}

// Know tells of an incarnation that is a member.
func (h *Herald) Know(now Time, inc Incarnation) { h.live.Know(h.at(now), inc) }

// Attend comes before Beacon and Events: it says whether all that has come has been
// heard. While datagrams wait to be read nobody's silence is counted, and nobody is
// held dead because this node is too busy to listen.
func (h *Herald) Attend(now Time, heardAll bool) { h.live.Attend(h.at(now), heardAll) }

// AttendUntil is Attend where it is known until when all that has come has been heard.
func (h *Herald) AttendUntil(now, heard Time) { h.live.AttendUntil(h.at(now), heard) }

// Forget drops an incarnation that has left, or was replaced. Gone: it has said elsewhere
// than in its beacons that it goes, and has nothing.
func (h *Herald) Forget(inc Incarnation, gone bool) {
	h.live.Forget(inc, gone)
	delete(h.told, inc)
}

// Have tells which version of a peer's statement the core has.
func (h *Herald) Have(inc Incarnation, version uint64) { h.live.Have(inc, version) }

// Verify tells the core that an incarnation is not heard of, if that is so: what the core
// was told last may have waited until it had this node forget that incarnation.
func (h *Herald) Verify(inc Incarnation) {
	if h.live.find(inc) == nil {
		h.events = append(h.events, PeerStanding{Incarnation: inc, Standing: Unheard})
	}
}

// Mute silences this node, or ends that: one that is deaf by its own fault must
// not stop the others. Its last beacons say that it hears nobody and does not serve, so
// that nobody waits for its acknowledgement.
func (h *Herald) Mute(muted bool) {
	h.muted = muted
	h.fallSilent()
}

// Retire ends the beacons of a node that has handed everything over, before it says
// goodbye: what came after that would be of a stranger. Its last beacons say that it
// hears nobody, so that nobody waits for its acknowledgement.
func (h *Herald) Retire(now Time) {
	h.at(now)
	h.retired = true
	h.fallSilent()
}

// LastWords is for how long a node that falls silent still says so.
func (d Detect) LastWords() Time { return 2 * d.Interval }

// mute reports whether this node must not speak.
func (h *Herald) mute() bool { return h.muted || h.retired || h.word.Mute }

// fallSilent notes since when this node must not speak.
func (h *Herald) fallSilent() {
	switch {
	case !h.mute():
		h.mutedAt = 0
	case h.mutedAt == 0:
		h.mutedAt = max(h.now, 1)
		h.live.Hush()
	}
}

// Heed is what must be done about a beacon at once.
type Heed struct {
	Kind HearingKind
	// Drop the lease: this node is held dead by one whose word goes before its own.
	Drop bool
	// Kick: send a beacon out of turn.
	Kick bool
}

// Hear takes a beacon whose signature is good. It keeps nothing of it.
func (h *Herald) Hear(now Time, medium Medium, b *Beacon) Heed {
	now = h.at(now)
	h.live.serving = h.word.Phase.Serving() && h.word.Epoch == h.epoch
	hearing := h.live.Hear(now, medium, b)
	heed := Heed{Kind: hearing.Kind}
	if hearing.Believed {
		said := Bulletin{
			Phase: b.Phase, Weight: b.Weight, Unfit: b.Unfit, View: b.View, Claims: b.Claims, CutOff: b.CutOff, Empty: b.Empty && b.Format > 1,
		}
		if old, ok := h.told[b.Incarnation]; !ok || old != said {
			h.told[b.Incarnation] = said
			h.events = append(h.events, PeerSpoke{Incarnation: b.Incarnation, Bulletin: said})
		}
	}
	h.lapse(now)
	switch serves := h.word.Lease && h.word.Phase != Joining; {
	case h.word.Epoch != h.epoch:
	case hearing.Yield && (h.leaseUntil > 0 || serves):
		h.yield(now, b.Name)
		heed.Drop = true
	case hearing.Doubted && h.leaseUntil == 0 && serves:
		// While the lease ran nobody could take over. Now somebody may have, who is heard
		// through this neighbour only and cannot say so itself.
		h.yield(now, "somebody whom "+b.Name+" hears")
		heed.Drop = true
	case h.leaseUntil == 0 && serves:
		if n := h.live.mayHaveLostTo(now); n != nil {
			h.yield(now, n.Name+", which serves and has not heard this node,")
			heed.Drop = true
		}
	}
	if h.needsLease(now) {
		limit := h.live.MarkUntil(now)
		if h.leaseUntil <= now && !h.live.MayArm(now) {
			limit = 0
		}
		if h.detect.Urgent(now, h.tried, limit) {
			h.tried = now
			heed.Kick = true
		}
	}
	return heed
}

// yield takes it that this node was held dead, and that its buckets are another's.
func (h *Herald) yield(now Time, by string) {
	h.epoch++
	h.leaseUntil, h.lapsed = 0, 0
	h.events = append(h.events, HeldDead{Epoch: h.epoch, By: by})
	h.live.Forgive(now)
}

// progress reports whether the core has spoken lately.
func (h *Herald) progress(now Time) bool {
	return h.saidAt > 0 && now-h.saidAt < h.detect.D && !h.mute()
}

// lastWords reports whether a node that is mute still has to say so.
func (h *Herald) lastWords(now Time) bool {
	return h.mute() && h.sentAt > 0 && now < h.mutedAt+h.detect.LastWords() && now-h.saidAt < h.detect.D
}

// needsLease reports whether the core wants the lease, and knows what it wants.
func (h *Herald) needsLease(now Time) bool {
	return h.word.Lease && h.word.Epoch == h.epoch && h.progress(now)
}

// Beacon makes the next beacon in b, whose memory it uses again. Marked: it may
// prolong the lease. If not ok, none may be sent now.
func (h *Herald) Beacon(now Time, b *Beacon) (marked, ok bool) {
	now = h.at(now)
	h.lapse(now)
	if !h.progress(now) && !h.lastWords(now) {
		return false, false
	}
	if h.silent(now) {
		h.resumedAt = now
	}
	h.sentAt = now
	if !h.mute() {
		h.live.Speak(now)
	}
	proof, _ := h.live.WireProof(now)
	*b = Beacon{
		Incarnation: h.self, Format: h.format.choose(now, max(formatPatience, 2*h.detect.D), h.live.allRead(h.reads)),
		Lowest: BeaconMin, Highest: h.reads,
		Seq: SeqAt(now), Phase: h.word.Phase, Weight: h.word.Weight, Unfit: h.word.Unfit,
		View: h.word.View, Claims: h.word.Claims, CutOff: h.word.CutOff, Empty: h.word.Empty, WireProof: proof,
		Peers: h.live.AppendAcks(b.Peers[:0], now), Brief: b.Brief[:0],
	}
	if b.Format > 1 {
		b.Unit, b.Seq = h.detect.unit(), h.detect.numberAt(now, h.number)
	}
	h.number = b.Seq
	if h.word.Epoch != h.epoch || h.mute() && !h.retired {
		b.Phase = Joining // the core will say so too
	}
	switch {
	case !b.Phase.Serving(), b.Phase == Drained:
		h.servingAt = 0
	case h.servingAt == 0:
		h.servingAt = now
	}
	if h.mute() {
		b.WireProof, b.Peers = false, b.Peers[:0]
	}
	if b.Format > 1 {
		h.live.condense(now, b)
	}
	h.live.sent.add(b.Seq)
	if h.leaseUntil > now && h.needsLease(now) && now < h.live.MarkUntil(now) {
		h.leaseUntil, h.tried = now+h.held(h.detect.L), now
		return true, true
	}
	return false, true
}

// silent reports whether this node's last beacon is so long ago that others may hold
// it dead by right. They may also have stopped to speak to it, so that it must first
// speak for longer than the period of unicast before their silence means that there is nobody.
func (h *Herald) silent(now Time) bool { return h.sentAt > 0 && now-h.sentAt >= h.detect.D }

// held is how long the kernel keeps a lease of that length at the least.
func (h *Herald) held(lease Time) Time { return max(lease-2*h.tick, 0) }

// lapse notices that the lease has run out.
func (h *Herald) lapse(now Time) {
	if h.leaseUntil > 0 && now >= h.leaseUntil {
		h.lapsed, h.leaseUntil = h.leaseUntil, 0
	}
}

// Lapse tells that the kernel does not hold the lease, whatever was thought.
func (h *Herald) Lapse(now Time) {
	if h.at(now); h.leaseUntil > 0 {
		h.leaseUntil, h.lapsed = 0, h.now
	}
}

// ArmBy reports whether a lease is missing and may be armed, and by when: the
// kernel must have done it before. It is asked right before that.
func (h *Herald) ArmBy(now Time) (by Time, ok bool) {
	now = h.at(now)
	h.lapse(now)
	if h.leaseUntil > 0 || !h.needsLease(now) || !h.live.MayArm(now) ||
		h.silent(now) || h.resumedAt > 0 && now-h.resumedAt < max(h.detect.D, unicastPeriod+2*h.detect.Interval) {
		return 0, false
	}
	return h.live.proofUntil(now, h.detect.D), true
}

// Armed tells that the kernel has armed the lease for ArmFor, no earlier than at
// that time.
func (h *Herald) Armed(now, at Time) {
	now = h.at(now)
	h.leaseUntil = at + h.held(h.detect.ArmFor())
	if h.lapsed > 0 {
		h.lapses.Count++
		h.lapses.LastFor, h.lapses.Last = now-h.lapsed, now
		h.lapses.Longest = max(h.lapses.Longest, h.lapses.LastFor)
		h.lapsed = 0
	}
	h.lapse(now)
}

// ArmFor is for how long a lease is armed. The beacon that follows at once
// prolongs it; a shorter time forgives a kernel that is late.
func (d Detect) ArmFor() Time { return d.L / 2 / Time(1e6) * Time(1e6) }

// Events returns what the core has to be told, the oldest first.
func (h *Herald) Events(now Time) []Event {
	now = h.at(now)
	h.lapse(now)
	if h.wireBack {
		h.live.Forgive(now)
	}
	var events []Event
	for _, c := range h.live.Changes(now) {
		events = append(events, PeerStanding{Incarnation: c.Incarnation, Standing: c.To})
		// What it says may be what it said before it was silent, and is no news then; of one
		// that is no member the core has forgotten it.
		if said, ok := h.told[c.Incarnation]; ok && c.To == Alive {
			events = append(events, PeerSpoke{Incarnation: c.Incarnation, Bulletin: said})
		}
	}
	for _, inc := range h.live.hearsayChanges(now) {
		events = append(events, PeerStanding{Incarnation: inc, Standing: Alive, Hearsay: h.live.find(inc).hearsay})
	}
	events = append(events, h.events...)
	h.events = h.events[:0]
	next := Heralded{
		Lease: h.leaseUntil > 0, CutOff: h.cutOff(now), Barred: h.barred(now), Unknown: h.unknown(now), Apart: h.apart(now),
		Unheeded: h.live.Unheeded(now), Uninformed: h.live.Uninformed(now), Deaf: h.live.deafPairs(now),
	}
	if next != h.heralded {
		if next.CutOff && !h.heralded.CutOff {
			h.cutAt = now
		}
		h.heralded = next
		events = append(events, next)
	}
	return events
}

// Attached tells that the VIP is up: until then nothing that comes on the wire is heard.
func (h *Herald) Attached(now Time) {
	if h.attached == 0 {
		h.attached = max(h.at(now), 1)
	}
}

// Deadline is when Events may next have something to tell though nothing is heard.
func (h *Herald) Deadline(now Time) Time {
	now = h.at(now)
	next := h.live.Deadline(now)
	if h.leaseUntil > now {
		next = min(next, h.leaseUntil)
	}
	return next
}

// AppendUnicast appends to buf to whom the beacon that was made last should go by
// unicast too: to those who may not get it on the wire, and to everybody once a second.
// A node without the lease that it needs speaks to everybody: they may have ceased
// to listen to it. So does one that has just begun to serve, until it may take over from
// the dead: whoever it does not hear must have had every chance to hear of it.
func (h *Herald) AppendUnicast(buf []Incarnation, now Time) []Incarnation {
	now = h.at(now)
	all := h.retired || h.needsLease(now) && h.leaseUntil == 0 || h.servingAt > 0 && now-h.servingAt <= 2*h.detect.D
	if now >= h.unicastAt {
		h.unicastAt, all = now+unicastPeriod, true
	}
	return h.live.appendUnicast(buf, now, all)
}

// unicastPeriod is how often the second medium is used though the first one works.
const unicastPeriod = Time(1e9)
