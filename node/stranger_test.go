package node

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func address(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, last}) }

// heads are the beacons of one sender, with the numbers of their time.
type heads struct {
	from    netip.Addr
	head    BeaconHead
	differs Difference
}

func headsOf(last byte, serves bool) *heads {
	return &heads{address(last), BeaconHead{Format: 1, Lowest: 1, Highest: 1, Tag: 7, Nonce: uint64(last), Serves: serves}, DiffersKey}
}

// sends has the strangers hear so many beacons, one each interval, and returns the time
// after that.
func (h *heads) sends(s *Strangers, now Time, count int, every Time) Time {
	for range count {
		h.head.Seq = SeqAt(now)
		s.Hear(now, h.from, h.head, h.differs)
		now += every
	}
	return now
}

func addresses(list []Stranger) (all []netip.Addr) {
	for _, s := range list {
		all = append(all, s.Address)
	}
	return all
}

func TestFiveBeaconsWithinASecondMakeAStranger(t *testing.T) {
	s, h := NewStrangers(20*ms), headsOf(9, true)
	now := h.sends(s, time.Second, 4, 20*ms)
	if len(s.List(now)) != 0 {
		t.Errorf("%v after four beacons", s.List(now))
	}
	now = h.sends(s, now, 1, 20*ms)
	list := s.List(now)
	if len(list) != 1 || list[0].Address != address(9) || !list[0].Serves || list[0].Differs != DiffersKey {
		t.Fatalf("%+v after five beacons", list)
	}
	h.head.Serves = false
	now = h.sends(s, now, int(strangerLasts/(20*ms))-2, 20*ms)
	if !s.List(now)[0].Serves {
		t.Error("whoever sends in its name would make it one that does not serve")
	}
	now = h.sends(s, now, 2, 20*ms)
	now = h.sends(s, now, 1, 0)
	if s.List(now)[0].Serves {
		t.Error("it serves no longer, and has said so for long enough")
	}
	if len(s.List(now+strangerLasts-ms)) != 1 || len(s.List(now+strangerLasts)) != 0 {
		t.Error("a stranger ends 3 s after its last beacon, not before")
	}
}

// TestADatagramASecondMakesNoStranger: nor do the same numbers again and again, nor
// copies by the other medium.
func TestADatagramASecondMakesNoStranger(t *testing.T) {
	s := NewStrangers(20 * ms)
	now := headsOf(9, true).sends(s, time.Second, 100, time.Second)
	if len(s.List(now)) != 0 {
		t.Errorf("%v", s.List(now))
	}
	now = headsOf(9, true).sends(s, now, 100, 251*ms)
	if len(s.List(now)) != 0 {
		t.Errorf("four within a second: %v", s.List(now))
	}
	h := headsOf(8, true)
	h.head.Seq = 77
	for range 50 {
		s.Hear(now, h.from, h.head, h.differs)
		h.head.Seq ^= 1 // 76, 77, ...
		now += ms
	}
	if len(s.List(now)) != 0 {
		t.Errorf("the same numbers again: %v", s.List(now))
	}
	h.sends(s, now, 5, 240*ms)
	if len(s.List(now)) != 1 {
		t.Errorf("five within a second: %v", s.List(now))
	}
}

// TestAStrangerIsNotHiddenByAForgedNumber: whoever sends a number in its name that it will
// not reach before the end of days.
func TestAStrangerIsNotHiddenByAForgedNumber(t *testing.T) {
	s, h := NewStrangers(20*ms), headsOf(9, true)
	h.head.Seq = maxSeq
	s.Hear(time.Second, h.from, h.head, h.differs)
	now := h.sends(s, time.Second, 6, 20*ms)
	if len(s.List(now)) != 1 {
		t.Fatal("hidden")
	}
	for range 10 {
		h.head.Seq = maxSeq
		s.Hear(now, h.from, h.head, h.differs)
		now = h.sends(s, now, 50, 20*ms)
	}
	if len(s.List(now)) != 1 {
		t.Error("it has ended, and still sends")
	}
}

// TestAForgerDoesNotDisguiseAStranger: its beacons in the stranger's name neither hide it
// nor have it serve no more, whatever their numbers, and end with the forger.
func TestAForgerDoesNotDisguiseAStranger(t *testing.T) {
	for _, ahead := range []time.Duration{-time.Minute, -500 * ms, 10 * ms, 900 * ms, time.Hour} {
		s, h, forged := NewStrangers(20*ms), headsOf(9, true), headsOf(9, false)
		now := time.Second
		for range 500 { // after each of the stranger's
			now = h.sends(s, now, 1, 20*ms)
			forged.head.Seq = SeqAt(max(0, now+ahead))
			s.Hear(now, forged.from, forged.head, forged.differs)
			if list := s.List(now); now > 1200*ms && (len(list) != 1 || !list[0].Serves) {
				t.Fatalf("%v ahead, after %v: %+v", ahead, now, list)
			}
		}
		h.head.Serves = false
		now = h.sends(s, now, 200, 20*ms)
		if list := s.List(now); len(list) != 1 || list[0].Serves {
			t.Errorf("%v ahead, the stranger alone: %+v", ahead, list)
		}
	}
}

// TestSixteenStrangersAreKept: those who serve first, then the lowest addresses.
func TestSixteenStrangersAreKept(t *testing.T) {
	s := NewStrangers(20 * ms)
	now := time.Second
	for i := range 40 {
		now = headsOf(byte(200-i), i == 3).sends(s, now, 5, ms)
	}
	var want []netip.Addr
	for i := range MaxStrangers - 1 {
		want = append(want, address(byte(161+i)))
	}
	want = append(want, address(197)) // serves
	if got := addresses(s.List(now)); !slices.Equal(got, want) {
		t.Errorf("kept %v\nwant %v", got, want)
	}
}

// TestOneAddressIsOneStranger: a stranger that begins anew, or many nonces of one forger.
func TestOneAddressIsOneStranger(t *testing.T) {
	s := NewStrangers(20 * ms)
	serving := headsOf(9, true)
	now := serving.sends(s, time.Second, 5, ms)
	for i := range 30 {
		other := headsOf(9, false)
		other.head.Nonce = uint64(1000 + i)
		now = other.sends(s, now, 5, ms)
	}
	if list := s.List(now); len(list) != 1 || list[0].Nonce != 9 {
		t.Errorf("%v: the one that serves was replaced", list)
	}
	again := headsOf(9, false)
	again.head.Nonce = 77
	now = again.sends(s, now, 300, 20*ms)
	if list := s.List(now); len(list) != 1 || list[0].Nonce != 77 || list[0].Serves {
		t.Errorf("%v: it has begun anew", list)
	}
}

// TestAnHonestStrangerAmongNoise: a thousand datagrams a second of all kinds of senders do
// not hide one that sends as a node does.
func TestAnHonestStrangerAmongNoise(t *testing.T) {
	s, h := NewStrangers(20*ms), headsOf(250, true)
	now := time.Second
	for i := range 1000 {
		noise := headsOf(byte(i%100), false)
		noise.head.Nonce = uint64(i)
		now = noise.sends(s, now, 1, ms)
		if i%20 == 0 {
			h.sends(s, now, 1, 0)
		}
	}
	if got := addresses(s.List(now)); !slices.Equal(got, []netip.Addr{address(250)}) {
		t.Errorf("%v", got)
	}
	if len(s.suspects) > maxSuspects {
		t.Errorf("%d suspects", len(s.suspects))
	}
	if n := s.Noise(now + time.Second); n.Count != 1000 || n.Last.Address == address(250) {
		t.Errorf("noise %+v, want a thousand", n)
	}
}

func BenchmarkStrangersNoise(b *testing.B) {
	s := NewStrangers(20 * ms)
	now := time.Second
	for i := range b.N {
		now = (&heads{address(byte(i)), BeaconHead{Nonce: uint64(i)}, DiffersKey}).sends(s, now, 1, 20*time.Microsecond)
	}
}

// TestTheHeadOfABeaconIsReadInClear: in all formats, whoever has signed it.
func TestTheHeadOfABeaconIsReadInClear(t *testing.T) {
	ours := NewBeaconCodec("web", []BeaconKey{testKey(1), testKey(2)})
	for _, c := range []struct {
		name    string
		cluster string
		key     byte
		change  func(datagram []byte)
		want    Difference
		serves  bool
	}{
		{"this cluster's", "web", 1, nil, 0, true},
		{"by the second key", "web", 2, nil, 0, true},
		{"another key", "web", 3, nil, DiffersKey, true},
		{"another name", "wbe", 1, nil, DiffersName, true},
		{"both", "wbe", 3, nil, DiffersName | DiffersKey, true},
		{"joining", "wbe", 1, func(d []byte) { d[58] = byte(Joining) }, DiffersName, false},
		{"another format", "web", 1, func(d []byte) { d[4], d[5], d[6] = 9, 8, 9 }, DiffersFormat, false},
		{"another format that serves", "web", 1, func(d []byte) { d[4], d[5], d[6], d[7] = 9, 8, 9, 4 }, DiffersFormat, true},
		{"another format and key", "web", 3, func(d []byte) { d[4], d[5], d[6], d[7] = 9, 8, 9, 4 }, DiffersFormat | DiffersKey, true},
		{"it does not read this format", "web", 1, func(d []byte) { d[5], d[6] = 8, 9 }, DiffersFormat, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			datagram := signed(t, c.cluster, c.key, c.change)
			head, ok := ReadBeaconHead(datagram)
			if !ok || head.Nonce != fullBeacon().Nonce || head.Seq != fullBeacon().Seq || head.Serves != c.serves {
				t.Errorf("%v %+v", ok, head)
			}
			if got := ours.Difference(head, datagram); got != c.want {
				t.Errorf("differs by %b, want %b", got, c.want)
			}
			unreadable := Stranger{Differs: c.want}.Unreadable()
			if unreadable != (c.want == DiffersFormat) {
				t.Errorf("unreadable: %v", unreadable)
			}
		})
	}
	for name, datagram := range map[string][]byte{
		"nothing": nil, "short": signed(t, "web", 1, nil)[:beaconFullHead+beaconSignature-1],
		"of format 1, without a phase": signed(t, "web", 1, nil)[:beaconFullHead+beaconSignature],
		"long":                         make([]byte, MaxBeacon+1), "of something else": make([]byte, 200),
	} {
		if _, ok := ReadBeaconHead(datagram); ok {
			t.Errorf("%s: it has a head", name)
		}
	}
}

// signed is a beacon that was changed before it was signed.
func signed(t *testing.T, cluster string, key byte, change func([]byte)) []byte {
	t.Helper()
	c := NewBeaconCodec(cluster, []BeaconKey{testKey(key)})
	datagram, err := c.Append(nil, fullBeacon())
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		body := datagram[:len(datagram)-beaconSignature]
		change(body)
		datagram = append(body, c.sign(c.keys[0], body)...)
	}
	return datagram
}

func FuzzReadBeaconHead(f *testing.F) {
	datagram, _ := NewBeaconCodec("web", nil).Append(nil, fullBeacon())
	f.Add(datagram)
	f.Add(datagram[:beaconFullHead+beaconSignature])
	c, s := NewBeaconCodec("web", nil), NewStrangers(20*ms)
	f.Fuzz(func(t *testing.T, b []byte) {
		head, ok := ReadBeaconHead(b)
		if !ok {
			return
		}
		differs := c.Difference(head, b)
		if want := binary.BigEndian.Uint64(b[16:]); head.Nonce != want {
			t.Errorf("nonce %x, want %x", head.Nonce, want)
		}
		s.Hear(time.Second, address(1), head, differs)
		s.List(time.Second)
	})
}
