package node

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkStep: what single steps take in a large cluster at rest.
func BenchmarkStep(b *testing.B) {
	for _, size := range []struct{ nodes, services, buckets int }{{3, 1, 1024}, {64, 1, 1024}, {64, 1, 16384}, {64, 16, 1024}} {
		for _, c := range []struct {
			name  string
			event func(d *crowd, i int) Event
		}{
			{"tick", func(*crowd, int) Event { return Tick{} }},
			{"statement", func(d *crowd, _ int) Event { return d.says(1, func(*Statement) {}) }},
			{"new view by a weight", func(d *crowd, i int) Event {
				return d.says(1, func(s *Statement) { s.Weight = 10 + i%2 })
			}},
			{"new view by a drain", func(d *crowd, i int) Event {
				return d.says(1, func(s *Statement) { s.Phase = []Phase{Active, Draining}[i%2] })
			}},
		} {
			b.Run(fmt.Sprintf("%s, %d nodes, %d services, %d buckets", c.name, size.nodes, size.services, size.buckets), func(b *testing.B) {
				d := newCrowd(b, size.nodes, size.services, size.buckets)
				i := 0
				var took time.Duration
				views, last := 0, uint64(0)
				for b.Loop() {
					ev := c.event(d, i)
					took += processor(func() { d.step(ev) })
					i++
					if v := d.core.view.Digest(); v != last {
						views, last = views+1, v
					}
				}
				b.ReportMetric(float64(views)/float64(b.N), "views/op")
				b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// crowd is a node among many that serve, all with their share.
type crowd struct {
	core *Core
	now  Time
	said []*Statement
}

func newCrowd(b *testing.B, nodes, services, buckets int) *crowd {
	cfg := Config{
		Incarnation: Incarnation{"n00", 1}, Weight: 100, Buckets: buckets, SpecDigest: 1, SpecRevision: 1,
		Timing: DefaultTiming(200 * ms),
	}
	cfg.Timing.Gather = 0 // each change is a view at once
	for i := range services {
		cfg.Services = append(cfg.Services, Service{Name: fmt.Sprintf("s%d", i), Linger: true})
	}
	d := &crowd{core: New(cfg), now: time.Second}
	d.step(Started{})
	d.step(FlowsFound{Live: cfg.newSet()})
	d.step(WireChanged{OK: true, Forwards: true})
	var members []Member
	for i := range nodes {
		members = append(members, Member{Incarnation: Incarnation{fmt.Sprintf("n%02d", i), uint64(i + 1)}, Weight: 10, Phase: Active})
	}
	v := NewView(members)
	table := v.place(d.core.placer, 1)[0].table
	for i, m := range members {
		claims := cfg.newSet()
		for bucket := range table.Buckets(m.Name).All() {
			for service := range services {
				claims.Add(service*buckets + bucket)
			}
		}
		d.said = append(d.said, &Statement{
			Incarnation: m.Incarnation, Phase: Active, Weight: 10, View: v.Digest(), Claims: claims, Linger: cfg.newSet(),
		})
		if i > 0 {
			d.step(PeerAlive{Incarnation: m.Incarnation, SpecRevision: 1, SpecDigest: 1})
			d.step(d.says(i, func(*Statement) {}))
		}
	}
	d.step(SeedsTried{})
	d.now += 6 * time.Second
	d.step(Tick{})
	d.step(Attached{})
	for range 3 {
		for i := 1; i < nodes; i++ {
			d.step(d.says(i, func(*Statement) {}))
			ack := &Ack{Nonce: 1, Version: d.core.said.Version}
			d.step(Received{&Message{From: d.said[i].Incarnation, To: 1, Said: d.said[i].Version, Ack: ack}})
		}
		if d.core.open != nil {
			d.step(Committed{ID: d.core.open.ID})
		}
	}
	if want := d.said[0].Claims; !d.core.kernel.Equal(want) {
		b.Fatalf("the node has %d slots, want %d", d.core.kernel.Count(), want.Count())
	}
	return d
}

func (d *crowd) step(ev Event) {
	d.now += 10 * time.Microsecond
	d.core.Step(d.now, ev)
}

// says is the next statement of a peer.
func (d *crowd) says(i int, change func(*Statement)) Event {
	s := *d.said[i]
	s.Version++
	change(&s)
	d.said[i] = &s
	m := &Message{From: s.Incarnation, To: 1, Said: s.Version, Delta: &Delta{Statement: s}}
	return Received{m}
}
