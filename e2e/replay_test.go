package e2e

import (
	"bytes"
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
)

// recording is all that the agents of a cluster have said to each other.
type recording struct {
	datagrams [][]byte // frames, in their order
	streams   map[streamID]map[uint32][]byte
}

type streamID struct {
	port uint16 // the caller's
	from netip.Addr
	to   netip.Addr
}

func (r *recording) keep(frame []byte) {
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	ip, _ := packet.NetworkLayer().(*layers.IPv4)
	switch t := packet.TransportLayer().(type) {
	case *layers.UDP:
		if t.DstPort == lab.GossipPort || t.DstPort == lab.BeaconPort {
			r.datagrams = append(r.datagrams, frame)
		}
	case *layers.TCP:
		if t.DstPort != lab.GossipPort || len(t.Payload) == 0 {
			return
		}
		from, _ := netip.AddrFromSlice(ip.SrcIP)
		to, _ := netip.AddrFromSlice(ip.DstIP)
		id := streamID{uint16(t.SrcPort), from, to}
		if r.streams[id] == nil {
			r.streams[id] = map[uint32][]byte{}
		}
		r.streams[id][t.Seq] = bytes.Clone(t.Payload)
	}
}

// bytes is what the caller has said; a sequence number that wraps is not looked for.
func (r *recording) bytes(id streamID) []byte {
	var all []byte
	for _, seq := range slices.Sorted(maps.Keys(r.streams[id])) {
		all = append(all, r.streams[id][seq]...)
	}
	return all
}

// Who has recorded everything over a leave, a death, a rejoin and a restart, and sends it
// all again, moves nothing and makes nobody pause: not in its order, not the streams
// first, not in reverse.
func TestARecordedLifeMovesNothing(t *testing.T) {
	l := cluster(t, 3)
	leaver, mortal := l.Nodes[2], l.Nodes[1]
	others := l.Nodes[:2]

	r := &recording{streams: map[streamID]map[uint32][]byte{}}
	ctx, stop := context.WithCancel(t.Context())
	var tapped sync.WaitGroup
	tapped.Go(func() {
		if err := l.Tap(ctx, r.keep); err != nil {
			t.Error(err)
		}
	})
	must(t, leaver.Stop(patiently(t)))
	left := time.Now()
	settle(t, l, others...)
	must(t, mortal.Kill())
	settle(t, l, l.Nodes[0])
	must(t, mortal.Start())
	settle(t, l, others...)
	must(t, unix.Kill(mortal.PID(), unix.SIGUSR2))
	must(t, mortal.WaitExit(patiently(t)))
	must(t, mortal.Start())
	settle(t, l, others...)
	// memberlist forgets who was away for longer than this, and then believes the old
	// word of a leave again.
	time.Sleep(time.Until(left.Add(31 * time.Second)))
	must(t, leaver.Start())
	settle(t, l, l.Nodes...)
	stop()
	tapped.Wait()

	ns, addrs, err := l.Stranger(1)
	must(t, err)
	for _, frame := range r.datagrams {
		copy(frame[6:12], net.HardwareAddr{0x02, 0x77, 0, 0, 0, 0xfd}) // else the switch believes that the node has moved
	}
	sendDatagrams := func() {
		const rate = 5000
		n := len(r.datagrams)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second*time.Duration(n)/rate+100*time.Millisecond)
		defer cancel()
		_, err := ns.Flood(ctx, "eth0", rate, func(i int) []byte { return r.datagrams[i%n] })
		must(t, err)
	}
	sendStreams := func() {
		must(t, ns.Do(func() error {
			for id := range r.streams {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: addrs[0].AsSlice()}, Timeout: time.Second}
				c, err := d.Dial("tcp4", netip.AddrPortFrom(id.to, lab.GossipPort).String())
				if err != nil {
					continue // it has no place for more of this host
				}
				c.Write(r.bytes(id))
				time.Sleep(100 * time.Millisecond) // more than a few in a second are none of a joiner
				c.Close()
			}
			return nil
		}))
	}
	tr := watch(t, l, l.Nodes...)
	marks := map[*lab.Node]int{}
	for _, n := range l.Nodes {
		marks[n] = len(n.Log())
	}
	t.Logf("%d datagrams and %d streams", len(r.datagrams), len(r.streams))
	if len(r.datagrams) == 0 || len(r.streams) == 0 {
		t.Fatal("nothing was recorded")
	}
	sendStreams() // a goodbye counts for some seconds
	sendDatagrams()
	sendStreams()
	slices.Reverse(r.datagrams)
	sendDatagrams()
	time.Sleep(2 * time.Second)
	for _, n := range l.Nodes {
		log := n.Log()[marks[n]:]
		for _, bad := range []string{"is dead", "has left", "giving up", "taking"} {
			if strings.Contains(log, bad) {
				t.Errorf("%s says %q", n.Name, bad)
			}
		}
	}
	tr.unmovedBy(t, "the recording")
	tr.restored(t)
}
