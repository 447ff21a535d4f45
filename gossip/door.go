package gossip

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"
)

// memberlist reads up to 20 MB from a connection before it decrypts any of it, and
// takes as many connections as come. So the transport bounds both for whoever has not
// shown the key: a node in trouble is late with its beacons, and then its peers take
// its buckets.
//
// Places are for addresses. Who is a member, was one, or is a seed is known: its places
// are its own, and no stranger can use them up, since a forged source address never
// completes a connection. A joiner may be a stranger: it needs a place for as long as
// one exchange takes, so where there are too many strangers the newest has precedence.
const (
	// strangerPlaces is how many connections of unknown addresses are open at a time.
	strangerPlaces = 64
	// strangerPlacesEach and knownPlacesEach are how many there are of one address. A
	// member that has much to say opens the next before the last was read.
	strangerPlacesEach = 4
	knownPlacesEach    = 64

	// strangerBytes is the most that is read of a connection of a stranger: the state
	// of a node that was a member of a large cluster fits in.
	strangerBytes = 256 << 10
	// strangersASecond is how many connections of strangers are taken in a second, and
	// strangersAtOnce in a moment. Each costs a tenth of a millisecond.
	strangersASecond = 200
	strangersAtOnce  = 100
	// strangerFreely is what is read of a stranger as it comes, a joiner's whole state
	// as a rule. The rest shares strangerPace bytes a second.
	strangerFreely = 16 << 10
	strangerPace   = 2 << 20
	// knownBytes is the most that is read of any other connection.
	knownBytes = MaxPayload + 1<<20
	// largeAtOnce is how many of those may have sent more than largeFrom at a time. The
	// others wait, and their peers with them.
	largeAtOnce = 2
	largeFrom   = 128 << 10
)

// errTooMuch ends a connection that has sent more than its peer may.
var errTooMuch = errors.New("more bytes than this peer may send")

// admit takes an incoming connection; nil: there is no place for it, and it is closed.
func (t *transport) admit(c net.Conn) *conn {
	from := addrOfConn(c)
	known := t.known(from)
	limit := strangerBytes
	if known {
		limit = knownBytes
	}
	in := &conn{Conn: c, t: t, from: from, inbound: true, stranger: !known, left: limit}
	surplus := t.surplus.Load()
	taken := known || t.calls.take(time.Now(), 1)
	if taken {
		taken = t.take(in)
	} else {
		t.surplus.Add(1)
	}
	if t.surplus.Load() != surplus {
		t.log.limited(slog.LevelWarn, "more connections to gossip's port than there are places for: some are closed unheard", "the last from", from)
	}
	if !taken {
		abort(c)
		return nil
	}
	return in
}

func (t *transport) take(in *conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns == nil || !t.hasPlace(in) {
		return false
	}
	t.conns[in] = struct{}{}
	t.places[in.from]++
	if in.stranger {
		t.strangers = append(t.strangers, in)
	}
	return true
}

// hasPlace says whether there is a place for the connection, and makes one for a
// stranger's by closing the oldest that has not got an answer yet. It needs mu.
func (t *transport) hasPlace(in *conn) bool {
	each := knownPlacesEach
	if in.stranger {
		each = strangerPlacesEach
	}
	if t.places[in.from] >= each {
		t.surplus.Add(1)
		return false
	}
	if !in.stranger || len(t.strangers) < strangerPlaces {
		return true
	}
	t.surplus.Add(1)
	oldest := slices.IndexFunc(t.strangers, func(c *conn) bool { return !c.answered })
	if oldest < 0 {
		return false
	}
	c := t.strangers[oldest]
	t.forget(c)
	abort(c.Conn) // whoever reads it sees that, and closes it too
	return true
}

// forget frees the connection's place, once. It needs mu.
func (t *transport) forget(c *conn) {
	if _, there := t.conns[c]; !there {
		return
	}
	delete(t.conns, c)
	if c.large {
		<-t.large
	}
	if !c.inbound {
		return
	}
	if t.places[c.from]--; t.places[c.from] == 0 {
		delete(t.places, c.from)
	}
	if i := slices.Index(t.strangers, c); i >= 0 {
		t.strangers = slices.Delete(t.strangers, i, i+1)
	}
}

// abort closes a connection by a reset: it leaves nothing behind in this kernel.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0) // fails only on a socket that is closed
	}
	c.Close()
}

func addrOfConn(c net.Conn) netip.Addr {
	if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// Read reads no more than the peer may send.
func (c *conn) Read(b []byte) (int, error) {
	if c.left == 0 {
		c.t.log.limited(slog.LevelWarn, "a connection to gossip's port was closed: it sent too much", "from", c.from)
		return 0, errTooMuch
	}
	small := !c.stranger && !c.large
	if small && c.got >= largeFrom {
		if !c.enlarge() {
			return 0, net.ErrClosed
		}
		small = false
	}
	most := c.left
	if small {
		most = min(most, largeFrom-c.got)
	}
	n, err := c.Conn.Read(b[:min(len(b), most)])
	c.got, c.left = c.got+n, c.left-n
	if c.stranger && c.got > strangerFreely {
		c.t.pauseFor(c.t.pace.owe(time.Now(), min(n, c.got-strangerFreely)))
	}
	return n, err
}

// enlarge waits for a place among those who have much to say; false: the connection
// was closed meanwhile.
func (c *conn) enlarge() bool {
	select {
	case c.t.large <- struct{}{}:
	case <-c.t.ctx.Done():
		return false
	}
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	if _, there := c.t.conns[c]; !there {
		<-c.t.large
		return false
	}
	c.large = true
	return true
}
