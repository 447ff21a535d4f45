package gossip

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// prey is a node for fuzzing, which reaches nobody: what it is told to dial fails, and
// a datagram from a loopback address leaves no host.
type prey struct {
	*Gossip
	*recorder
	key   []byte
	label []byte // the envelope's head
}

func newPrey(f *testing.F) *prey {
	c := &cluster{t: f, at: loopback(), key: newKey()}
	cfg := c.config(1)
	cfg.Seeds, cfg.Log = nil, quiet()
	cfg.dial = func(context.Context, *net.Dialer, string) (net.Conn, error) { return nil, errors.New("no network") }
	r := &recorder{state: []byte("state")}
	g, err := New(cfg, r)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { g.Close() })
	return &prey{g, r, c.key, append([]byte{244, byte(len(cfg.Cluster))}, cfg.Cluster...)}
}

// seal encrypts as memberlist does, version 1 (security.go).
func (t *prey) seal(plain, authenticated []byte) []byte {
	block, err := aes.NewCipher(t.key)
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	nonce := make([]byte, gcm.NonceSize())
	return gcm.Seal(append([]byte{1}, nonce...), nonce, plain, authenticated)
}

func (t *prey) sealedPacket(plain []byte) []byte {
	return append(t.label[:len(t.label):len(t.label)], t.seal(plain, t.label[2:])...)
}

func (t *prey) sealedStream(plain []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{10}, uint32(1+12+len(plain)+16))
	return append(append(t.label[:len(t.label):len(t.label)], head...), t.seal(plain, append(head[:5:5], t.label[2:]...))...)
}

// unmoved checks that nothing was believed.
func (t *prey) unmoved(tt *testing.T) {
	for _, e := range t.all() {
		tt.Fatalf("%#v came of what has no key", e)
	}
}

// seeds are what envelopes are made of: kinds of messages, lengths that lie, a label cut
// short, compression.
func seeds(f *testing.F, t *prey) {
	for _, sealed := range []bool{false, true} {
		for _, b := range [][]byte{
			nil, {0}, {244}, {244, 0}, {244, 4, 't'}, t.label, append(t.label[:len(t.label):len(t.label)], 10),
			append(t.label[:len(t.label):len(t.label)], 10, 0xff, 0xff, 0xff, 0xff), append(t.label[:len(t.label):len(t.label)], 1),
			{7}, {7, 2, 0, 1, 0, 1, 8, 8}, {7, 255}, // compound
			{9, 0x82, 0xa4, 'A', 'l', 'g', 'o', 0, 0xa3, 'B', 'u', 'f', 0xa1, 0}, // compressed
			append([]byte{8}, goodbyeFrame("n2", nil)...), append([]byte{8}, payloadsFrame([]byte("hello"))...), {8, 2, 0xff, 0xff},
			{12, 0, 0, 0, 0, 8}, // a checksum
			{6, 0x83, 0xa5, 'N', 'o', 'd', 'e', 's', 0xce, 0x7f, 0xff, 0xff, 0xff}, // states
		} {
			f.Add(sealed, b)
		}
	}
}

func FuzzADatagramOfGossip(f *testing.F) {
	members, strangers := newPrey(f), newPrey(f)
	seeds(f, strangers)
	f.Fuzz(func(tt *testing.T, sealed bool, b []byte) {
		t := strangers
		if sealed {
			t = members
			b = t.sealedPacket(b)
		}
		if len(b) == 0 {
			return
		}
		for range 2 { // the second is taken when the first was handled
			t.transport.packets <- &memberlist.Packet{Buf: append([]byte(nil), b...), From: net.UDPAddrFromAddrPort(t.cfg.Bind), Timestamp: time.Now()}
		}
		if !sealed {
			t.unmoved(tt)
		}
	})
}

func FuzzAStreamOfGossip(f *testing.F) {
	members, strangers := newPrey(f), newPrey(f)
	seeds(f, strangers)
	for _, t := range []*prey{members, strangers} {
		t.transport.calls.rate, t.transport.calls.most = 1e9, 1e9
	}
	f.Fuzz(func(tt *testing.T, sealed bool, b []byte) {
		t := strangers
		if sealed {
			t = members
			if len(b) == 0 {
				return // memberlist panics; who has the key may do anything, and says something
			}
			b = t.sealedStream(b)
		}
		here, there := net.Pipe()
		in := t.transport.admit(there)
		if in == nil {
			tt.Fatal("there is no place, though each connection ends")
		}
		t.transport.streams <- in
		here.SetDeadline(time.Now().Add(patience))
		go func() {
			here.Write(b)
			time.Sleep(time.Millisecond)
			here.Close()
		}()
		io.Copy(io.Discard, here)
		for end := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
			t.transport.mu.Lock()
			open := len(t.transport.conns)
			t.transport.mu.Unlock()
			if open == 0 {
				break
			}
			if time.Now().After(end) {
				tt.Fatal("the connection stays open")
			}
		}
		if !sealed {
			t.unmoved(tt)
		}
	})
}

// What a member says comes to NotifyMsg without an envelope.
func FuzzAMessageOfGossip(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(goodbyeFrame("n2", nil))
	f.Add(payloadsFrame([]byte("a"), nil, make([]byte, 300)))
	f.Add([]byte{2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &Gossip{log: newLimitedLog(quiet())}
		r := &recorder{}
		g.table = newTable("n1", nil, r.Event)
		delegate{g}.NotifyMsg(b)
		total := 0
		for _, e := range r.all() {
			if m, ok := e.(Message); ok {
				total += len(m.Payload)
			}
		}
		if total > len(b) {
			t.Errorf("%d bytes of payload in a message of %d", total, len(b))
		}
	})
}
