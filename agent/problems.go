package agent

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/nft"
	"github.com/peervip/peervip/node"
)

const (
	// conflictLasts is how long a conflict of names is told after it was last seen.
	// Gossip repeats it every few seconds.
	conflictLasts = 30 * time.Second
	// claimLasts is the same of a VIP that another host has: it answers when it is asked.
	claimLasts = 2 * time.Minute
	// lately is how long ago something may have been counted to be a problem still. What
	// is over is in the log.
	lately = time.Minute
)

// news is what the shell has heard and the core has no use for: it makes the
// problems that the core does not know. It belongs to the loop.
type news struct {
	specs     map[string]Spec   // of the peers, as they told it
	digests   map[string]uint64 // of their specs, as they announce it
	strange   map[string]string // members that cannot be understood, and why
	conflicts map[string]nameConflict
	joinErr   error // why seeds or lost members were not reached
	guardErr  error // why the guard may be missing

	conntrack                             conntrackTrend
	foreignMAC, ownBeacons, knocks, drops trend
	beacons                               beaconTrends
	host                                  hostCounts
	troubles                              troubles
	noiseRate                             rate
	waiting                               waitingLog
}

type nameConflict struct {
	gossip.Conflict
	seen node.Time
}

func newNews(log *slog.Logger) news {
	return news{specs: map[string]Spec{}, digests: map[string]uint64{}, strange: map[string]string{}, conflicts: map[string]nameConflict{}, troubles: newTroubles(log)}
}

// forget is for a member that is gone.
func (n *news) forget(name string) {
	delete(n.specs, name)
	delete(n.digests, name)
	delete(n.strange, name)
}

// announced is for a member that runs the spec with that digest. What it told of
// its spec before may be out of date, and so may be who could not be reached: the
// next round of joining says.
func (n *news) announced(name string, digest uint64) {
	delete(n.strange, name)
	if before, ok := n.digests[name]; ok && before != digest {
		delete(n.specs, name)
	}
	n.digests[name] = digest
	n.joinErr = nil
}

func (n *news) toldSpec(name string, s Spec) { n.specs[name] = s }

// conflict says whether it is a new one.
func (n *news) conflict(c gossip.Conflict, now node.Time) bool {
	old, ok := n.conflicts[c.Name]
	n.conflicts[c.Name] = nameConflict{c, now}
	return !ok || now-old.seen > conflictLasts
}

// measures are the counts that may be problems.
type measures struct {
	counters *nft.Counters // nil: the kernel did not say, or was not asked
	knocks   uint64        // of strangers at the gossip port
	conflict error         // another host has taken a VIP for its own
	faults   []string      // of the host's settings
	misled   []string      // checks that pass though clients are refused
	outlook  outlook
	table    *nft.Conntrack // nil: the kernel did not say
	logErr   error          // the log is lost
}

// measured are those that cost next to nothing.
func (a *agent) measured(ctx context.Context) measures {
	m := measures{
		knocks: a.cluster.Stats().OtherKey, conflict: a.wire.Conflict(claimLasts), faults: a.wire.Faults(), misled: a.misled(ctx),
		outlook: a.loop.beacons.outlook(),
	}
	if table, err := a.conntrack(); err == nil {
		m.table = &table
	}
	if a.opts.LogErr != nil {
		m.logErr = a.opts.LogErr()
	}
	return m
}

// measure takes them all.
func (a *agent) measure(ctx context.Context) (measures, error) {
	m := a.measured(ctx)
	counters, err := a.loop.kernel.counters(ctx)
	if err == nil {
		m.counters = &counters
	}
	return m, err
}

// problems are the core's and the shell's own, in words. It must be asked now and then
// though nobody wants to know, since what has grown since the last time has grown lately.
func (l *loop) problems(s node.Snapshot, m measures) *problemList {
	var list problemList
	for _, text := range s.Problems {
		list.list = append(list.list, problem{text: text, logged: slices.Contains(s.Noticed, text), waits: text == s.Waits})
	}
	for _, one := range s.Strangers {
		list.addAlert("strangers on the wire", "%s", one.Problem)
	}
	add := list.add
	n, now := &l.news, l.now()
	for _, peer := range s.Nodes {
		if spec, ok := n.specs[peer.Name]; ok && peer.Alive {
			lines := l.cfg.Spec.Diff(spec)
			for _, line := range lines {
				add("%s has another spec: %s", peer.Name, line)
			}
			if lines == nil && n.digests[peer.Name] != l.cfg.Spec.digest() {
				add("%s has another spec: it sets something that this version does not know; run the same version here, or leave that out there", peer.Name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(n.strange)) {
		list.addLogged("%s", n.strange[name])
	}
	maps.DeleteFunc(n.conflicts, func(_ string, c nameConflict) bool { return now-c.seen > conflictLasts })
	for _, name := range slices.Sorted(maps.Keys(n.conflicts)) {
		list.addLogged("two nodes are named %s, at %s and at %s: give one of the two another name", name, n.conflicts[name].Known, n.conflicts[name].Other)
	}
	if m.conflict != nil {
		list.addLogged("%v", m.conflict)
	}
	if n.joinErr != nil {
		add("not all seeds are reached: %v", n.joinErr)
	}
	if n.guardErr != nil {
		list.addLogged("the guard against unfiltered packets may be missing: %v; tried again each second", n.guardErr)
	}
	if err := l.saver.err(); err != nil {
		list.addLogged("a restart would forget whether this node is drained: %v; tried again every %v", err, l.saver.again)
	}
	l.hostProblems(m, &list)
	for _, line := range m.misled {
		add("%s", line)
	}
	if m.logErr != nil {
		add("the log of this agent is lost: %v; restart the agent where somebody reads its log", m.logErr)
	}
	l.beaconProblems(s.Attached, m.outlook, &list)
	if m.table != nil {
		n.conntrack.see(*m.table, now)
	}
	n.conntrack.problems(alive(s.Nodes), now, &list)
	if c := m.counters; c != nil {
		n.ownBeacons.grew(m.outlook.own()+c.Beacons.BySource[l.cfg.Address].Packets, now)
		n.foreignMAC.grew(c.ForeignMAC.Packets, now)
	}
	if own := &n.ownBeacons; own.recent(now, lately) {
		add("%d of this node's own beacons came back to it: there is a loop on the wire, or another host with the address %s, or somebody forges it", own.last, l.cfg.Address)
	}
	if foreign := &n.foreignMAC; foreign.recent(now, lately) {
		add("%s for the VIP came to this node's own MAC and past the buckets: a client or router holds a stale neighbour entry for it; clear it there", node.Count(foreign.last, "packets"))
	}
	if n.knocks.grew(m.knocks, now) {
		add("%s since the start somebody without this cluster's key knocked at port %d: give it the right key file, or keep it out", node.Count(m.knocks, "times"), l.cfg.Port)
	}
	if c := l.queue.drops(); n.drops.grew(c, now) {
		add("%s of peers dropped, because this node could not keep up: is its processor overloaded?", node.Count(c, "messages"))
	}
	return &list
}

// rate says how fast a count grows.
type rate struct {
	last      uint64
	at        node.Time // when it was last taken
	perSecond uint64
}

// of takes the count as it is now, each second or so, and returns how much it grows in a
// second.
func (r *rate) of(count uint64, now node.Time) uint64 {
	if since := now - r.at; since >= time.Second {
		r.perSecond = uint64(float64(count-min(r.last, count))/since.Seconds() + 0.5)
		r.last, r.at = count, now
	}
	return r.perSecond
}

// trend says whether a count has grown lately.
type trend struct {
	last uint64
	at   node.Time // of the last growth; 0: never
}

// grew takes the count as it is now. A count that falls has started anew.
func (t *trend) grew(count uint64, now node.Time) bool { return t.grewWithin(count, now, lately) }

// grewWithin says whether it has grown within that time.
func (t *trend) grewWithin(count uint64, now node.Time, within time.Duration) bool {
	if count > t.last {
		t.at = now
	}
	t.last = count
	return t.recent(now, within)
}

// recent says whether it had grown within that time when the count was last taken.
func (t *trend) recent(now node.Time, within time.Duration) bool {
	return t.at > 0 && now-t.at < within
}
